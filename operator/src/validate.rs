//! From a resource as written to one that can be built. Pure.
//!
//! The API server has enforced the schema and its rules; what is left is to settle which images and which templates are
//! meant, and to refuse what no rule can see.

use crate::{
    authority::Purpose,
    build::Phase,
    crd::{CassandraMode, Images, Pull, Release, ReplicatedDB, ReplicatedDBSpec},
    names::{ANNOTATION_UPGRADE, Identity, Tier},
};
use kube::ResourceExt;

/// Version of the pod templates that [`crate::build`] makes. Raised whenever a template changes in a way that would
/// restart pods; the golden files of the tests hang on it.
pub const TEMPLATE_VERSION: i32 = 2;

/// Longest value of the upgrade annotation that is looked at.
const UPGRADE_LENGTH_MAX: usize = 128;

/// What an operator adds to what a resource says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Defaults {
    /// Images for resources that name none and have none recorded.
    pub images: Images,
    /// How these are pulled.
    pub pull: Pull,
    /// The namespace that the operator runs in.
    pub namespace: String,
}

/// A resource that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    /// Who it is.
    pub identity: Identity,
    /// Its generation.
    pub generation: i64,
    /// What is wished.
    pub spec: ReplicatedDBSpec,
    /// Images to run, those named in the spec included.
    pub images: Images,
    /// What to record as in use once it has been applied.
    pub release: Release,
    /// The namespace that the operator runs in.
    pub operator_namespace: String,
    /// How pods that are made now speak with each other: as is wished, once all can. Decided by [`crate::build`].
    pub inside: Phase,
    /// Whether they log in at ZooKeeper, and keep others away there. As that.
    pub log_access: Phase,
    /// The spec is the one that the status of before speaks of.
    pub seen: bool,
    /// Pods keep the templates of an earlier operator until asked, or until their spec changes.
    pub hold_templates: bool,
    /// This operator has other images or templates than those in use.
    pub upgrade_available: bool,
}

/// Why a resource can't be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// It lacks a name, namespace or UID, so it did not come from an API server.
    #[error("the resource has no name, namespace or UID")]
    NotStored,
    /// A quantity that the schema let through is not understood.
    #[error("{field}: {source}")]
    Amount {
        /// Path in the manifest.
        field: &'static str,
        /// What is wrong with it.
        source: crate::crd::AmountError,
    },
}

/// Validates `rdb`; `defaults` are those of this operator.
pub fn validate(rdb: &ReplicatedDB, defaults: &Defaults) -> Result<Validated, Invalid> {
    let identity = Identity::of(rdb).ok_or(Invalid::NotStored)?;
    for (field, size) in [
        ("spec.zookeeper.storage.size", &rdb.spec.zookeeper.storage.size),
        ("spec.cassandra.storage.size", &rdb.spec.cassandra.storage.size),
    ] {
        size.milli().map_err(|source| Invalid::Amount { field, source })?;
    }
    let asked = rdb
        .annotations()
        .get(ANNOTATION_UPGRADE)
        .map(|value| value.chars().take(UPGRADE_LENGTH_MAX).collect::<String>());
    let recorded = rdb.status.as_ref().and_then(|status| status.release.as_ref());
    let current = Release {
        images: defaults.images.clone(),
        pull: defaults.pull.clone(),
        template_version: TEMPLATE_VERSION,
        secures: true,
        upgrade: asked.clone(),
    };
    let mut release = match recorded {
        // an upgrade is asked for by a new value, not by taking the annotation away
        Some(old) if asked.is_none() || old.upgrade == asked => old.clone(),
        _ => current.clone(),
    };
    // recorded by an operator that did not know of it, and the same images as this one's
    let known =
        release.images.cassandra == defaults.images.cassandra && release.images.replica == defaults.images.replica;
    release.secures |= known;
    let images = named(&rdb.spec, &release.images);
    let upgrade_available = release.template_version != TEMPLATE_VERSION
        || images != named(&rdb.spec, &defaults.images)
        || release.pull != defaults.pull;
    let observed = rdb.status.as_ref().and_then(|status| status.observed_generation);
    Ok(Validated {
        identity,
        generation: rdb.metadata.generation.unwrap_or_default(),
        spec: rdb.spec.clone(),
        images,
        hold_templates: release.template_version != TEMPLATE_VERSION,
        upgrade_available,
        release,
        operator_namespace: defaults.namespace.clone(),
        inside: Phase::default(),
        log_access: Phase::default(),
        seen: observed.is_some() && observed == rdb.metadata.generation,
    })
}

/// The images that a spec names, the others from `otherwise`.
fn named(spec: &ReplicatedDBSpec, otherwise: &Images) -> Images {
    let pick = |image: &Option<String>, otherwise: &String| image.clone().unwrap_or_else(|| otherwise.clone());
    Images {
        zookeeper: pick(&spec.zookeeper.image, &otherwise.zookeeper),
        cassandra: pick(&spec.cassandra.image, &otherwise.cassandra),
        replica: pick(&spec.replica.image, &otherwise.replica),
    }
}

impl Validated {
    /// Pods of a tier.
    pub fn size(&self, tier: Tier) -> i32 {
        match tier {
            Tier::ZooKeeper => self.spec.zookeeper.size,
            Tier::Cassandra if self.shared() => 1,
            Tier::Cassandra | Tier::Replica => self.spec.replicas,
        }
    }

    /// All replicas work with one Cassandra.
    pub fn shared(&self) -> bool {
        self.spec.cassandra.mode == CassandraMode::Shared
    }

    /// Name of the Secret with the superuser, while clients log in.
    pub fn superuser_secret(&self) -> Option<String> {
        let authentication = &self.spec.authentication;
        let named = || authentication.superuser_secret.name.clone();
        authentication.enabled.then(|| named().unwrap_or_else(|| self.identity.superuser()))
    }

    /// Name of the Secret with the certificate that clients are shown, while they use TLS.
    pub fn tls_secret(&self) -> Option<String> {
        let tls = &self.spec.tls;
        tls.enabled.then(|| tls.secret_name.clone().unwrap_or_else(|| self.identity.certificate()))
    }

    /// Replicas and store agents are to speak TLS with each other, and can.
    pub fn speaks_tls_inside(&self) -> bool {
        self.spec.tls.internal && self.secures(Tier::Cassandra) && self.secures(Tier::Replica)
    }

    /// Replicas are to keep others from what they have in ZooKeeper, and can.
    pub fn restricts_log(&self) -> bool {
        self.spec.zookeeper.restricted && self.secures(Tier::Replica)
    }

    /// What is wished cannot be had of the images in use, whose programs take no notice of it.
    pub fn lacks_security(&self) -> bool {
        let (tls, spec) = (self.speaks_tls_inside(), &self.spec);
        tls != spec.tls.internal || self.restricts_log() != spec.zookeeper.restricted
    }

    /// Whether the programs in a tier's image know TLS with their like, and logins at ZooKeeper. Of an image that the spec names it is taken
    /// for granted.
    fn secures(&self, tier: Tier) -> bool {
        self.release.secures || self.pull(tier).is_none()
    }

    /// Certificates that are the operator's to make, by an authority of its own.
    pub fn made_certificates(&self) -> Vec<Purpose> {
        let clients = self.spec.tls.enabled && self.spec.tls.secret_name.is_none();
        let wanted = [(Purpose::Clients, clients), (Purpose::Peers, self.speaks_tls_inside())];
        wanted.into_iter().filter_map(|(purpose, wanted)| wanted.then_some(purpose)).collect()
    }

    /// Image of a tier.
    pub fn image(&self, tier: Tier) -> &str {
        match tier {
            Tier::ZooKeeper => &self.images.zookeeper,
            Tier::Cassandra => &self.images.cassandra,
            Tier::Replica => &self.images.replica,
        }
    }

    /// How a tier's image is pulled, where it is the operator's.
    pub fn pull(&self, tier: Tier) -> Option<&Pull> {
        let named = match tier {
            Tier::ZooKeeper => &self.spec.zookeeper.image,
            Tier::Cassandra => &self.spec.cassandra.image,
            Tier::Replica => &self.spec.replica.image,
        };
        named.is_none().then_some(&self.release.pull)
    }

    /// Volumes of a tier, where it has any.
    pub fn storage(&self, tier: Tier) -> Option<&crate::crd::Storage> {
        match tier {
            Tier::ZooKeeper => Some(&self.spec.zookeeper.storage),
            Tier::Cassandra => Some(&self.spec.cassandra.storage),
            Tier::Replica => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crd::{PullPolicy, ReplicatedDBStatus},
        testing::{self, defaults},
    };

    fn recorded(rdb: &mut ReplicatedDB, release: Release) {
        rdb.status = Some(ReplicatedDBStatus { release: Some(release), ..Default::default() });
    }

    #[test]
    fn a_new_operator_changes_no_image() {
        let mut rdb = testing::resource("orders");
        let first = validate(&rdb, &defaults("1")).unwrap();
        assert_eq!(
            (first.images.clone(), first.upgrade_available, first.hold_templates),
            (defaults("1").images, false, false)
        );
        recorded(&mut rdb, first.release);
        let second = validate(&rdb, &defaults("2")).unwrap();
        assert_eq!((second.images.clone(), second.upgrade_available), (defaults("1").images, true));
        // the spec changes: still the recorded ones, but for the one that it names
        rdb.spec.replica.image = Some("mine:7".into());
        rdb.spec.replicas = 5;
        let third = validate(&rdb, &defaults("2")).unwrap();
        assert_eq!(third.images, Images { replica: "mine:7".into(), ..defaults("1").images });
    }

    #[test]
    fn an_upgrade_is_asked_for_by_a_new_value() {
        let mut rdb = testing::resource("orders");
        recorded(&mut rdb, Release { images: defaults("1").images, ..Default::default() });
        let held = validate(&rdb, &defaults("2")).unwrap();
        assert!(held.hold_templates && held.upgrade_available);
        rdb.annotations_mut().insert(ANNOTATION_UPGRADE.into(), "now".into());
        let upgraded = validate(&rdb, &defaults("2")).unwrap();
        assert_eq!((upgraded.images.clone(), upgraded.hold_templates), (defaults("2").images, false));
        recorded(&mut rdb, upgraded.release);
        assert_eq!(validate(&rdb, &defaults("3")).unwrap().images, defaults("2").images, "the same value asks once");
        rdb.annotations_mut().clear();
        assert_eq!(
            validate(&rdb, &defaults("3")).unwrap().images,
            defaults("2").images,
            "taking it away asks for nothing"
        );
    }

    /// They would take no notice, and could not be understood by those that come after them.
    #[test]
    fn images_of_before_are_not_told_to_keep_secrets() {
        let mut rdb = testing::resource("orders");
        (rdb.spec.tls.internal, rdb.spec.zookeeper.restricted) = (true, true);
        let found = |rdb: &ReplicatedDB, number| {
            let validated = validate(rdb, &defaults(number)).unwrap();
            (validated.speaks_tls_inside(), validated.restricts_log(), validated.lacks_security())
        };
        let able = (true, true, false);
        assert_eq!(found(&rdb, "1"), able, "a new one");
        let before = Release { images: defaults("1").images, template_version: TEMPLATE_VERSION, ..Default::default() };
        recorded(&mut rdb, before);
        assert_eq!(found(&rdb, "2"), (false, false, true));
        assert_eq!(found(&rdb, "1"), able, "they are this operator's");
        rdb.spec.replica.image = Some("mine:7".into());
        assert_eq!(found(&rdb, "2"), (false, true, true));
        rdb.spec.replica.image = None;
        rdb.annotations_mut().insert(ANNOTATION_UPGRADE.into(), "now".into());
        let upgraded = validate(&rdb, &defaults("2")).unwrap();
        assert_eq!(found(&rdb, "2"), able);
        recorded(&mut rdb, upgraded.release);
        assert_eq!(found(&rdb, "3"), able, "later operators know of them");
    }

    /// How images are pulled is part of what was recorded, and is of the operator's images alone.
    #[test]
    fn pulling_is_recorded_with_the_images() {
        let mut rdb = testing::resource("orders");
        rdb.spec.replica.image = Some("mine:7".into());
        let first = validate(&rdb, &defaults("1")).unwrap();
        recorded(&mut rdb, first.release.clone());
        let pull = Pull { policy: PullPolicy::Always, secrets: vec!["registry".into()] };
        let newer = Defaults { pull: pull.clone(), ..defaults("1") };
        let held = validate(&rdb, &newer).unwrap();
        assert_eq!((held.pull(Tier::Cassandra), held.upgrade_available), (Some(&first.release.pull), true));
        rdb.annotations_mut().insert(ANNOTATION_UPGRADE.into(), "now".into());
        let upgraded = validate(&rdb, &newer).unwrap();
        assert_eq!((upgraded.pull(Tier::Cassandra), upgraded.pull(Tier::Replica)), (Some(&pull), None));
    }
}
