//! What outlives a resource, its Secrets and its volumes, and whether the resource may take them over. Pure.
//!
//! Volumes and the Secrets with the token and the superuser stay when a resource is deleted (unless it says otherwise), and a
//! resource of the same name takes them over. Four things must not happen: that somebody else's Secret of this name is used;
//! that pods are made over volumes that are about to be deleted; that a ZooKeeper ensemble of another size is made over the
//! volumes of one, whose new servers could agree on an empty log among themselves; and that pods are replaced by ones that
//! could not start, for want of a superuser or a certificate. Nor is an authority made anew that clients trust.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Resource, ResourceExt};

use crate::{
    authority::{Authority, Due, Purpose},
    build::{AUTHENTICATION, INTERNAL_CERTIFICATE, SECRETS_DIR, ZOOKEEPER_TOKEN, is_told},
    crd::ReplicatedDB,
    dereference::{Observed, Standing, standing},
    names::{
        ANNOTATION_AUTHORITY, ANNOTATION_LAYOUT, ANNOTATION_LOGINS, ANNOTATION_RESTRICTED, ANNOTATION_SUPERUSER,
        ANNOTATION_UPGRADE, APP_NAME, AUTHORITIES_KEY, CERTIFICATE_KEY, Identity, LABEL_COMPONENT, LABEL_INSTANCE,
        LABEL_NAME, PASSWORD_KEY, PRIVATE_KEY_KEY, SUPERUSER_NAME, SUPERUSER_TYPE, TLS_TYPE, TOKEN_KEY, Tier,
        USERNAME_KEY, ordinal,
    },
    problem::{Problem, Reason},
    superuser, tls,
    validate::Validated,
};

/// Least length of a token that is taken for one.
const TOKEN_LENGTH_MIN: usize = 32;

/// What to do about a Secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecretStep {
    /// Leave it as it is.
    #[default]
    Keep,
    /// Make it: there is none, and no data that hangs on it either.
    Create,
    /// Note on it what holds for what is kept.
    Record,
}

/// What is kept, and what follows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// Nothing may be made, changed or deleted now.
    pub blocked: bool,
    /// What to do about the Secret with the token.
    pub secret: SecretStep,
    /// What to do about the Secret with the superuser.
    pub superuser: SecretStep,
    /// What to do about the Secret with the authority.
    pub authority: SecretStep,
    /// Certificates that it is to sign, and why.
    pub certificates: Vec<(Purpose, Due)>,
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

/// What is noted on the Secret with the token: what the volumes are made for, that they have roles, and that a superuser
/// and an authority have been made.
pub fn notes(validated: &Validated) -> BTreeMap<String, String> {
    let logins = validated.superuser_secret().map(|_| (ANNOTATION_LOGINS.to_owned(), true.to_string()));
    let superuser = made_superuser(validated).map(|name| (ANNOTATION_SUPERUSER.to_owned(), name));
    let authority = (!validated.made_certificates().is_empty()).then(|| validated.identity.authority());
    let authority = authority.map(|name| (ANNOTATION_AUTHORITY.to_owned(), name));
    let restricted = validated.restricts_log();
    let restricted = restricted.then(|| (ANNOTATION_RESTRICTED.to_owned(), true.to_string()));
    let made = logins.into_iter().chain(superuser).chain(authority).chain(restricted);
    made.chain([(ANNOTATION_LAYOUT.to_owned(), layout(validated))]).collect()
}

/// Whether Cassandra's volumes have roles, or shall have: as is wished, as was noted, or as the pods are made that exist.
pub fn has_logins(validated: &Validated, observed: &Observed) -> bool {
    let noted = |secret: &Secret| secret.annotations().contains_key(ANNOTATION_LOGINS);
    let set = observed.stateful_set(Tier::Cassandra, &validated.identity);
    let pods = set.and_then(|set| set.spec.as_ref()?.template.spec.as_ref());
    validated.superuser_secret().is_some()
        || observed.secret.as_ref().is_some_and(noted)
        || pods.is_some_and(|pods| is_told(pods, AUTHENTICATION))
}

/// Whether replicas have kept all others from what is in ZooKeeper, as was noted. Until the note is gone nobody may count on it that it is
/// open, whatever runs: the last of them may have gone with its resource.
pub fn was_restricted(observed: &Observed) -> bool {
    observed.secret.as_ref().is_some_and(|secret| secret.annotations().contains_key(ANNOTATION_RESTRICTED))
}

/// Whether another token would keep somebody from the data that there are: an agent from its Cassandra, or replicas from the log. As
/// is wished, as was noted, or as the pods are made that exist.
fn hangs_on_token(validated: &Validated, observed: &Observed) -> bool {
    let set = observed.stateful_set(Tier::Replica, &validated.identity);
    let pods = set.and_then(|set| set.spec.as_ref()?.template.spec.as_ref());
    has_logins(validated, observed)
        || validated.spec.zookeeper.restricted
        || was_restricted(observed)
        || pods.is_some_and(|pods| is_told(pods, ZOOKEEPER_TOKEN))
}

/// Name of the Secret with the superuser, if it is the operator that makes it.
fn made_superuser(validated: &Validated) -> Option<String> {
    validated.superuser_secret().filter(|_| validated.spec.authentication.superuser_secret.name.is_none())
}

/// Whether the object goes with an earlier resource of the same name.
fn leaving(object: &ObjectMeta, identity: &Identity) -> bool {
    let ours =
        |owner: &&k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| owner.kind == ReplicatedDB::kind(&());
    let mut owners = object.owner_references.iter().flatten().filter(ours).peekable();
    owners.peek().is_some() && owners.all(|owner| owner.uid != identity.uid)
}

/// Decides about what is kept.
pub fn judge(validated: &Validated, observed: &Observed, now: Timestamp) -> Kept {
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
        None => kept.problems.push(lost(&identity.secret(), &secret_remedy(validated, observed))),
        Some(secret) => judge_secret(validated, observed, secret, &mut kept),
    }
    if let Some(name) = validated.superuser_secret() {
        judge_superuser(validated, observed, &name, &mut kept);
    }
    let mut made = validated.made_certificates();
    if !made.contains(&Purpose::Peers) && shows_peers(validated, observed) {
        made.push(Purpose::Peers);
    }
    if let Some(name) = validated.tls_secret().filter(|_| !made.contains(&Purpose::Clients)) {
        judge_certificate(validated, observed.tls.as_ref(), &name, &mut kept);
    }
    if validated.lacks_security() {
        kept.problems.push(images_of_before(&validated.identity));
    }
    if !made.is_empty() {
        judge_authority(validated, observed, now, &made, &mut kept);
    }
    kept
}

fn images_of_before(Identity { name, namespace, .. }: &Identity) -> Problem {
    let text = format!(
        "the images in use are of before spec.tls.internal and spec.zookeeper.restricted, and would take no notice of them, so that nothing is changed; have this operator's used: kubectl -n {namespace} annotate --overwrite replicateddb {name} {ANNOTATION_UPGRADE}=$(date +%s)"
    );
    Problem::new(Reason::ImagesTooOld, text)
}

/// Whether a pod runs that shows its like a certificate, though that may be switched off by now: the last ones go by it until they are
/// replaced.
fn shows_peers(validated: &Validated, observed: &Observed) -> bool {
    let pods = [Tier::Cassandra, Tier::Replica].map(|tier| observed.pods_of(tier, &validated.identity));
    pods.iter().flatten().filter_map(|pod| pod.spec.as_ref()).any(|pod| is_told(pod, INTERNAL_CERTIFICATE))
}

fn lost(secret: &str, remedy: &str) -> Problem {
    Problem::new(
        Reason::SecretLost,
        format!("Secret {secret} is gone while volumes exist, and is not made anew; {remedy}"),
    )
}

fn judge_secret(validated: &Validated, observed: &Observed, secret: &Secret, kept: &mut Kept) {
    let identity = &validated.identity;
    let name = identity.secret();
    if !is_ours(identity, secret, "", kept) {
        return;
    }
    let token = secret.data.as_ref().and_then(|data| data.get(TOKEN_KEY));
    if token.is_none_or(|token| token.0.len() < TOKEN_LENGTH_MIN) {
        kept.problems.push(Problem::new(
            Reason::SecretLost,
            format!(
                "Secret {name} has no key {TOKEN_KEY} of at least {TOKEN_LENGTH_MIN} characters; {}",
                secret_remedy(validated, observed)
            ),
        ));
    }
    let wanted = layout(validated);
    let annotations = secret.annotations();
    let noted = annotations.get(ANNOTATION_LAYOUT);
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
        None if notes(validated).iter().any(|(key, note)| annotations.get(key) != Some(note)) => {
            kept.secret = SecretStep::Record;
        }
        None => {}
    }
}

/// Whether a Secret that should be ours is, and stays. If not, nothing may be done; `otherwise` is a further remedy.
fn is_ours(identity: &Identity, secret: &Secret, otherwise: &str, kept: &mut Kept) -> bool {
    let name = secret.name_any();
    if secret.metadata.deletion_timestamp.is_some() || leaving(&secret.metadata, identity) {
        kept.waiting.push(format!("Secret {name} of an earlier resource to be gone"));
        kept.blocked = true;
        return false;
    }
    if !matches!(standing(&secret.metadata, identity), Standing::Free | Standing::Ours) {
        kept.problems.push(Problem::new(
            Reason::NameConflict,
            format!(
                "Secret {name} exists and belongs to somebody else; delete or rename it, or give this ReplicatedDB another name{otherwise}; if it is a copy of this database's: kubectl -n {} label secret {name} {}",
                identity.namespace,
                secret_labels(identity)
            ),
        ));
        kept.blocked = true;
        return false;
    }
    true
}

/// The superuser's Secret. Without one that can be used nothing is done: pods that run have read it, others could not start.
fn judge_superuser(validated: &Validated, observed: &Observed, name: &str, kept: &mut Kept) {
    let identity = &validated.identity;
    let found = match made_superuser(validated) {
        Some(_) => made(identity, observed, kept),
        None => named(identity, observed, name, kept),
    };
    if let Some(Err(unusable)) = found.map(superuser::check) {
        let text =
            format!("Secret {name} {unusable}; correct it: kubectl -n {} edit secret {name}", identity.namespace);
        kept.problems.push(Problem::new(Reason::SecretInvalid, text));
        kept.blocked = true;
    }
}

/// The Secret with the certificate that clients are shown. Without one that can be used nothing is done, as without a superuser.
fn judge_certificate(validated: &Validated, found: Option<&Secret>, name: &str, kept: &mut Kept) {
    let namespace = &validated.identity.namespace;
    let checked = found.map(|secret| tls::check(secret, validated.spec.tls.client_certificates));
    let (reason, text) = match checked {
        Some(Ok(())) => return,
        Some(Err(unusable)) => (
            Reason::SecretInvalid,
            format!("Secret {name} {unusable}; correct it: kubectl -n {namespace} edit secret {name}"),
        ),
        None => (
            Reason::SecretMissing,
            format!(
                "Secret {name}, which spec.tls.secretName names, does not exist; have cert-manager make it, or make it: kubectl -n {namespace} create secret generic {name} --type={TLS_TYPE} --from-file={CERTIFICATE_KEY}=FILE --from-file={PRIVATE_KEY_KEY}=FILE --from-file={AUTHORITIES_KEY}=FILE"
            ),
        ),
    };
    kept.problems.push(Problem::new(reason, text));
    kept.blocked = true;
}

/// The authority that the operator makes, and the certificates that it signs. Without the authority nothing can be signed; pods can
/// be replaced all the same as long as there are certificates.
fn judge_authority(validated: &Validated, observed: &Observed, now: Timestamp, wanted: &[Purpose], kept: &mut Kept) {
    let identity = &validated.identity;
    for purpose in wanted {
        let Some(secret) = observed.signed(*purpose) else { continue };
        let otherwise = match purpose {
            Purpose::Clients => format!(", or set spec.tls.secretName to {}, if it is meant", secret.name_any()),
            Purpose::Peers => String::new(),
        };
        if !is_ours(identity, secret, &otherwise, kept) {
            return;
        }
    }
    let usable = |purpose: &Purpose| observed.signed(*purpose).is_some_and(|secret| tls::check(secret, false).is_ok());
    let whole = wanted.iter().all(usable);
    let name = identity.authority();
    let authority = match &observed.authority {
        None if kept.blocked => return,
        None if authority_was_made(observed) => {
            kept.problems.push(lost(&name, &authority_remedy(identity)));
            kept.blocked |= !whole;
            return;
        }
        None => {
            kept.authority = SecretStep::Create;
            kept.certificates = wanted.iter().map(|purpose| (*purpose, Due::Missing)).collect();
            return;
        }
        Some(secret) if !is_ours(identity, secret, "", kept) => return,
        Some(secret) => Authority::of(secret),
    };
    match authority {
        Ok(authority) => {
            let due = |purpose: &Purpose| {
                let names = purpose.names(identity, validated.spec.replicas);
                Some((*purpose, authority.due(observed.signed(*purpose), &names, now)?))
            };
            for (purpose, due) in wanted.iter().filter_map(due) {
                // Made in vain it would be made again and again, and in the place of one that is in use.
                match authority.signs(&purpose.names(identity, validated.spec.replicas), now) {
                    Ok(()) => kept.certificates.push((purpose, due)),
                    Err(reason) => {
                        kept.problems.push(signs_in_vain(identity, purpose, &reason));
                        kept.blocked |= !usable(&purpose);
                    }
                }
            }
            kept.problems.extend(authority.ends_soon(now).map(|end| authority_ends(identity, end)));
        }
        Err(unusable) => {
            let text = format!("Secret {name} {unusable}; {}", authority_remedy(identity));
            kept.problems.push(Problem::new(Reason::SecretInvalid, text));
            kept.blocked |= !whole;
        }
    }
}

/// Whether an authority has been made for the data that there are. As with the superuser, it counts as made where nothing tells.
fn authority_was_made(observed: &Observed) -> bool {
    let noted = |secret: &Secret| secret.annotations().contains_key(ANNOTATION_AUTHORITY);
    !observed.claims.is_empty() && observed.secret.as_ref().is_none_or(noted)
}

/// What to do about an authority that can't be used: it comes back, or another one is made on purpose.
fn authority_remedy(identity: &Identity) -> String {
    let (namespace, secret) = (&identity.namespace, identity.authority());
    format!(
        "restore it from a backup, for clients trust it, or have another made, which clients must be given then: kubectl -n {namespace} delete secret {secret} --ignore-not-found && kubectl -n {namespace} annotate secret {} {ANNOTATION_AUTHORITY}-",
        identity.secret()
    )
}

fn signs_in_vain(identity: &Identity, purpose: Purpose, reason: &str) -> Problem {
    let (secret, signed) = (identity.authority(), purpose.secret(identity));
    let text = format!(
        "Secret {secret} has an authority whose certificates nobody takes, so Secret {signed} is left as it is: {reason}; {}",
        authority_remedy(identity)
    );
    Problem::new(Reason::SecretInvalid, text)
}

fn authority_ends(identity: &Identity, end: Timestamp) -> Problem {
    let (namespace, secret) = (&identity.namespace, identity.authority());
    Problem::new(
        Reason::AuthorityEnds,
        format!(
            "the authority in Secret {secret}, which clients trust, ends at {end}, and all that it signs; put another one in its place, in steps (docs/security.md, \"Another authority\"): add its certificate to {CERTIFICATE_KEY} behind the one that is there, give clients both, wait for 15 minutes, put its certificate first and its key into {PRIVATE_KEY_KEY}, wait for 15 minutes, and take the old certificate away: kubectl -n {namespace} edit secret {secret}"
        ),
    )
}

/// The one that the operator makes, if it is there and can be taken.
fn made<'a>(identity: &Identity, observed: &'a Observed, kept: &mut Kept) -> Option<&'a Secret> {
    let name = identity.superuser();
    match &observed.superuser {
        None if kept.blocked => None,
        None if superuser_was_made(observed) => {
            kept.problems.push(lost(&name, &superuser_remedy(identity)));
            kept.blocked = true;
            None
        }
        None => {
            kept.superuser = SecretStep::Create;
            None
        }
        Some(secret) => {
            let otherwise = format!(", or set spec.authentication.superuserSecret.name to {name}, if it is meant");
            is_ours(identity, secret, &otherwise, kept).then_some(secret)
        }
    }
}

/// The one that the spec names, if it is there.
fn named<'a>(identity: &Identity, observed: &'a Observed, name: &str, kept: &mut Kept) -> Option<&'a Secret> {
    if observed.named_superuser.is_none() {
        let text = format!(
            "Secret {name}, which spec.authentication.superuserSecret names, does not exist; {}",
            superuser_creation(identity, name)
        );
        kept.problems.push(Problem::new(Reason::SecretMissing, text));
        kept.blocked = true;
    }
    observed.named_superuser.as_ref()
}

/// Whether there are data that a superuser has been made for. Where nothing tells, as the Secret with the note is gone, too,
/// it counts as made.
fn superuser_was_made(observed: &Observed) -> bool {
    let noted = |secret: &Secret| secret.annotations().contains_key(ANNOTATION_SUPERUSER);
    !observed.claims.is_empty() && observed.secret.as_ref().is_none_or(noted)
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

fn secret_remedy(validated: &Validated, observed: &Observed) -> String {
    let identity = &validated.identity;
    let (Identity { name, namespace, .. }, secret) = (identity, identity.secret());
    // of another token follow other passwords, which neither Cassandra nor ZooKeeper would know
    if hangs_on_token(validated, observed) {
        return format!(
            "restore it from a backup, or from a pod that still runs, for with another token nobody could log in at Cassandra or ZooKeeper: kubectl -n {namespace} create secret generic {secret} --from-literal={TOKEN_KEY}=$(kubectl -n {namespace} exec {}-0 -- cat {SECRETS_DIR}/{TOKEN_KEY}) && kubectl -n {namespace} label secret {secret} {}",
            identity.tier(Tier::Replica),
            secret_labels(identity)
        );
    }
    format!(
        "restore it from a backup, or make another and restart the pods that read it: kubectl -n {namespace} create secret generic {secret} --from-literal={TOKEN_KEY}=$(openssl rand -hex 32) && kubectl -n {namespace} label secret {secret} {} && kubectl -n {namespace} delete pod -l '{LABEL_NAME}={APP_NAME},{LABEL_INSTANCE}={name},{LABEL_COMPONENT} in (cassandra,replica)'",
        secret_labels(identity)
    )
}

fn superuser_creation(identity: &Identity, secret: &str) -> String {
    format!(
        "make it: kubectl -n {} create secret generic {secret} --type={SUPERUSER_TYPE} --from-literal={USERNAME_KEY}={SUPERUSER_NAME} --from-literal={PASSWORD_KEY}=$(openssl rand -hex 32)",
        identity.namespace
    )
}

fn superuser_remedy(identity: &Identity) -> String {
    let (namespace, secret) = (&identity.namespace, identity.superuser());
    format!(
        "restore it from a backup, or, with another password, {} && kubectl -n {namespace} label secret {secret} {}",
        superuser_creation(identity, &secret),
        secret_labels(identity)
    )
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
