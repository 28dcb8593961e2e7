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
    kept,
    names::{PASSWORD_KEY, SUPERUSER_NAME, SUPERUSER_TYPE, TOKEN_KEY, Tier, USERNAME_KEY},
    validate::Validated,
};

pub use pod::{AUTHENTICATION, SECRETS_DIR, is_told};
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
}

/// The resource as a tier's pods should have it now. Statements about roles, which replicas that have clients log in take, can't
/// be executed by a Cassandra without logins, or such a statement would hold up the roll that it waits for: these come first.
/// And they stay when clients need not log in any more, for what is in the log about roles is executed all the same.
fn staged(validated: &Validated, running: &Running, tier: Tier) -> Validated {
    let mut staged = validated.clone();
    let authentication = &mut staged.spec.authentication;
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
