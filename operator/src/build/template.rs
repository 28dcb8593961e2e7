//! What the pods of a tier are made from, and keeping it under a newer operator.
//!
//! A pod template and the configuration that its pods read belong together: a newer operator that keeps the one must keep
//! the other. Both are recorded in a ConfigMap of their own, so that they outlive the StatefulSet, which growth deletes and
//! makes again.

use std::collections::BTreeMap;

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PodTemplateSpec},
};
use kube::ResourceExt;
use serde_json::json;

use super::{Phase, config, metadata, pod};
use crate::{
    names::{ANNOTATION_INPUTS, Identity, Tier, digest},
    validate::Validated,
};

/// Version of the form in which [`inputs`] are digested. Raised whenever the same wishes would be written otherwise, as
/// when a field with a default is added, or a default is another one; a test holds digests of this version.
const INPUTS_VERSION: u32 = 3;

/// Keys of the record.
const RECORD_INPUTS: &str = "inputs";
const RECORD_POD: &str = "pod.json";
const RECORD_CONFIG: &str = "config.json";

/// What the pods of a tier are made from.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// Version and digest of what the user asks of them.
    pub inputs: String,
    /// The pod template.
    pub pod: PodTemplateSpec,
    /// The configuration that they read.
    pub config: BTreeMap<String, String>,
}

impl Template {
    /// As this operator makes it.
    fn current(validated: &Validated, tier: Tier) -> Self {
        let config = config::data(validated, tier);
        Self { inputs: inputs(validated, tier), pod: pod::template(validated, tier, &config), config }
    }

    /// As it should be: that of before, while this operator keeps templates and nothing else is asked for.
    pub fn choose(validated: &Validated, before: Option<&Self>, tier: Tier) -> Self {
        let wanted = inputs(validated, tier);
        match before.filter(|before| validated.hold_templates && alike(&before.inputs, &wanted, validated.seen)) {
            Some(before) => Self { inputs: wanted, ..before.clone() },
            None => Self::current(validated, tier),
        }
    }

    /// As it was before: as recorded, or as it is found where there is no record.
    pub fn before(
        identity: &Identity,
        tier: Tier,
        config_maps: &[ConfigMap],
        set: Option<&StatefulSet>,
    ) -> Option<Self> {
        let data = |name: String| config_maps.iter().find(|map| map.name_any() == name)?.data.as_ref();
        let recorded = data(identity.template(tier)).and_then(|data| {
            Some(Self {
                inputs: data.get(RECORD_INPUTS)?.clone(),
                pod: serde_json::from_str(data.get(RECORD_POD)?).ok()?,
                config: serde_json::from_str(data.get(RECORD_CONFIG)?).ok()?,
            })
        });
        recorded.or_else(|| {
            let set = set?;
            Some(Self {
                inputs: set.annotations().get(ANNOTATION_INPUTS)?.clone(),
                pod: set.spec.as_ref()?.template.clone(),
                config: data(identity.tier(tier))?.clone(),
            })
        })
    }

    /// The record of it.
    pub fn record(&self, validated: &Validated, tier: Tier) -> ConfigMap {
        let data = [
            (RECORD_INPUTS, self.inputs.clone()),
            (RECORD_POD, json!(self.pod).to_string()),
            (RECORD_CONFIG, json!(self.config).to_string()),
        ];
        ConfigMap {
            metadata: metadata(validated, validated.identity.template(tier), tier),
            data: Some(data.map(|(key, value)| (key.to_owned(), value)).into()),
            ..Default::default()
        }
    }
}

/// Whether two inputs are the same wishes. Digests of different versions can't be compared; then `seen` tells: the spec is
/// the one that the status of before speaks of.
fn alike(before: &str, wanted: &str, seen: bool) -> bool {
    let version = |inputs: &str| inputs.split_once(':').map(|(version, _)| version.to_owned());
    before == wanted || (seen && version(before) != version(wanted))
}

/// Version and digest of what the user asks of a tier's pods. It stays the same when only the operator changes.
fn inputs(validated: &Validated, tier: Tier) -> String {
    let (spec, image) = (&validated.spec, validated.image(tier));
    let mut value = match tier {
        Tier::ZooKeeper => {
            let z = &spec.zookeeper;
            json!([image, z.size, z.resources, z.pod, z.config])
        }
        Tier::Cassandra => {
            let c = &spec.cassandra;
            json!([image, c.mode, c.resources, c.pod, c.config])
        }
        Tier::Replica => {
            let r = &spec.replica;
            // With ZooKeeper's memory goes what the log may hold.
            let log_max_bytes = config::log_max_bytes(validated);
            json!([image, r.resources, r.pod, r.config, spec.ordering, spec.zookeeper.size, log_max_bytes])
        }
    };
    // only where it is asked for: what nobody asks for changes no digest
    if let (Some(secret), Some(wishes)) = (validated.superuser_secret(), value.as_array_mut()) {
        match tier {
            Tier::ZooKeeper => {}
            Tier::Cassandra => wishes.push(json!("authentication")),
            Tier::Replica => wishes.push(json!(secret)),
        }
    }
    if let (Some(_), Tier::Replica, Some(wishes)) = (validated.tls_secret(), tier, value.as_array_mut()) {
        wishes.push(json!(spec.tls));
    }
    if let (Phase::Both | Phase::On, Tier::Cassandra | Tier::Replica, Some(wishes)) =
        (validated.inside, tier, value.as_array_mut())
    {
        wishes.push(json!(format!("inside: {:?}", validated.inside)));
    }
    if let (Phase::Both | Phase::On, Tier::Replica, Some(wishes)) = (validated.log_access, tier, value.as_array_mut()) {
        wishes.push(json!(format!("log access: {:?}", validated.log_access)));
    }
    format!("{INPUTS_VERSION}:{}", digest(value.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{testing, validate::validate};

    /// A digest that changes with the operator alone would restart databases at its upgrade.
    #[test]
    fn digests_of_this_version_are_known() {
        let validated = validate(&testing::resource("orders"), &testing::defaults("1")).unwrap();
        assert_eq!(
            Tier::ALL.map(|tier| inputs(&validated, tier)),
            ["3:48b40aa846322017", "3:82009a3771a45a9a", "3:93f8a3854fcd1a69"],
            "if the spec has a new field, raise INPUTS_VERSION, then put the new digests here"
        );
    }

    #[test]
    fn wishes_are_compared_across_versions() {
        for (before, wanted, seen, expected) in [
            ("1:a", "1:a", false, true),
            ("1:a", "1:b", true, false), // changed, though the status was written
            ("1:a", "2:b", true, true),
            ("1:a", "2:b", false, false), // changed while the operator was upgraded
            ("a", "1:a", true, true),
        ] {
            assert_eq!(alike(before, wanted, seen), expected, "{before} {wanted} {seen}");
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let validated = validate(&testing::resource("orders"), &testing::defaults("1")).unwrap();
        for tier in Tier::ALL {
            let template = Template::current(&validated, tier);
            let record = template.record(&validated, tier);
            let read = Template::before(&validated.identity, tier, &[record], None);
            assert_eq!(read, Some(template));
        }
    }
}
