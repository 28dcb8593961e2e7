//! Who may reach a pod, and how many may be away at once.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        networking::v1::{
            NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::metadata;
use crate::{
    names::{
        LABEL_ADMIN_ACCESS, LABEL_NAME, LABEL_NAMESPACE, PORT_ADMIN, PORT_AGENT, PORT_CQL, PORT_ZOOKEEPER,
        PORT_ZOOKEEPER_ADMIN, PORT_ZOOKEEPER_ELECTION, PORT_ZOOKEEPER_METRICS, PORT_ZOOKEEPER_PEER, Tier,
    },
    validate::Validated,
};

/// Value of `app.kubernetes.io/name` on the operator's own pods, by which the policies know them.
pub const OPERATOR_NAME_LABEL: &str = "replicateddb-operator";

/// Admits what the design needs and nothing else: clients reach replicas, never Cassandra or ZooKeeper past the log.
pub fn network_policy(validated: &Validated, tier: Tier) -> NetworkPolicy {
    let of = |tier| own(validated, tier);
    let ingress = match tier {
        Tier::ZooKeeper => vec![
            rule(&[PORT_ZOOKEEPER], Some(vec![of(Tier::ZooKeeper), of(Tier::Replica)])),
            rule(&[PORT_ZOOKEEPER_PEER, PORT_ZOOKEEPER_ELECTION], Some(vec![of(Tier::ZooKeeper)])),
            rule(&[PORT_ZOOKEEPER_ADMIN], Some(vec![operator(validated)])),
            rule(&[PORT_ZOOKEEPER_METRICS], Some(vec![operator(validated), tools()])),
        ],
        // nobody asks the agent of a shared one for anything
        Tier::Cassandra if validated.shared() => vec![rule(&[PORT_CQL], Some(vec![of(Tier::Replica)]))],
        // agents take over each other's restore points
        Tier::Cassandra => vec![
            rule(&[PORT_CQL, PORT_AGENT], Some(vec![of(Tier::Replica)])),
            rule(&[PORT_AGENT], Some(vec![of(Tier::Cassandra)])),
        ],
        Tier::Replica => {
            vec![
                rule(&[PORT_CQL], None),
                rule(&[PORT_ADMIN], Some(vec![of(Tier::Replica), operator(validated), tools()])),
            ]
        }
    };
    NetworkPolicy {
        metadata: metadata(validated, validated.identity.tier(tier), tier),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(select(validated.identity.selector(tier))),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(ingress),
            ..Default::default()
        }),
    }
}

fn rule(ports: &[i32], from: Option<Vec<NetworkPolicyPeer>>) -> NetworkPolicyIngressRule {
    let port = |&port| NetworkPolicyPort {
        port: Some(IntOrString::Int(port)),
        protocol: Some("TCP".to_owned()),
        ..Default::default()
    };
    NetworkPolicyIngressRule { from, ports: Some(ports.iter().map(port).collect()) }
}

/// Pods of a tier of the same resource.
fn own(validated: &Validated, tier: Tier) -> NetworkPolicyPeer {
    NetworkPolicyPeer { pod_selector: Some(select(validated.identity.selector(tier))), ..Default::default() }
}

/// The operator, in the namespace that it runs in: labels alone, anybody could put on a pod of their own.
fn operator(validated: &Validated) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        namespace_selector: Some(select(label(LABEL_NAMESPACE, &validated.operator_namespace))),
        pod_selector: Some(select(label(LABEL_NAME, OPERATOR_NAME_LABEL))),
        ..Default::default()
    }
}

/// Pods of the same namespace that its user has labelled: a metrics collector, `replicateddb-server verify`.
fn tools() -> NetworkPolicyPeer {
    NetworkPolicyPeer { pod_selector: Some(select(label(LABEL_ADMIN_ACCESS, "true"))), ..Default::default() }
}

fn label(name: &str, value: &str) -> BTreeMap<String, String> {
    [(name.to_owned(), value.to_owned())].into()
}

fn select(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), ..Default::default() }
}

/// At most one pod of a tier is evicted at a time. None for a single pod: it would block every drain of its node. A pod
/// that is not ready may always be evicted, so that a broken one never blocks a drain.
pub fn disruption_budget(validated: &Validated, tier: Tier) -> Option<PodDisruptionBudget> {
    (validated.size(tier) > 1).then(|| PodDisruptionBudget {
        metadata: metadata(validated, validated.identity.tier(tier), tier),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(select(validated.identity.selector(tier))),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    })
}
