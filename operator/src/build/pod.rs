//! The pods of each tier.

use k8s_openapi::{
    api::core::v1::{
        Affinity, Capabilities, ConfigMapEnvSource, ConfigMapVolumeSource, Container, ContainerPort,
        EmptyDirVolumeSource, EnvFromSource, EnvVar, EnvVarSource, ExecAction, HTTPGetAction, KeyToPath,
        LocalObjectReference, ObjectFieldSelector, PodAffinity, PodAffinityTerm, PodAntiAffinity, PodSecurityContext,
        PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecretKeySelector, SecretVolumeSource,
        SecurityContext, ServiceAccount, TCPSocketAction, Volume, VolumeMount, WeightedPodAffinityTerm,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use serde_json::json;
use std::collections::BTreeMap;

use super::{Phase, config::CASSANDRA_FILE, metadata, service};
use crate::{
    crd::{ComputeAmounts, PodAdditions, PullPolicy, Resources},
    names::{
        ANNOTATION_CONFIG, AUTHORITIES_KEY, CERTIFICATE_KEY, DATA_VOLUME, LABEL_POD_INDEX, PASSWORD_KEY, PORT_CQL,
        PORT_ZOOKEEPER, PRIVATE_KEY_KEY, TOKEN_KEY, Tier, USERNAME_KEY, digest,
    },
    validate::Validated,
};

/// User and group of every container.
const USER: i64 = 10_001;
/// Below this limit Cassandra is told to be small.
const CASSANDRA_SMALL_BELOW: &str = "4Gi";
/// The keyspace of each replica in a shared Cassandra: it puts its own ordinal in the place of {id}.
const SHARED_KEYSPACE: &str = "replica_{id}";
/// Where configuration files, secrets and data are mounted.
const CONFIG_DIR: &str = "/config";
/// Variable of a Cassandra that asks for logins.
pub const AUTHENTICATION: &str = "RDB_AUTHENTICATION";
/// Where the Secret with the token is mounted.
pub const SECRETS_DIR: &str = "/secrets";
const SUPERUSER_DIR: &str = "/superuser";
const TLS_DIR: &str = "/tls";
const INTERNAL_DIR: &str = "/internal";
/// Variable of a pod that knows TLS with its like.
pub const INTERNAL_CERTIFICATE: &str = "RDB_INTERNAL_CERTIFICATE";
/// Variable of one that takes those without, too.
pub const INTERNAL_OPTIONAL: &str = "RDB_INTERNAL_OPTIONAL";
const DATA_DIR: &str = "/data";
const CHECKPOINT_DIR: &str = "/tmp/checkpoints";
const HOSTNAME_TOPOLOGY: &str = "kubernetes.io/hostname";

/// Variable of a replica that logs in at ZooKeeper.
pub const ZOOKEEPER_TOKEN: &str = "RDB_ZOOKEEPER_TOKEN_FILE";
/// Variable of one that lets everybody to what it makes there all the same.
pub const ZOOKEEPER_OPEN: &str = "RDB_ZOOKEEPER_OPEN";

/// The ServiceAccount of a tier. No pod mounts its token; it exists so that policies can name the tier.
pub fn service_account(validated: &Validated, tier: Tier) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(validated, validated.identity.tier(tier), tier),
        automount_service_account_token: Some(false),
        ..Default::default()
    }
}

/// The pod template of a tier.
pub fn template(validated: &Validated, tier: Tier, config: &BTreeMap<String, String>) -> PodTemplateSpec {
    let additions = additions(validated, tier);
    let mut labels = additions.labels.clone();
    labels.extend(validated.identity.labels(tier));
    let mut annotations = additions.annotations.clone();
    annotations.insert(ANNOTATION_CONFIG.to_owned(), digest(json!(config).to_string().as_bytes()));
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), annotations: Some(annotations), ..Default::default() }),
        spec: Some(pod(validated, tier, additions)),
    }
}

fn additions(validated: &Validated, tier: Tier) -> &PodAdditions {
    match tier {
        Tier::ZooKeeper => &validated.spec.zookeeper.pod,
        Tier::Cassandra => &validated.spec.cassandra.pod,
        Tier::Replica => &validated.spec.replica.pod,
    }
}

fn pod(validated: &Validated, tier: Tier, additions: &PodAdditions) -> PodSpec {
    let defaults = validated.pull(tier).map(|pull| pull.secrets.as_slice()).unwrap_or_default();
    let own = additions.image_pull_secrets.iter().filter(|name| !defaults.contains(name));
    let secrets = defaults.iter().chain(own).map(|name| LocalObjectReference { name: name.clone() });
    PodSpec {
        affinity: Some(additions.affinity.clone().unwrap_or_else(|| affinity(validated, tier))),
        tolerations: some(additions.tolerations.clone()),
        topology_spread_constraints: some(additions.topology_spread_constraints.clone()),
        priority_class_name: additions.priority_class_name.clone(),
        image_pull_secrets: some(secrets.collect()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        service_account_name: Some(validated.identity.tier(tier)),
        termination_grace_period_seconds: Some(grace_seconds(tier)),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        containers: vec![container(validated, tier)],
        volumes: Some(volumes(validated, tier)),
        ..Default::default()
    }
}

/// Time to stop in: ZooKeeper closes its files, Cassandra drains, a replica finishes what it has promised.
fn grace_seconds(tier: Tier) -> i64 {
    match tier {
        Tier::ZooKeeper => 30,
        Tier::Cassandra => 120,
        Tier::Replica => 90,
    }
}

fn container(validated: &Validated, tier: Tier) -> Container {
    let mut mounts = vec![mount("tmp", "/tmp", false)];
    if validated.storage(tier).is_some() {
        mounts.push(mount(DATA_VOLUME, DATA_DIR, false));
    }
    if tier != Tier::Replica {
        mounts.push(mount("config", CONFIG_DIR, true));
    }
    if has_token(validated, tier) {
        mounts.push(mount("secrets", SECRETS_DIR, true));
    }
    if superuser_secret(validated, tier).is_some() {
        mounts.push(mount("superuser", SUPERUSER_DIR, true));
    }
    if tls_secret(validated, tier).is_some() {
        mounts.push(mount("tls", TLS_DIR, true));
    }
    if peers_secret(validated, tier).is_some() {
        mounts.push(mount("internal", INTERNAL_DIR, true));
    }
    let [startup, liveness, readiness] = probes(tier);
    Container {
        name: tier.component().to_owned(),
        image: Some(validated.image(tier).to_owned()),
        image_pull_policy: Some(validated.pull(tier).map_or(PullPolicy::IfNotPresent, |pull| pull.policy).to_string()),
        args: (tier == Tier::Replica).then(|| vec!["replica".to_owned()]),
        env: Some(environment(validated, tier)),
        env_from: (tier == Tier::Replica).then(|| {
            vec![EnvFromSource {
                config_map_ref: Some(ConfigMapEnvSource { name: validated.identity.tier(tier), optional: None }),
                ..Default::default()
            }]
        }),
        ports: Some(service::ports(tier).iter().map(|&(name, port)| container_port(name, port)).collect()),
        resources: Some(resources(match tier {
            Tier::ZooKeeper => &validated.spec.zookeeper.resources,
            Tier::Cassandra => &validated.spec.cassandra.resources,
            Tier::Replica => &validated.spec.replica.resources,
        })),
        startup_probe: Some(startup),
        liveness_probe: Some(liveness),
        readiness_probe: Some(readiness),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Default::default() }),
            ..Default::default()
        }),
        volume_mounts: Some(mounts),
        ..Default::default()
    }
}

/// Store agents know their replicas by it, and ZooKeeper; a shared Cassandra's agent does as nobody asks.
fn has_token(validated: &Validated, tier: Tier) -> bool {
    match tier {
        Tier::ZooKeeper => false,
        Tier::Cassandra => true,
        Tier::Replica => !validated.shared() || validated.log_access != Phase::Off,
    }
}

/// What a replica is told of logging in at ZooKeeper.
fn log_access(validated: &Validated, tier: Tier) -> Vec<EnvVar> {
    if tier != Tier::Replica || validated.log_access == Phase::Off {
        return Vec::new();
    }
    let mut variables = vec![value(ZOOKEEPER_TOKEN, format!("{SECRETS_DIR}/{TOKEN_KEY}"))];
    variables.extend((validated.log_access == Phase::Both).then(|| value(ZOOKEEPER_OPEN, "true".to_owned())));
    variables
}

/// Whether a pod has a variable in its environment.
pub fn is_told(pod: &PodSpec, variable: &str) -> bool {
    pod.containers.iter().flat_map(|container| container.env.iter().flatten()).any(|found| found.name == variable)
}

/// The Secret that a tier's pods have the superuser from: replicas make the role.
fn superuser_secret(validated: &Validated, tier: Tier) -> Option<String> {
    validated.superuser_secret().filter(|_| tier == Tier::Replica)
}

/// The Secret that a tier's pods have the certificate from: clients see replicas alone.
fn tls_secret(validated: &Validated, tier: Tier) -> Option<String> {
    validated.tls_secret().filter(|_| tier == Tier::Replica)
}

/// The Secret that a tier's pods have the certificate from that they show each other.
fn peers_secret(validated: &Validated, tier: Tier) -> Option<String> {
    let knows = validated.inside != Phase::Off && tier != Tier::ZooKeeper;
    knows.then(|| validated.identity.peers())
}

/// What a tier's pods are told of it.
fn internal(validated: &Validated, tier: Tier) -> Vec<EnvVar> {
    if peers_secret(validated, tier).is_none() {
        return Vec::new();
    }
    let file = |name: &str, key: &str| value(name, format!("{INTERNAL_DIR}/{key}"));
    let mut variables = vec![
        file(INTERNAL_CERTIFICATE, CERTIFICATE_KEY),
        file("RDB_INTERNAL_KEY", PRIVATE_KEY_KEY),
        file("RDB_INTERNAL_CA", AUTHORITIES_KEY),
    ];
    let optional = validated.inside == Phase::Both;
    variables.extend(optional.then(|| value(INTERNAL_OPTIONAL, "true".to_owned())));
    variables
}

fn environment(validated: &Validated, tier: Tier) -> Vec<EnvVar> {
    let mut variables = own_environment(validated, tier);
    variables.extend(internal(validated, tier));
    variables.extend(log_access(validated, tier));
    variables
}

fn own_environment(validated: &Validated, tier: Tier) -> Vec<EnvVar> {
    let identity = &validated.identity;
    let zookeepers = 0..validated.size(Tier::ZooKeeper);
    match tier {
        Tier::ZooKeeper => {
            let server = |n| format!("server.{}={}:2888:3888;2181", n + 1, identity.host(Tier::ZooKeeper, n));
            vec![value("ZK_SERVERS", zookeepers.map(server).collect::<Vec<_>>().join(" "))]
        }
        Tier::Cassandra => {
            let mut variables = store(validated);
            // one plain Cassandra, without restore points
            variables.extend(validated.shared().then(|| value("RDB_SHARED", "true".to_owned())));
            let closed = validated.superuser_secret().map(|_| value(AUTHENTICATION, "true".to_owned()));
            variables.extend(closed);
            variables
        }
        Tier::Replica => {
            let server = |n| format!("{}:{PORT_ZOOKEEPER}", identity.host(Tier::ZooKeeper, n));
            let ensemble = zookeepers.map(server).collect::<Vec<_>>().join(",");
            if validated.shared() {
                let store = identity.host(Tier::Cassandra, 0);
                let mut variables = vec![
                    field("RDB_ADVERTISE", "status.podIP"),
                    value("RDB_CASSANDRA", format!("{store}:{PORT_CQL}")),
                    value("RDB_KEYSPACE", SHARED_KEYSPACE.to_owned()),
                    value("RDB_ZOOKEEPER", ensemble),
                ];
                variables.extend(certificate(validated));
                return variables;
            }
            // the replica puts its own ordinal in the place of {id}
            let store = identity.host(Tier::Cassandra, "{id}");
            let mut variables = vec![
                field("RDB_ADVERTISE", "status.podIP"),
                value("RDB_AGENT", format!("http://{store}:{}", crate::names::PORT_AGENT)),
                value("RDB_AGENT_TOKEN_FILE", format!("{SECRETS_DIR}/{TOKEN_KEY}")),
                value("RDB_CASSANDRA", format!("{store}:{PORT_CQL}")),
                // Made when they are asked for, to be copied: nothing is lost with the pod.
                value("RDB_CHECKPOINT_DIR", CHECKPOINT_DIR.to_owned()),
                value("RDB_ZOOKEEPER", ensemble),
            ];
            variables.extend(superuser_secret(validated, tier).into_iter().flat_map(superuser));
            variables.extend(certificate(validated));
            variables
        }
    }
}

/// What a replica is told of the superuser. The password is in a file, which follows the Secret while the replica runs.
fn superuser(secret: String) -> [EnvVar; 2] {
    let key = SecretKeySelector { name: secret, key: USERNAME_KEY.to_owned(), optional: None };
    let source = EnvVarSource { secret_key_ref: Some(key), ..Default::default() };
    [
        EnvVar { name: "RDB_SUPERUSER".to_owned(), value_from: Some(source), ..Default::default() },
        value("RDB_SUPERUSER_PASSWORD_FILE", format!("{SUPERUSER_DIR}/{PASSWORD_KEY}")),
    ]
}

/// What a replica is told of the certificate that clients are shown. It is in files, which follow the Secret while the replica runs.
fn certificate(validated: &Validated) -> Vec<EnvVar> {
    if validated.tls_secret().is_none() {
        return Vec::new();
    }
    let tls = &validated.spec.tls;
    let file = |name: &str, key: &str| value(name, format!("{TLS_DIR}/{key}"));
    let mut variables = vec![file("RDB_TLS_CERTIFICATE", CERTIFICATE_KEY), file("RDB_TLS_KEY", PRIVATE_KEY_KEY)];
    variables.extend(tls.client_certificates.then(|| file("RDB_TLS_CLIENT_CA", AUTHORITIES_KEY)));
    variables.extend(tls.optional.then(|| value("RDB_TLS_OPTIONAL", "true".to_owned())));
    variables
}

/// What the store agent is told.
fn store(validated: &Validated) -> Vec<EnvVar> {
    vec![
        field("RDB_BROADCAST_ADDRESS", "status.podIP"),
        value("RDB_CLUSTER_NAME", validated.identity.name.clone()),
        value("RDB_DATA_DIR", DATA_DIR.to_owned()),
        value("RDB_EXTRA_CONFIG", format!("{CONFIG_DIR}/{CASSANDRA_FILE}")),
        // The agent gives up a moment before the kubelet does.
        value("RDB_STOP_TIMEOUT", format!("{}s", grace_seconds(Tier::Cassandra) - 10)),
        value("RDB_PROFILE", if small(validated) { "small" } else { "default" }.to_owned()),
        value("RDB_TOKEN_FILE", format!("{SECRETS_DIR}/{TOKEN_KEY}")),
    ]
}

fn small(validated: &Validated) -> bool {
    let limit = validated.spec.cassandra.resources.limits.as_ref().and_then(|limits| limits.memory.as_ref());
    limit.is_some_and(|limit| {
        limit.compare(&Quantity(CASSANDRA_SMALL_BELOW.to_owned())).is_some_and(std::cmp::Ordering::is_lt)
    })
}

/// Startup, liveness and readiness. Liveness asks the process alone, so that a long replay, a lost quorum or a Cassandra
/// that is being rewound restarts nothing; readiness says whether it can do its work.
fn probes(tier: Tier) -> [Probe; 3] {
    let alive = || match tier {
        Tier::ZooKeeper => http("/commands/ruok", "admin"),
        Tier::Cassandra => Probe {
            tcp_socket: Some(TCPSocketAction { port: IntOrString::String("agent".to_owned()), host: None }),
            ..Default::default()
        },
        Tier::Replica => http("/livez", "admin"),
    };
    let ready = match tier {
        // in quorum
        Tier::ZooKeeper => Probe {
            exec: Some(ExecAction { command: Some(vec!["/opt/zookeeper/bin/ready".to_owned()]) }),
            ..Default::default()
        },
        // answers CQL, which a running JVM alone does not mean
        Tier::Cassandra => http("/readyz", "agent"),
        // caught up and serving (I5)
        Tier::Replica => http("/readyz", "admin"),
    };
    [
        timed(alive(), 2, 5, 90),
        timed(alive(), 10, 5, 6),
        timed(ready, if tier == Tier::ZooKeeper { 5 } else { 2 }, 5, 2),
    ]
}

fn http(path: &str, port: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(port.to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn timed(probe: Probe, period_seconds: i32, timeout_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        period_seconds: Some(period_seconds),
        timeout_seconds: Some(timeout_seconds),
        failure_threshold: Some(failure_threshold),
        ..probe
    }
}

fn volumes(validated: &Validated, tier: Tier) -> Vec<Volume> {
    let mut volumes =
        vec![Volume { name: "tmp".to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Default::default() }];
    if tier != Tier::Replica {
        volumes.push(Volume {
            name: "config".to_owned(),
            config_map: Some(ConfigMapVolumeSource { name: validated.identity.tier(tier), ..Default::default() }),
            ..Default::default()
        });
    }
    if has_token(validated, tier) {
        volumes.push(secret_volume("secrets", validated.identity.secret(), None));
    }
    if let Some(secret) = superuser_secret(validated, tier) {
        volumes.push(secret_volume("superuser", secret, Some(PASSWORD_KEY)));
    }
    if let Some(secret) = tls_secret(validated, tier) {
        volumes.push(secret_volume("tls", secret, None));
    }
    if let Some(secret) = peers_secret(validated, tier) {
        volumes.push(secret_volume("internal", secret, None));
    }
    volumes
}

/// A Secret as files that the group of the pod may read: all of its keys, or one.
fn secret_volume(name: &str, secret: String, key: Option<&str>) -> Volume {
    let item = |key: &str| KeyToPath { key: key.to_owned(), path: key.to_owned(), mode: None };
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(0o440),
            items: key.map(|key| vec![item(key)]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Pods of a tier keep apart, a replica and its Cassandra stay together; both as preferences, so that one node will do.
fn affinity(validated: &Validated, tier: Tier) -> Affinity {
    let beside = match tier {
        Tier::ZooKeeper => None,
        Tier::Cassandra => Some(Tier::Replica),
        Tier::Replica => Some(Tier::Cassandra),
    };
    let term = |tier, index: bool| PodAffinityTerm {
        label_selector: Some(LabelSelector {
            match_labels: Some(validated.identity.selector(tier)),
            ..Default::default()
        }),
        topology_key: HOSTNAME_TOPOLOGY.to_owned(),
        // the one with the same ordinal; a shared Cassandra is everybody's
        match_label_keys: (index && !validated.shared()).then(|| vec![LABEL_POD_INDEX.to_owned()]),
        ..Default::default()
    };
    let preferred = |weight, pod_affinity_term| vec![WeightedPodAffinityTerm { weight, pod_affinity_term }];
    Affinity {
        pod_affinity: beside.map(|other| PodAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(preferred(50, term(other, true))),
            ..Default::default()
        }),
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(preferred(100, term(tier, false))),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn resources(wished: &Resources) -> ResourceRequirements {
    let amounts = |amounts: &Option<ComputeAmounts>| {
        let amounts = amounts.as_ref()?;
        let pairs = [("cpu", &amounts.cpu), ("memory", &amounts.memory)];
        let map: BTreeMap<_, _> = pairs
            .into_iter()
            .filter_map(|(name, amount)| Some((name.to_owned(), amount.as_ref()?.quantity())))
            .collect();
        (!map.is_empty()).then_some(map)
    };
    ResourceRequirements { requests: amounts(&wished.requests), limits: amounts(&wished.limits), ..Default::default() }
}

fn container_port(name: &str, port: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: port,
        protocol: Some("TCP".to_owned()),
        ..Default::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..Default::default()
    }
}

fn value(name: &str, value: String) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value), ..Default::default() }
}

fn field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn some<T>(items: Vec<T>) -> Option<Vec<T>> {
    (!items.is_empty()).then_some(items)
}
