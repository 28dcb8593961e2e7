//! What outlives a resource, its Secret and its volumes, and whether the resource may take them over. Pure.
//!
//! Volumes and the Secret with the token stay when a resource is deleted (unless it says otherwise), and a resource of the
//! same name takes them over. Three things must not happen: that somebody else's Secret of this name is used; that pods are
//! made over volumes that are about to be deleted; and that a ZooKeeper ensemble of another size is made over the volumes
//! of one, whose new servers could agree on an empty log among themselves.

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, ResourceExt};

use crate::{
    crd::ReplicatedDB,
    dereference::{Observed, Standing, standing},
    names::{
        ANNOTATION_LAYOUT, APP_NAME, Identity, LABEL_COMPONENT, LABEL_INSTANCE, LABEL_NAME, TOKEN_KEY, Tier, ordinal,
    },
    problem::{Problem, Reason},
    validate::Validated,
};

/// Least length of a token that is taken for one.
const TOKEN_LENGTH_MIN: usize = 32;

/// What to do about the Secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretStep {
    /// Leave it as it is.
    #[default]
    Keep,
    /// Make it: there is none, and no data either.
    Create,
    /// Note on it what the volumes are made for.
    Record,
}

/// What is kept, and what follows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// Nothing may be made, changed or deleted now.
    pub blocked: bool,
    /// What to do about the Secret.
    pub secret: SecretStep,
    /// What the user must know of.
    pub problems: Vec<Problem>,
    /// What is waited for.
    pub waiting: Vec<String>,
}

/// What the volumes of a resource are made for, as noted on the Secret: with another they can't be used.
pub fn layout(validated: &Validated) -> String {
    let (zookeeper, cassandra) = (&validated.spec.zookeeper, &validated.spec.cassandra);
    format!("zookeeper.size={} cassandra.mode={:?}", zookeeper.size, cassandra.mode)
}

/// Whether the object goes with an earlier resource of the same name.
fn leaving(object: &ObjectMeta, identity: &Identity) -> bool {
    let ours =
        |owner: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| owner.kind == ReplicatedDB::kind(&());
    let mut owners = object.owner_references.iter().flatten().filter(ours).peekable();
    owners.peek().is_some() && owners.all(|owner| owner.uid != identity.uid)
}

/// Decides about what is kept.
pub fn judge(validated: &Validated, observed: &Observed) -> Kept {
    let identity = &validated.identity;
    let mut kept = Kept::default();
    for tier in [Tier::ZooKeeper, Tier::Cassandra] {
        let set = observed.stateful_set(tier, identity);
        let going = observed.claims_of(tier).find(|claim| leaving(&claim.metadata, identity));
        // pods that run hold their claims: that is no longer to be prevented
        if let Some(claim) = going.filter(|_| set.is_none()) {
            kept.waiting.push(format!("claim {} of an earlier resource to be gone", claim.name_any()));
            kept.blocked = true;
        }
    }
    match &observed.secret {
        None if kept.blocked => {}
        None if observed.claims.is_empty() => kept.secret = SecretStep::Create,
        None => kept.problems.push(Problem::new(
            Reason::SecretLost,
            format!(
                "Secret {} is gone while volumes exist, and is not made anew; {}",
                identity.secret(),
                secret_remedy(identity)
            ),
        )),
        Some(secret) => judge_secret(validated, observed, secret, &mut kept),
    }
    kept
}

fn judge_secret(validated: &Validated, observed: &Observed, secret: &Secret, kept: &mut Kept) {
    let identity = &validated.identity;
    let name = identity.secret();
    if secret.metadata.deletion_timestamp.is_some() || leaving(&secret.metadata, identity) {
        kept.waiting.push(format!("Secret {name} of an earlier resource to be gone"));
        kept.blocked = true;
        return;
    }
    if !matches!(standing(&secret.metadata, identity), Standing::Free | Standing::Ours) {
        kept.problems.push(Problem::new(
            Reason::NameConflict,
            format!(
                "Secret {name} exists and belongs to somebody else; delete or rename it, or give this ReplicatedDB another name; if it is a copy of this database's: kubectl -n {} label secret {name} {}",
                identity.namespace,
                secret_labels(identity)
            ),
        ));
        kept.blocked = true;
        return;
    }
    let token = secret.data.as_ref().and_then(|data| data.get(TOKEN_KEY));
    if token.is_none_or(|token| token.0.len() < TOKEN_LENGTH_MIN) {
        kept.problems.push(Problem::new(
            Reason::SecretLost,
            format!(
                "Secret {name} has no key {TOKEN_KEY} of at least {TOKEN_LENGTH_MIN} characters; {}",
                secret_remedy(identity)
            ),
        ));
    }
    let wanted = layout(validated);
    let noted = secret.annotations().get(ANNOTATION_LAYOUT);
    let servers = servers(observed);
    let other = match noted {
        _ if observed.claims.is_empty() => None,
        Some(noted) if *noted != wanted => Some(noted.clone()),
        None if servers > validated.spec.zookeeper.size => Some(format!("zookeeper.size={servers}")),
        _ => None,
    };
    match other {
        Some(other) => {
            kept.problems.push(other_layout(identity, &wanted, &other));
            kept.blocked = true;
        }
        None if noted != Some(&wanted) => kept.secret = SecretStep::Record,
        None => {}
    }
}

/// ZooKeeper servers that the volumes that exist are of, at least.
fn servers(observed: &Observed) -> i32 {
    let ordinals =
        observed.claims_of(Tier::ZooKeeper).filter_map(|claim: &PersistentVolumeClaim| ordinal(&claim.name_any()));
    ordinals.max().map_or(0, |last| last.saturating_add(1))
}

fn other_layout(identity: &Identity, wanted: &str, other: &str) -> Problem {
    let Identity { name, namespace, .. } = identity;
    Problem::new(
        Reason::OtherVolumes,
        format!(
            "the volumes that an earlier {name} left were made with {other}, this one says {wanted}: nothing is made over them; delete this ReplicatedDB and create it as they were made, or give up their data: kubectl -n {namespace} delete persistentvolumeclaims,secrets -l {}",
            identity.label_query()
        ),
    )
}

/// The labels by which a Secret is known, as `kubectl label` takes them.
fn secret_labels(identity: &Identity) -> String {
    let labels = identity.labels(Tier::Cassandra);
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

fn secret_remedy(identity: &Identity) -> String {
    let (Identity { name, namespace, .. }, secret) = (identity, identity.secret());
    format!(
        "restore it from a backup, or make another and restart the pods that read it: kubectl -n {namespace} create secret generic {secret} --from-literal={TOKEN_KEY}=$(openssl rand -hex 32) && kubectl -n {namespace} label secret {secret} {} && kubectl -n {namespace} delete pod -l '{LABEL_NAME}={APP_NAME},{LABEL_INSTANCE}={name},{LABEL_COMPONENT} in (cassandra,replica)'",
        secret_labels(identity)
    )
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
