//! Services: a headless one for each tier, by which pods know each other, and the clients' one.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::metadata;
use crate::{
    names::{
        Identity, PORT_ADMIN, PORT_AGENT, PORT_CQL, PORT_ZOOKEEPER, PORT_ZOOKEEPER_ADMIN, PORT_ZOOKEEPER_ELECTION,
        PORT_ZOOKEEPER_METRICS, PORT_ZOOKEEPER_PEER, Tier,
    },
    validate::Validated,
};

/// Named ports of a tier.
pub fn ports(tier: Tier) -> &'static [(&'static str, i32)] {
    match tier {
        Tier::ZooKeeper => &[
            ("client", PORT_ZOOKEEPER),
            ("peer", PORT_ZOOKEEPER_PEER),
            ("election", PORT_ZOOKEEPER_ELECTION),
            ("admin", PORT_ZOOKEEPER_ADMIN),
            ("metrics", PORT_ZOOKEEPER_METRICS),
        ],
        Tier::Cassandra => &[("cql", PORT_CQL), ("agent", PORT_AGENT)],
        Tier::Replica => &[("cql", PORT_CQL), ("admin", PORT_ADMIN)],
    }
}

/// The headless Service that gives pods their names. It publishes pods that are not ready: ZooKeeper servers must find
/// each other to become ready, and a replica its Cassandra to make it so.
pub fn nodes(validated: &Validated, tier: Tier) -> Service {
    Service {
        metadata: metadata(validated, validated.identity.nodes(tier), tier),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(validated.identity.selector(tier)),
            ports: Some(ports(tier).iter().map(|&(name, port)| service_port(name, port)).collect()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The Service that clients connect to: replicas that have caught up, and no others (I5).
pub fn client(validated: &Validated) -> Service {
    Service {
        metadata: metadata(validated, validated.identity.name.clone(), Tier::Replica),
        spec: Some(ServiceSpec {
            publish_not_ready_addresses: Some(false),
            selector: Some(validated.identity.selector(Tier::Replica)),
            ports: Some(vec![service_port("cql", PORT_CQL)]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Where clients inside the cluster connect to.
pub fn client_endpoint(identity: &Identity) -> String {
    format!("{}.{}.svc:{PORT_CQL}", identity.name, identity.namespace)
}

fn service_port(name: &str, port: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..Default::default()
    }
}
