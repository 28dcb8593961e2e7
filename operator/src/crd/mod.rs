//! The custom resource `ReplicatedDB`, version `v1alpha1`.
//!
//! What a user may write is here and nowhere else: types, bounds, defaults and the CEL rules with their messages. A rule
//! names the field by where it sits and its message names the remedy. Fields that do nothing do not exist.
//!
//! [`definition`] is what gets installed: the derived definition with every string, list and map bounded and with the
//! long descriptions of embedded Kubernetes types taken out.

mod amount;
mod authentication;
mod definition;
mod reference;
mod settings;
mod status;
mod tiers;
mod tls;

pub use amount::{Amount, AmountError, compare};
pub use authentication::{AuthenticationSpec, SuperuserSecret};
pub use definition::{DefinitionError, definition, yaml};
pub use reference::reference;
pub use settings::{CASSANDRA_FORMS, CASSANDRA_KEYS, Settings, TIMEOUT_FLOORS, ZOOKEEPER_KEYS};
pub use status::{Images, MemberStatus, Pull, PullPolicy, Release, ReplicatedDBStatus, StorageStatus};
pub use tiers::{
    Batching, CassandraMode, CassandraSpec, ComputeAmounts, Engine, LogBounds, LogFormat, OnDelete, OrderingSpec,
    PodAdditions, ReplicaConfig, ReplicaSpec, Resources, RestorePoints, Storage, ZooKeeperSpec,
};
pub use tls::TlsSpec;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// Longest allowed name of a resource: names derived from it (`NAME-zookeeper-0`, the revision label of its pods) must
/// fit the 63 characters of a label.
pub const NAME_LENGTH_MAX: usize = 40;

/// The wish of a user: one replicated database.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "replicateddb.dev",
    version = "v1alpha1",
    kind = "ReplicatedDB",
    plural = "replicateddbs",
    shortname = "rdb",
    namespaced,
    status = "ReplicatedDBStatus",
    derive = "PartialEq",
    doc = "A CQL database whose every write has one place in one global order, executed by every replica.",
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".spec.replicas", description = "Replicas asked for"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas", description = "Replicas that serve clients"),
    printcolumn(name = "Available", type_ = "string", json_path = ".status.conditions[?(@.type=='Available')].status"),
    printcolumn(name = "Progressing", type_ = "string", json_path = ".status.conditions[?(@.type=='Progressing')].status", priority = 1),
    printcolumn(name = "Degraded", type_ = "string", json_path = ".status.conditions[?(@.type=='Degraded')].status"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    validation = Rule::new("self.metadata.name.size() <= 40").message("metadata.name must be at most 40 characters, so that the names derived from it fit; choose a shorter name"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must start with a letter and consist of lower-case letters, digits and '-' (a Service carries it); choose another name"),
    validation = Rule::new("quantity(string(self.spec.zookeeper.storage.size)).compareTo(quantity(string(oldSelf.spec.zookeeper.storage.size))) >= 0 || (has(self.status) && has(self.status.storage) && has(self.status.storage.zookeeper) && quantity(self.status.storage.zookeeper).compareTo(quantity(string(self.spec.zookeeper.storage.size))) <= 0)")
        .message("spec.zookeeper.storage.size can't shrink below what its volumes have (status.storage.zookeeper); set it to that or more")
        .field_path(".spec.zookeeper.storage.size")
        .reason(Reason::FieldValueForbidden),
    validation = Rule::new("quantity(string(self.spec.cassandra.storage.size)).compareTo(quantity(string(oldSelf.spec.cassandra.storage.size))) >= 0 || (has(self.status) && has(self.status.storage) && has(self.status.storage.cassandra) && quantity(self.status.storage.cassandra).compareTo(quantity(string(self.spec.cassandra.storage.size))) <= 0)")
        .message("spec.cassandra.storage.size can't shrink below what its volumes have (status.storage.cassandra); set it to that or more")
        .field_path(".spec.cassandra.storage.size")
        .reason(Reason::FieldValueForbidden)
)]
#[x_kube(validation = Rule::new("self.zookeeper.storage.onDelete != 'Delete' || self.cassandra.storage.onDelete == 'Delete'")
    .message("zookeeper.storage.onDelete: Delete would delete the log and leave Cassandra volumes that can't be used without it; set it to Retain, or cassandra.storage.onDelete to Delete too"))]
#[x_kube(validation = Rule::new("!self.authentication.enabled || self.cassandra.mode != 'Shared'")
    .message("authentication.enabled can't be true with cassandra.mode: Shared: replicas that share a Cassandra would share its roles, too, past the log; set it to false, or create another ReplicatedDB with cassandra.mode: PerReplica"))]
#[x_kube(validation = Rule::new("!self.tls.enabled || !self.tls.clientCertificates || has(self.tls.secretName)")
    .message("tls.clientCertificates needs tls.secretName: the operator makes no certificates for clients; set it to the name of a Secret of yours, whose ca.crt has the authorities of clients, or set tls.clientCertificates to false"))]
#[x_kube(validation = Rule::new("!self.tls.enabled || !self.tls.optional || !self.tls.clientCertificates || self.authentication.enabled")
    .message("tls.optional can't be true with tls.clientCertificates: clients without TLS show no certificate, and nobody asks them to log in; set it to false, or authentication.enabled to true"))]
#[cfg_attr(test, kube(cel))] // evaluated by the unit tests; the interpreter is a dev-dependency and not in the binary
#[serde(rename_all = "camelCase")]
pub struct ReplicatedDBSpec {
    /// Number of replicas. Each executes every write on a Cassandra of its own and serves clients. One is enough to try
    /// it; three survive the loss of one without an interruption of reads.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 9))]
    pub replicas: i32,
    /// How writes are put in order.
    #[serde(default)]
    pub ordering: OrderingSpec,
    /// The ZooKeeper ensemble that holds the ordered log.
    #[serde(default)]
    pub zookeeper: ZooKeeperSpec,
    /// The Cassandra behind each replica.
    #[serde(default)]
    pub cassandra: CassandraSpec,
    /// The replicas themselves: they speak CQL with clients, and propose and apply the records of the log.
    #[serde(default)]
    pub replica: ReplicaSpec,
    /// Whether clients log in, and the first superuser. Roles and permissions are CQL, put in order like every other write.
    #[serde(default)]
    pub authentication: AuthenticationSpec,
    /// Whether clients use TLS, and the certificate that they are shown; and whether replicas and store agents do.
    #[serde(default)]
    pub tls: TlsSpec,
}

impl Default for ReplicatedDBSpec {
    fn default() -> Self {
        Self {
            replicas: three(),
            ordering: OrderingSpec::default(),
            zookeeper: ZooKeeperSpec::default(),
            cassandra: CassandraSpec::default(),
            replica: ReplicaSpec::default(),
            authentication: AuthenticationSpec::default(),
            tls: TlsSpec::default(),
        }
    }
}

fn three() -> i32 {
    3
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod rules_tests;
