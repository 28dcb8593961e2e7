//! The StatefulSet of a tier.

use k8s_openapi::{
    api::{
        apps::v1::{
            StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
        },
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};

use super::{Running, Template, metadata};
use crate::{
    claims,
    names::{ANNOTATION_INPUTS, DATA_VOLUME, Tier},
    validate::Validated,
};

/// The StatefulSet of a tier. Pods start together and are replaced only by the operator ([`crate::roll`]).
pub fn stateful_set(validated: &Validated, running: &Running, tier: Tier, template: Template) -> StatefulSet {
    let live = running.stateful_sets.get(&tier);
    let mut metadata = metadata(validated, validated.identity.tier(tier), tier);
    metadata.annotations = Some([(ANNOTATION_INPUTS.to_owned(), template.inputs)].into());
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            replicas: Some(match tier {
                Tier::Cassandra => validated.size(tier).max(running.cassandra_pods_min),
                Tier::ZooKeeper | Tier::Replica => validated.size(tier),
            }),
            service_name: Some(validated.identity.nodes(tier)),
            selector: LabelSelector { match_labels: Some(validated.identity.selector(tier)), ..Default::default() },
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                ..Default::default()
            }),
            // Volumes outlive the StatefulSet, which growth deletes and creates again.
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                when_deleted: Some("Retain".to_owned()),
                when_scaled: Some("Retain".to_owned()),
            }),
            revision_history_limit: Some(3),
            template: template.pod,
            volume_claim_templates: claim_template(validated, tier, live).map(|claim| vec![claim]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The claim template of a tier with volumes. It can never change: it carries nothing that a version could change, and of a
/// StatefulSet that exists the size that it has. Another size comes with another StatefulSet, which is made once the claims
/// have grown ([`crate::claims`]): one that can't be had holds nothing else up.
fn claim_template(validated: &Validated, tier: Tier, live: Option<&StatefulSet>) -> Option<PersistentVolumeClaim> {
    let storage = validated.storage(tier)?;
    let size = live.and_then(claims::template_size).cloned().unwrap_or_else(|| storage.size.quantity());
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA_VOLUME.to_owned()),
            labels: Some(validated.identity.selector(tier)),
            ..Default::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), size)].into()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    })
}
