//! What the operator reports about a `ReplicatedDB`.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State as last observed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ReplicatedDBStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What is being done, waited for, or needed from you.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Host and port for CQL clients inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Name of the Secret with the superuser that clients can log in as; none while they need not log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superuser_secret: Option<String>,
    /// Name of the Secret with the certificate that clients are shown; of one that the operator made, `ca.crt` is what they trust.
    /// None while they don't use TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_secret: Option<String>,
    /// Replica pods that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Replicas that have caught up and serve clients.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Label selector of the replica pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// `Available`, `Progressing`, `Degraded`, and one for each tier: `ZooKeeperReady`, `CassandraReady`, `ReplicasReady`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Each replica as it described itself at `membersObservedAt`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["id".into()]))]
    pub members: Vec<MemberStatus>,
    /// When `members` was taken. Indexes enter at most every 30 seconds and only while writes flow; the replicas' own
    /// metrics are the live source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members_observed_at: Option<Time>,
    /// What the pods run. A new operator does not change it: see the annotation `replicateddb.dev/upgrade`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Release>,
    /// Size of the largest volume of each tier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageStatus>,
}

/// A replica as it described itself.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Ordinal of the replica.
    pub id: i32,
    /// `starting`, `recovering`, `replaying`, `serving`, `stopping`, `failed`, or `unknown` when it does not answer.
    pub state: String,
    /// Index of the last record applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_index: Option<i64>,
    /// Records between it and the end of the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<i64>,
    /// What it is doing, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The images and the pod templates in use.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// Images that were resolved from the operator's defaults; one named in the spec goes before.
    pub images: Images,
    /// How those of the operator's defaults are pulled.
    #[serde(default)]
    pub pull: Pull,
    /// Version of the operator's pod templates that the pods were made from.
    pub template_version: i32,
    /// The programs in the images know TLS with their like, and logins at ZooKeeper.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secures: bool,
    /// Value of the annotation `replicateddb.dev/upgrade` that was last acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<String>,
}

/// How default images are pulled; one named in the spec is pulled if it is not present, with the Secrets named there.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Pull {
    /// When.
    #[serde(default)]
    pub policy: PullPolicy,
    /// Names of Secrets with registry credentials, in the namespace of the resource.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<String>,
}

/// When an image is pulled.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// Before each start of a container.
    Always,
    /// Where the node does not have it.
    #[default]
    IfNotPresent,
    /// Never: the nodes have it.
    Never,
}

impl std::fmt::Display for PullPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// One image for each tier.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// Image of the ZooKeeper pods.
    pub zookeeper: String,
    /// Image of the Cassandra pods.
    pub cassandra: String,
    /// Image of the replica pods.
    pub replica: String,
}

/// Size of the largest volume of each tier.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct StorageStatus {
    /// Of the ZooKeeper pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zookeeper: Option<String>,
    /// Of the Cassandra pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cassandra: Option<String>,
}
