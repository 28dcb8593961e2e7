//! The sections of the spec: ordering, and one for each tier.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration, TopologySpreadConstraint};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Amount, Settings, settings};

/// A CEL rule of the schema: what must hold, and what to do about it when it does not.
fn rule(rule: &str, message: &str) -> serde_json::Value {
    serde_json::json!({"rule": rule, "message": message})
}

/// A rule about what may not change.
fn forbidden(rule: &str, message: &str) -> serde_json::Value {
    serde_json::json!({"rule": rule, "message": message, "reason": "FieldValueForbidden"})
}

/// How writes are put in order.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule("!has(self.log.maxBytes) || !has(self.restorePoints.bytes) || self.restorePoints.bytes <= self.log.maxBytes / 4", "restorePoints.bytes must be at most a quarter of log.maxBytes: what two of them are apart stays in the log; lower it or raise log.maxBytes")]))]
pub struct OrderingSpec {
    /// The engine. `ZnodeLog`: leaderless, every replica appends its batches as sequential znodes, and ZooKeeper's order
    /// is the order. `ZooKeeperLeader`: the replicas elect one of them in ZooKeeper, which appends for all; one that stops hands
    /// over, one that dies is replaced when its session ends.
    #[schemars(extend("x-kubernetes-validations" = [forbidden("self == oldSelf", "the engine can't change: the log is its own; put it back, or create another ReplicatedDB with the wanted engine and copy the data")]))]
    pub engine: Engine,
    /// How a replica gathers writes into entries of the log.
    pub batching: Batching,
    /// How often a replica saves a state to replay from.
    pub restore_points: RestorePoints,
    /// How much the log may hold.
    pub log: LogBounds,
}

/// Bounds of the log, which every ZooKeeper server holds in memory. Its beginning is given up behind the older of each
/// replica's two restore points.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule("!has(self.maxBytes) || !has(self.behindBytes) || self.behindBytes <= self.maxBytes / 2", "behindBytes must be at most half of maxBytes: what comes behind the restore points needs room, too; lower it or raise maxBytes")]))]
pub struct LogBounds {
    /// Bytes that the log may hold, 300 for each entry included. From seven eighths on writes are slowed, beyond it they are
    /// refused until some of it is given up. Without it three eighths of ZooKeeper's heap, which follows from
    /// `zookeeper.resources.limits.memory`: about 100 MB for 384Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16_777_216, max = 68_719_476_736_i64))]
    pub max_bytes: Option<i64>,
    /// Bytes that a replica that is away may be behind the others' restore points; then the log waits for it no longer, and it
    /// copies a restore point when it comes back. Without it a third of what the log may hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_048_576, max = 34_359_738_368_i64))]
    pub behind_bytes: Option<i64>,
}

/// Ordering engines that work.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// Sequential znodes.
    #[default]
    ZnodeLog,
    /// A leader.
    ZooKeeperLeader,
}

/// Bounds of an entry and of what is under way. A replica waits for nothing: it sends what has gathered as soon as fewer
/// than `inFlight` entries are under way.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Batching {
    /// Most records in one entry.
    #[schemars(range(min = 1, max = 10_000))]
    pub max_records: i32,
    /// Most bytes in one entry, 24576 at most; a larger record goes alone, beside the entry.
    #[schemars(range(min = 4_096, max = 262_144))]
    pub max_bytes: i32,
    /// Most entries under way at once.
    #[schemars(range(min = 1, max = 64))]
    pub in_flight: i32,
}

impl Default for Batching {
    fn default() -> Self {
        Self { max_records: 1_024, max_bytes: 24_576, in_flight: 2 }
    }
}

/// A restore point is taken when one of these is reached. More often: shorter replays, more flushes of Cassandra.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct RestorePoints {
    /// Seconds since the last one.
    #[schemars(range(min = 5, max = 86_400))]
    pub interval_seconds: i32,
    /// Records since the last one.
    #[schemars(range(min = 100, max = 100_000_000))]
    pub records: i32,
    /// Bytes of the log since the last one. Without it 24 MiB, or a quarter of what the log may hold if that is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_048_576, max = 17_179_869_184_i64))]
    pub bytes: Option<i64>,
}

impl Default for RestorePoints {
    fn default() -> Self {
        Self { interval_seconds: 60, records: 100_000, bytes: None }
    }
}

/// The ZooKeeper ensemble.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule("has(self.resources.limits) && has(self.resources.limits.memory) && quantity(string(self.resources.limits.memory)).compareTo(quantity('256Mi')) >= 0", "resources.limits.memory must be set and at least 256Mi: the Java heap is sized from it; raise it")]))]
pub struct ZooKeeperSpec {
    /// Number of servers, odd: 3 tolerate the loss of one, 5 of two.
    #[schemars(range(min = 1, max = 7))]
    #[schemars(extend("x-kubernetes-validations" = [rule("self % 2 == 1", "size must be odd (1, 3, 5 or 7): an even number tolerates no more failures than one less; add or take one"), forbidden("self == oldSelf", "size can't change after creation; keep it, or create another ReplicatedDB of the wanted size and copy the data")]))]
    pub size: i32,
    /// Image; without it the operator's default at the time the resource was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[^\s]+$"))]
    pub image: Option<String>,
    /// CPU and memory of each pod.
    pub resources: Resources,
    /// The volume of each pod.
    pub storage: Storage,
    /// Additions to the pods.
    pub pod: PodAdditions,
    /// Settings of `zoo.cfg`, by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "settings::zookeeper_schema")]
    pub config: Settings,
    /// Only the database's replicas may read and change what they keep in ZooKeeper, by a password that follows from the token in the
    /// Secret `NAME-internal`: with another token the log can't be read any more, so keep a copy. Switched on, the replica
    /// pods are replaced one by one, twice: first they log in and keep nobody away; switched off, once, and they go on logging in.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restricted: bool,
}

impl Default for ZooKeeperSpec {
    fn default() -> Self {
        Self {
            size: 3,
            image: None,
            resources: Resources::of("50m", "384Mi"),
            storage: Storage::default(),
            pod: PodAdditions::default(),
            config: Settings::new(),
            restricted: false,
        }
    }
}

/// The Cassandra behind each replica.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule("has(self.resources.limits) && has(self.resources.limits.memory) && quantity(string(self.resources.limits.memory)).compareTo(quantity('1Gi')) >= 0", "resources.limits.memory must be set and at least 1Gi: Cassandra's heap is sized from it; raise it")]))]
pub struct CassandraSpec {
    /// `PerReplica`: each replica has a Cassandra of its own, which nobody else reaches. `Shared`: one Cassandra for all,
    /// each replica in a keyspace of its own; the smallest installation, for development: it is one point of failure, and
    /// replicas build their data anew whenever it restarts.
    #[schemars(extend("x-kubernetes-validations" = [forbidden("self == oldSelf", "mode can't change: the data lie elsewhere; put it back, or create another ReplicatedDB with the wanted mode and copy the data")]))]
    pub mode: CassandraMode,
    /// Image; without it the operator's default at the time the resource was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[^\s]+$"))]
    pub image: Option<String>,
    /// CPU and memory of each pod.
    pub resources: Resources,
    /// The volume of each pod.
    pub storage: Storage,
    /// Additions to the pods.
    pub pod: PodAdditions,
    /// Settings of `cassandra.yaml`, by name; the same for every replica.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "settings::cassandra_schema")]
    pub config: Settings,
}

impl Default for CassandraSpec {
    fn default() -> Self {
        Self {
            mode: CassandraMode::default(),
            image: None,
            resources: Resources::of("200m", "1280Mi"),
            storage: Storage::default(),
            pod: PodAdditions::default(),
            config: Settings::new(),
        }
    }
}

/// Which replica uses which Cassandra.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CassandraMode {
    /// One for each.
    #[default]
    PerReplica,
    /// One for all.
    Shared,
}

/// The replicas. They keep no state of their own, so they have no volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [rule("!has(self.resources.limits) || !has(self.resources.limits.memory) || quantity(string(self.resources.limits.memory)).compareTo(quantity('128Mi')) >= 0", "resources.limits.memory must be at least 128Mi; raise it or leave it out")]))]
pub struct ReplicaSpec {
    /// Image; without it the operator's default at the time the resource was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[^\s]+$"))]
    pub image: Option<String>,
    /// CPU and memory of each pod.
    pub resources: Resources,
    /// Additions to the pods.
    pub pod: PodAdditions,
    /// Settings of the replica process.
    pub config: ReplicaConfig,
}

impl Default for ReplicaSpec {
    fn default() -> Self {
        Self {
            image: None,
            resources: Resources::of("100m", "256Mi"),
            pod: PodAdditions::default(),
            config: ReplicaConfig::default(),
        }
    }
}

/// Settings of the replica process.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaConfig {
    /// Seconds after which ZooKeeper gives up a silent replica.
    #[schemars(range(min = 4, max = 40))]
    pub session_timeout_seconds: i32,
    /// Form of its log lines.
    pub log_format: LogFormat,
}

impl Default for ReplicaConfig {
    fn default() -> Self {
        Self { session_timeout_seconds: 6, log_format: LogFormat::Json }
    }
}

/// Form of log lines.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// CPU and memory of a pod.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [rule("!has(self.requests) || !has(self.limits) || !has(self.requests.memory) || !has(self.limits.memory) || quantity(string(self.requests.memory)).compareTo(quantity(string(self.limits.memory))) <= 0", "requests.memory must not exceed limits.memory; lower the request or raise the limit"), rule("!has(self.requests) || !has(self.limits) || !has(self.requests.cpu) || !has(self.limits.cpu) || quantity(string(self.requests.cpu)).compareTo(quantity(string(self.limits.cpu))) <= 0", "requests.cpu must not exceed limits.cpu; lower the request or raise the limit")]))]
pub struct Resources {
    /// What the scheduler sets aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<ComputeAmounts>,
    /// What the pod may not exceed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ComputeAmounts>,
}

impl Resources {
    fn of(cpu: &str, memory: &str) -> Self {
        let memory = Some(Amount::fixed(memory));
        Self {
            requests: Some(ComputeAmounts { cpu: Some(Amount::fixed(cpu)), memory: memory.clone() }),
            limits: Some(ComputeAmounts { cpu: None, memory }),
        }
    }
}

/// Amounts of CPU and memory.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ComputeAmounts {
    /// Cores: `2`, `500m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Amount>,
    /// Bytes: `512Mi`, `4Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Amount>,
}

/// The volume of each pod of a tier.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = [forbidden("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)", "storageClassName can't change: volumes don't move between classes; put it back, or create another ReplicatedDB with the wanted class and copy the data")]))]
pub struct Storage {
    /// Size of the volume. It may grow where the storage class can expand volumes; it can't shrink.
    #[schemars(extend("x-kubernetes-validations" = [rule("quantity(string(self)).compareTo(quantity('0')) > 0", "size must be more than 0, for example 10Gi")]))]
    pub size: Amount,
    /// Storage class; without it the cluster's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// What happens to the volumes when this resource is deleted. `Retain` keeps them, and a resource of the same name
    /// takes them over; `Delete` deletes them and the data in them.
    pub on_delete: OnDelete,
}

impl Default for Storage {
    fn default() -> Self {
        Self { size: Amount::fixed("10Gi"), storage_class_name: None, on_delete: OnDelete::Retain }
    }
}

/// What happens to volumes when the resource is deleted.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDelete {
    /// They stay.
    #[default]
    Retain,
    /// They go, with the data.
    Delete,
}

/// Additions to the pods of a tier.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct PodAdditions {
    /// More labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels_schema")]
    pub labels: BTreeMap<String, String>,
    /// More annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "annotations_schema")]
    pub annotations: BTreeMap<String, String>,
    /// Where pods may run; replaces the operator's own preferences (apart from each other, a replica beside its Cassandra).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Taints that pods tolerate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// How pods spread over zones or nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Priority class of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
    /// Names of Secrets with registry credentials for the image.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 253)))]
    pub image_pull_secrets: Vec<String>,
}

/// Prefixes that the operator keeps for itself.
const RESERVED: &str = "self.all(key, !key.startsWith('app.kubernetes.io/') && !key.startsWith('replicateddb.dev/'))";
const RESERVED_MESSAGE: &str =
    "keys that start with app.kubernetes.io/ or replicateddb.dev/ are the operator's own; use another prefix";

/// What Kubernetes takes as a key of a label or annotation, and as the value of a label: what it refuses, it would refuse of
/// pods only once they are made.
const KEYS: &str = "self.all(key, key.matches('^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$'))";
const KEYS_MESSAGE: &str = "a key is a name of at most 63 letters, digits, '-', '_' and '.', with an optional DNS name and '/' before it, for example example.com/team";
const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

fn labels_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    metadata_schema(serde_json::json!({"type": "string", "maxLength": 63, "pattern": LABEL_VALUE}))
}

fn annotations_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    metadata_schema(serde_json::json!({"type": "string", "maxLength": 4096}))
}

fn metadata_schema(value: serde_json::Value) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": value,
        "x-kubernetes-validations": [rule(RESERVED, RESERVED_MESSAGE), rule(KEYS, KEYS_MESSAGE)],
    })
}
