//! Volumes: growing them, and who they go with.
//!
//! Growth goes before every health gate, because a full volume is what keeps a pod from being healthy: the claims are
//! resized, then the StatefulSet, whose claim template can't change, is deleted with orphan propagation and a UID
//! precondition; the next reconcile creates it again around the same pods.
//!
//! `onDelete: Delete` puts an owner reference to the `ReplicatedDB` on the claims, and `Retain` takes it off: the garbage
//! collector does the rest. No finalizer, which would hold a namespace's deletion up while no operator runs; and no
//! retention policy of the StatefulSet, which would delete the volumes with a StatefulSet that somebody deletes by hand.

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimCondition, Secret},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use std::cmp::Ordering;

use crate::{
    apply::delete_with,
    crd::{Amount, OnDelete, StorageStatus, compare},
    dereference::{Observed, Standing, standing},
    names::{DATA_VOLUME, FIELD_MANAGER, Identity, Tier, ordinal},
    problem::{Problem, Reason},
    validate::Validated,
};

/// What to do about volumes. Pure outcome of [`plan`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Claims to resize.
    pub grow: Vec<Growth>,
    /// Claims whose owner reference to set or take off.
    pub owners: Vec<Ownership>,
    /// The Secrets', which go with the volumes.
    pub secret_owners: Vec<Ownership>,
    /// StatefulSets to delete, leaving their pods, so that they come back with the wanted claim template; each only once
    /// its claims have grown.
    pub recreate: Vec<(Tier, Box<StatefulSet>)>,
}

/// A claim to resize.
#[derive(Clone, Debug, PartialEq)]
pub struct Growth {
    /// Whose.
    pub tier: Tier,
    /// Name of the claim.
    pub name: String,
    /// UID of the claim.
    pub uid: String,
    /// Its class, where it has one.
    pub class: Option<String>,
    /// The size to ask for.
    pub size: Amount,
    /// It asks for more now: a growth is taken back.
    pub lowers: bool,
}

/// An owner reference to set or take off.
#[derive(Clone, Debug, PartialEq)]
pub struct Ownership {
    /// Name of the object.
    pub name: String,
    /// UID of the object.
    pub uid: String,
    /// Set it, or take it off.
    pub owned: bool,
}

/// What carrying a plan out came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What the user must know of.
    pub problems: Vec<Problem>,
    /// The first error that trying again may mend.
    pub error: Option<kube::Error>,
    /// Objects written or deleted.
    pub writes: u32,
}

/// Decides what to do about volumes.
pub fn plan(validated: &Validated, observed: &Observed) -> Plan {
    let identity = &validated.identity;
    let mut plan = Plan::default();
    for tier in [Tier::ZooKeeper, Tier::Cassandra] {
        let Some(storage) = validated.storage(tier) else { continue };
        let prefix = format!("{DATA_VOLUME}-{}-", identity.tier(tier));
        for claim in observed.claims_of(tier).filter(|claim| claim.name_any().starts_with(&prefix)) {
            let (Some(uid), None) = (claim.uid(), &claim.metadata.deletion_timestamp) else { continue };
            let name = claim.name_any();
            // a volume left behind by scaling down grows when it is used again
            let used = ordinal(&name).is_some_and(|ordinal| ordinal < validated.size(tier));
            let against = |amount: Option<&Quantity>| amount.and_then(|amount| storage.size.compare(amount));
            let more = against(requested(claim)).is_some_and(Ordering::is_gt);
            // A growth that did not come about can be taken back, to anything above what the volume has.
            let less = against(requested(claim)).is_some_and(Ordering::is_lt)
                && against(capacity(claim)).is_some_and(Ordering::is_gt);
            if used && (more || less) {
                let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone());
                plan.grow.push(Growth {
                    tier,
                    name: name.clone(),
                    uid: uid.clone(),
                    class,
                    size: storage.size.clone(),
                    lowers: less,
                });
            }
            let owned = storage.on_delete == OnDelete::Delete;
            if owned != owned_by(&claim.metadata, identity) {
                plan.owners.push(Ownership { name, uid, owned });
            }
        }
        if let Some(set) = observed.stateful_set(tier, identity)
            && standing(&set.metadata, identity) == Standing::Ours
            && template_size(set).and_then(|has| storage.size.compare(has)).is_some_and(Ordering::is_ne)
        {
            plan.recreate.push((tier, Box::new(set.clone())));
        }
    }
    let made = [&observed.authority, &observed.certificate, &observed.peers];
    let secrets = [&observed.secret, &observed.superuser].into_iter().chain(made).flatten();
    plan.secret_owners = secrets.filter_map(|secret| secret_owner(validated, secret)).collect();
    plan
}

/// A Secret goes with the volumes: only when all of them do.
fn secret_owner(validated: &Validated, secret: &Secret) -> Option<Ownership> {
    if standing(&secret.metadata, &validated.identity) != Standing::Free {
        return None; // somebody else's
    }
    let owned = [Tier::ZooKeeper, Tier::Cassandra]
        .into_iter()
        .filter_map(|tier| validated.storage(tier))
        .all(|storage| storage.on_delete == OnDelete::Delete);
    let uid = secret.uid()?;
    (owned != owned_by(&secret.metadata, &validated.identity)).then(|| Ownership {
        name: secret.name_any(),
        uid,
        owned,
    })
}

fn owned_by(object: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta, identity: &Identity) -> bool {
    object.owner_references.iter().flatten().any(|owner| owner.uid == identity.uid)
}

/// What a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")
}

/// What a claim's volume has.
pub fn capacity(claim: &PersistentVolumeClaim) -> Option<&Quantity> {
    claim.status.as_ref()?.capacity.as_ref()?.get("storage")
}

/// What the largest volume of each tier has; what is asked for of one that is not there yet.
pub fn storage(observed: &Observed) -> StorageStatus {
    let largest = |tier| {
        let sizes = observed.claims_of(tier).filter_map(|claim| capacity(claim).or_else(|| requested(claim)));
        sizes.max_by(|a, b| compare(a, b).unwrap_or(Ordering::Equal)).map(|size| size.0.clone())
    };
    StorageStatus { zookeeper: largest(Tier::ZooKeeper), cassandra: largest(Tier::Cassandra) }
}

/// Volumes that were asked to grow and have not: those that can't, as problems, and what the others are waited for; one of
/// each tier.
pub fn resizes(validated: &Validated, observed: &Observed) -> (Vec<Problem>, Vec<String>) {
    let (mut problems, mut waiting) = (Vec::new(), Vec::new());
    for tier in [Tier::ZooKeeper, Tier::Cassandra] {
        let used = |claim: &&PersistentVolumeClaim| {
            ordinal(&claim.name_any()).is_some_and(|ordinal| ordinal < validated.size(tier))
        };
        let states: Vec<_> = observed.claims_of(tier).filter(used).filter_map(|claim| resize(claim, tier)).collect();
        problems.extend(states.iter().find_map(|state| state.clone().err()));
        waiting.extend(states.into_iter().find_map(Result::ok));
    }
    (problems, waiting)
}

/// How the growth of a claim stands: what is waited for, or what is wrong.
fn resize(claim: &PersistentVolumeClaim, tier: Tier) -> Option<Result<String, Problem>> {
    let (asked, has) = (requested(claim)?, capacity(claim)?);
    if compare(asked, has)? != Ordering::Greater {
        return None;
    }
    let (name, status) = (claim.name_any(), claim.status.as_ref()?);
    let state = status.allocated_resource_statuses.as_ref().and_then(|all| all.get("storage"));
    let infeasible = state.is_some_and(|state| state.ends_with("Infeasible"));
    let condition = |failed: bool| {
        status.conditions.iter().flatten().find(|c| c.status == "True" && c.type_.ends_with("Error") == failed)
    };
    let said = |condition: Option<&PersistentVolumeClaimCondition>| {
        condition.map(|c| c.message.clone().unwrap_or_else(|| c.type_.clone())).unwrap_or_default()
    };
    if infeasible || condition(true).is_some() {
        let why = Some(said(condition(true))).filter(|text| !text.is_empty()).or_else(|| state.cloned());
        let part = tier.component();
        return Some(Err(Problem::new(
            Reason::ResizeFailed,
            format!(
                "claim {name} can't grow from {} to {}: {}; make room for it, or set spec.{part}.storage.size to what can be had, anything above {}",
                has.0,
                asked.0,
                why.unwrap_or_default(),
                has.0
            ),
        )));
    }
    let how = condition(false).map(|c| c.type_.clone()).or_else(|| state.cloned());
    Some(Ok(format!("claim {name} to grow from {} to {} ({})", has.0, asked.0, how.as_deref().unwrap_or("asked for"))))
}

/// What the claim template of a StatefulSet asks for.
pub fn template_size(set: &StatefulSet) -> Option<&Quantity> {
    requested(set.spec.as_ref()?.volume_claim_templates.as_ref()?.first()?)
}

/// Carries a plan out. Every part is safe to repeat (I10).
pub async fn carry_out(client: &Client, identity: &Identity, plan: Plan) -> Outcome {
    let mut outcome = Outcome::default();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &identity.namespace);
    let mut stuck = Vec::new();
    for growth in &plan.grow {
        if stuck.contains(&growth.tier) {
            continue; // the others of the tier are of the same class
        }
        match grow(client, &claims, growth).await {
            Ok(None) => outcome.writes += 1,
            Ok(Some(problem)) => {
                stuck.push(growth.tier);
                outcome.problems.push(problem);
            }
            Err(error) => {
                stuck.push(growth.tier);
                outcome.error.get_or_insert(error);
            }
        }
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &identity.namespace);
    for owner in &plan.owners {
        owned(&mut outcome, owner, own(&claims, identity, owner).await);
    }
    for owner in &plan.secret_owners {
        owned(&mut outcome, owner, own(&secrets, identity, owner).await);
    }
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), &identity.namespace);
    for (_, set) in plan.recreate.iter().filter(|(tier, _)| !stuck.contains(tier)) {
        record(&mut outcome, delete_with(&sets, set.as_ref(), DeleteParams::orphan()).await);
    }
    outcome
}

fn record(outcome: &mut Outcome, result: Result<(), kube::Error>) {
    match result {
        Ok(()) => outcome.writes += 1,
        Err(error) => {
            outcome.error.get_or_insert(error);
        }
    }
}

/// Some clusters let nobody change the owners of what they may not delete, and the operator may delete no volume unless its
/// installer said so.
fn owned(outcome: &mut Outcome, change: &Ownership, result: Result<(), kube::Error>) {
    match result {
        Err(kube::Error::Api(status)) if status.is_forbidden() => {
            if outcome.problems.iter().any(|problem| problem.reason == Reason::OwnerRefused) {
                return; // the others are refused for the same reason
            }
            let remedy = if change.owned {
                "set storage.onDelete to Retain, and delete the volumes yourself"
            } else {
                "take its owner reference off yourself, or it goes with this ReplicatedDB"
            };
            outcome.problems.push(Problem::new(
                Reason::OwnerRefused,
                format!(
                    "what storage.onDelete says of {} can't be arranged: {}; install the operator's chart with rbac.ownVolumes=true, or {remedy}",
                    change.name, status.message
                ),
            ));
        }
        result => record(outcome, result),
    }
}

/// Resizes a claim; a problem where its class can't.
async fn grow(
    client: &Client,
    claims: &Api<PersistentVolumeClaim>,
    growth: &Growth,
) -> Result<Option<Problem>, kube::Error> {
    let class = growth.class.as_deref().unwrap_or_default();
    if !growth.lowers && !expandable(client, class).await {
        return Ok(Some(not_expandable(growth, &format!("storage class {class:?} can't expand volumes"))));
    }
    let patch = json!({"metadata": {"uid": growth.uid}, "spec": {"resources": {"requests": {"storage": growth.size}}}});
    match claims
        .patch(&growth.name, &PatchParams { field_manager: manager(), ..Default::default() }, &Patch::Merge(&patch))
        .await
    {
        Ok(_) => Ok(None),
        Err(kube::Error::Api(status)) if status.is_forbidden() || status.is_invalid() => Ok(Some(if growth.lowers {
            not_lowered(growth, &status.message)
        } else {
            not_expandable(growth, &status.message)
        })),
        Err(error) => Err(error),
    }
}

fn not_expandable(growth: &Growth, why: &str) -> Problem {
    let (tier, size) = (growth.tier, &growth.size);
    Problem::new(
        Reason::StorageNotExpandable,
        format!(
            "the {tier} volumes can't grow to {size}: {why}; set spec.{}.storage.size back to what status.storage shows, or let the class expand volumes (allowVolumeExpansion: true)",
            tier.component()
        ),
    )
}

fn not_lowered(growth: &Growth, why: &str) -> Problem {
    let (name, size, part) = (&growth.name, &growth.size, growth.tier.component());
    Problem::new(
        Reason::ResizeFailed,
        format!(
            "claim {name} asks for more than {size}, and the API server does not let it ask for less: {why}; set spec.{part}.storage.size back to what the claim asks for, or upgrade Kubernetes to 1.34, which does"
        ),
    )
}

/// Whether a class may be asked to expand a volume. An operator that may not read classes asks the API server itself, by
/// trying.
async fn expandable(client: &Client, class: &str) -> bool {
    if class.is_empty() {
        return true;
    }
    match Api::<StorageClass>::all(client.clone()).get_opt(class).await {
        Ok(Some(class)) => class.allow_volume_expansion == Some(true),
        Ok(None) => false,
        Err(_) => true,
    }
}

async fn own<K>(api: &Api<K>, identity: &Identity, change: &Ownership) -> Result<(), kube::Error>
where
    K: kube::Resource<DynamicType = ()> + serde::de::DeserializeOwned + Clone + std::fmt::Debug,
{
    let mut owner = serde_json::to_value(identity.owner()).map_err(kube::Error::SerdeError)?;
    if let Some(map) = owner.as_object_mut() {
        if change.owned {
            // the StatefulSet controller, not we, controls claims
            map.insert("controller".to_owned(), false.into());
        } else {
            map.insert("$patch".to_owned(), Value::from("delete"));
        }
    }
    let patch = json!({"metadata": {"uid": change.uid, "ownerReferences": [owner]}});
    let params = PatchParams { field_manager: manager(), ..Default::default() };
    api.patch(&change.name, &params, &Patch::Strategic(&patch)).await.map(|_| ())
}

fn manager() -> Option<String> {
    Some(FIELD_MANAGER.to_owned())
}

#[cfg(test)]
#[path = "claims_tests.rs"]
mod tests;
