//! From a validated resource to the objects that should exist. Pure: the same input gives the same objects.

mod config;
mod pod;
mod policy;
mod service;
mod stateful_set;
mod template;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Secret, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    authority::{Pair, Purpose},
    kept,
    names::{
        AUTHORITIES_KEY, CERTIFICATE_KEY, PASSWORD_KEY, PRIVATE_KEY_KEY, SUPERUSER_NAME, SUPERUSER_TYPE, TLS_TYPE,
        TOKEN_KEY, Tier, USERNAME_KEY,
    },
    validate::Validated,
};

pub use pod::{
    AUTHENTICATION, INTERNAL_CERTIFICATE, INTERNAL_OPTIONAL, SECRETS_DIR, ZOOKEEPER_OPEN, ZOOKEEPER_TOKEN, is_told,
};
pub use policy::OPERATOR_NAME_LABEL;
pub use service::client_endpoint;
pub use template::Template;

/// The objects that should exist, in the order in which they are applied: what a pod needs comes before the pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// One for each tier; no pod mounts a token.
    pub service_accounts: Vec<ServiceAccount>,
    /// The rendered configuration of each tier, and a record of what its pods are made from.
    pub config_maps: Vec<ConfigMap>,
    /// A headless one for each tier, and the clients' one.
    pub services: Vec<Service>,
    /// Who may reach what.
    pub network_policies: Vec<NetworkPolicy>,
    /// One for each tier of more than one pod.
    pub disruption_budgets: Vec<PodDisruptionBudget>,
    /// One for each tier.
    pub stateful_sets: Vec<StatefulSet>,
}

/// What the objects depend on besides the resource: facts about what runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Running {
    /// The StatefulSets as they are.
    pub stateful_sets: BTreeMap<Tier, StatefulSet>,
    /// What pods were made from before.
    pub templates: BTreeMap<Tier, Template>,
    /// Number of Cassandra pods to keep for replicas that are still stopping: a replica that is scaled down drains into
    /// its Cassandra, so that one leaves after it.
    pub cassandra_pods_min: i32,
    /// A Cassandra pod runs that asks nobody to log in.
    pub open_stores: bool,
    /// Cassandra's volumes have roles: no Cassandra starts over them without logins.
    pub logins: bool,
    /// A Cassandra or replica pod runs that does not know TLS with its like.
    pub plain_inside: bool,
    /// One runs that takes nothing else.
    pub tls_inside: bool,
    /// A replica pod runs that does not log in at ZooKeeper.
    pub log_unclaimed: bool,
    /// One runs that keeps all others from what it makes there, or one has: what it made is still there then, and replicas that
    /// don't log in could neither read it nor open it to themselves.
    pub log_closed: bool,
}

/// How far pods that are made now have gone with something of which all that run at a time must understand each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// They don't know of it.
    #[default]
    Off,
    /// They do it with those that do, and do without with those that don't: while pods are replaced.
    Both,
    /// They take nothing else.
    On,
}

/// Nobody goes on to taking nothing else before all know of it, and nobody forgets it before all take other things, too. `without`: a
/// pod runs that does not know of it; `strict`: one that takes nothing else.
fn phase(wanted: bool, without: bool, strict: bool) -> Phase {
    match (wanted, without, strict) {
        (true, false, _) => Phase::On,
        (false, _, false) => Phase::Off,
        (true, true, _) | (false, _, true) => Phase::Both,
    }
}

/// The resource as a tier's pods should have it now. Statements about roles, which replicas that have clients log in take, can't
/// be executed by a Cassandra without logins, or such a statement would hold up the roll that it waits for: these come first.
/// And they stay when clients need not log in any more, for what is in the log about roles is executed all the same.
fn staged(validated: &Validated, running: &Running, tier: Tier) -> Validated {
    let mut staged = validated.clone();
    let authentication = &mut staged.spec.authentication;
    staged.inside = phase(validated.speaks_tls_inside(), running.plain_inside, running.tls_inside);
    staged.log_access = phase(validated.restricts_log(), running.log_unclaimed, running.log_closed);
    match tier {
        Tier::ZooKeeper => {}
        Tier::Cassandra => authentication.enabled |= running.logins,
        Tier::Replica => authentication.enabled &= !running.open_stores,
    }
    staged
}

/// Builds everything.
pub fn build(validated: &Validated, running: &Running) -> Desired {
    let mut desired = Desired::default();
    for tier in Tier::ALL {
        let validated = &staged(validated, running, tier);
        let template = Template::choose(validated, running.templates.get(&tier), tier);
        desired.service_accounts.push(pod::service_account(validated, tier));
        desired.config_maps.push(template.record(validated, tier));
        desired.config_maps.push(config::config_map(validated, tier, &template.config));
        desired.stateful_sets.push(stateful_set::stateful_set(validated, running, tier, template));
        desired.services.push(service::nodes(validated, tier));
        desired.network_policies.push(policy::network_policy(validated, tier));
        desired.disruption_budgets.extend(policy::disruption_budget(validated, tier));
    }
    desired.services.push(service::client(validated));
    desired
}

/// The Secret with the token that replicas show to the store agents.
pub fn secret(validated: &Validated, token: &str) -> Secret {
    let mut secret =
        kept_secret(validated, validated.identity.secret(), Tier::Cassandra, "Opaque", &[(TOKEN_KEY, token)]);
    secret.metadata.annotations = Some(kept::notes(validated));
    secret
}

/// The Secret with the superuser, for who names none.
pub fn superuser(validated: &Validated, password: &str) -> Secret {
    let data = [(USERNAME_KEY, SUPERUSER_NAME), (PASSWORD_KEY, password)];
    kept_secret(validated, validated.identity.superuser(), Tier::Replica, SUPERUSER_TYPE, &data)
}

/// The Secret with the authority that the operator makes. Nothing mounts it.
pub fn authority(validated: &Validated, pair: &Pair) -> Secret {
    let data = certified(pair, &pair.certificate);
    kept_secret(validated, validated.identity.authority(), Tier::Replica, TLS_TYPE, &data)
}

/// The Secret with a certificate that the authority with the certificate `authority` has signed.
pub fn certificate(validated: &Validated, purpose: Purpose, pair: &Pair, authority: &str) -> Secret {
    let data = certified(pair, authority);
    kept_secret(validated, purpose.secret(&validated.identity), Tier::Replica, TLS_TYPE, &data)
}

fn certified<'a>(pair: &'a Pair, authority: &'a str) -> [(&'static str, &'a str); 3] {
    [(AUTHORITIES_KEY, authority), (CERTIFICATE_KEY, &pair.certificate), (PRIVATE_KEY_KEY, &pair.key)]
}

/// A Secret that is created once and never applied over. No owner reference: it stays with the volumes (see
/// [`crate::claims`]).
fn kept_secret(validated: &Validated, name: String, tier: Tier, type_: &str, data: &[(&str, &str)]) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(validated.identity.namespace.clone()),
            labels: Some(validated.identity.labels(tier)),
            ..Default::default()
        },
        string_data: Some(data.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()),
        type_: Some(type_.to_owned()),
        ..Default::default()
    }
}

/// Metadata of an object of a tier that goes when the resource goes.
fn metadata(validated: &Validated, name: String, tier: Tier) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(validated.identity.namespace.clone()),
        labels: Some(validated.identity.labels(tier)),
        owner_references: Some(vec![validated.identity.owner()]),
        ..Default::default()
    }
}
