//! Names, labels, annotations and ports: everything that the parts of the system know each other by.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use crate::crd::ReplicatedDB;

/// Field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "replicateddb-operator";
/// Value of `app.kubernetes.io/managed-by`.
pub const MANAGED_BY: &str = "replicateddb-operator";
/// Value of `app.kubernetes.io/name` on everything of a `ReplicatedDB`.
pub const APP_NAME: &str = "replicateddb";

/// Label: which program.
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
/// Label: which `ReplicatedDB`.
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
/// Label: which tier.
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// Label: who made it.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label that the StatefulSet controller puts on pods: the revision of the template they were made from.
pub const LABEL_REVISION: &str = "controller-revision-hash";
/// Label that the StatefulSet controller puts on pods: their ordinal.
pub const LABEL_POD_INDEX: &str = "apps.kubernetes.io/pod-index";
/// Label that lets a pod of the same namespace reach the replicas' admin port, for metrics and tools.
pub const LABEL_ADMIN_ACCESS: &str = "replicateddb.dev/admin-access";

/// Label that the API server puts on every namespace: its name.
pub const LABEL_NAMESPACE: &str = "kubernetes.io/metadata.name";

/// Annotation: digest of what was applied; it differs when a field was taken out.
pub const ANNOTATION_APPLIED: &str = "replicateddb.dev/applied";
/// Annotation of a pod template: digest of the rendered configuration.
pub const ANNOTATION_CONFIG: &str = "replicateddb.dev/config";
/// Annotation of a StatefulSet: version and digest of what its pods were asked to be, whatever the version of the operator.
pub const ANNOTATION_INPUTS: &str = "replicateddb.dev/inputs";
/// Annotation of a `ReplicatedDB`, set by the user: a new value takes over this operator's default images and templates.
pub const ANNOTATION_UPGRADE: &str = "replicateddb.dev/upgrade";

/// Annotation of the Secret: what the volumes that stay with it were made for.
pub const ANNOTATION_LAYOUT: &str = "replicateddb.dev/layout";
/// Annotation of the same Secret: the name of the superuser's, once one has been made, so that its loss is told from its absence.
pub const ANNOTATION_SUPERUSER: &str = "replicateddb.dev/superuser";

/// Annotation of the same Secret, once Cassandras have logins: the volumes have roles, and no Cassandra starts over them without.
pub const ANNOTATION_LOGINS: &str = "replicateddb.dev/logins";

/// Annotation of the same Secret: the name of the authority's, once one has been made, so that its loss is told from its absence.
pub const ANNOTATION_AUTHORITY: &str = "replicateddb.dev/authority";

/// Annotation of the same Secret, once replicas have logged in at ZooKeeper: what is in its volumes may be theirs alone, and nobody
/// reads it with another token.
pub const ANNOTATION_RESTRICTED: &str = "replicateddb.dev/restricted";

/// Key of the agent's token in the Secret.
pub const TOKEN_KEY: &str = "agent-token";
/// Keys of the superuser's Secret, as Kubernetes has them for the type [`SUPERUSER_TYPE`].
pub const USERNAME_KEY: &str = "username";
/// See [`USERNAME_KEY`].
pub const PASSWORD_KEY: &str = "password";
/// Type of the superuser's Secret.
pub const SUPERUSER_TYPE: &str = "kubernetes.io/basic-auth";
/// The superuser of a Secret that the operator makes.
pub const SUPERUSER_NAME: &str = "admin";
/// Key of a certificate, and those between it and its authority, in a Secret of type [`TLS_TYPE`].
pub const CERTIFICATE_KEY: &str = "tls.crt";
/// Key of the certificate's private key there.
pub const PRIVATE_KEY_KEY: &str = "tls.key";
/// Key of certificates of authorities there.
pub const AUTHORITIES_KEY: &str = "ca.crt";
/// Type of a Secret with a certificate.
pub const TLS_TYPE: &str = "kubernetes.io/tls";
/// Name of the volume and of the claim template.
pub const DATA_VOLUME: &str = "data";

/// CQL, of Cassandra and of replicas.
pub const PORT_CQL: i32 = 9042;
/// The store agent beside Cassandra.
pub const PORT_AGENT: i32 = 7070;
/// A replica's admin interface.
pub const PORT_ADMIN: i32 = 9470;
/// ZooKeeper for clients.
pub const PORT_ZOOKEEPER: i32 = 2181;
/// ZooKeeper, followers to leader.
pub const PORT_ZOOKEEPER_PEER: i32 = 2888;
/// ZooKeeper, election.
pub const PORT_ZOOKEEPER_ELECTION: i32 = 3888;
/// ZooKeeper's admin server.
pub const PORT_ZOOKEEPER_ADMIN: i32 = 8080;
/// ZooKeeper's metrics.
pub const PORT_ZOOKEEPER_METRICS: i32 = 7000;

/// A tier of the stack, in the order in which they are rolled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The ordered log.
    ZooKeeper,
    /// The stores.
    Cassandra,
    /// The replicas.
    Replica,
}

impl Tier {
    /// All, in rolling order.
    pub const ALL: [Self; 3] = [Self::ZooKeeper, Self::Cassandra, Self::Replica];

    /// Value of the component label and last part of object names.
    pub fn component(self) -> &'static str {
        match self {
            Self::ZooKeeper => "zookeeper",
            Self::Cassandra => "cassandra",
            Self::Replica => "replica",
        }
    }

    /// The condition that tells of the tier.
    pub fn condition(self) -> &'static str {
        match self {
            Self::ZooKeeper => "ZooKeeperReady",
            Self::Cassandra => "CassandraReady",
            Self::Replica => "ReplicasReady",
        }
    }

    /// The tier with this component label.
    pub fn from_component(component: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.component() == component)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZooKeeper => "ZooKeeper",
            Self::Cassandra => "Cassandra",
            Self::Replica => "replica",
        })
    }
}

/// Who a `ReplicatedDB` is: what names, labels and owner references derive from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
}

impl Identity {
    /// Of a resource read from the API server; `None` for one that lacks what every stored object has.
    pub fn of(rdb: &ReplicatedDB) -> Option<Self> {
        Some(Self { name: rdb.meta().name.clone()?, namespace: rdb.namespace()?, uid: rdb.uid()? })
    }

    /// Name of a tier's StatefulSet, ConfigMap, ServiceAccount, PodDisruptionBudget and NetworkPolicy.
    pub fn tier(&self, tier: Tier) -> String {
        format!("{}-{}", self.name, tier.component())
    }

    /// Name of the ConfigMap that records what a tier's pods are made from.
    pub fn template(&self, tier: Tier) -> String {
        format!("{}-template", self.tier(tier))
    }

    /// Name of a tier's headless Service.
    pub fn nodes(&self, tier: Tier) -> String {
        format!("{}-nodes", self.tier(tier))
    }

    /// Name of the Secret with the agents' token.
    pub fn secret(&self) -> String {
        format!("{}-internal", self.name)
    }

    /// Name of the Secret with the superuser that the operator makes.
    pub fn superuser(&self) -> String {
        format!("{}-superuser", self.name)
    }

    /// Name of the Secret with the authority that the operator makes, and signs the replicas' certificate by.
    pub fn authority(&self) -> String {
        format!("{}-authority", self.name)
    }

    /// Name of the Secret with that certificate.
    pub fn certificate(&self) -> String {
        format!("{}-certificate", self.name)
    }

    /// Name of the Secret with the certificate that replicas and store agents show each other.
    pub fn peers(&self) -> String {
        format!("{}-peers", self.name)
    }

    /// Host name of a pod, stable across its lives; `ordinal` may be a placeholder.
    pub fn host(&self, tier: Tier, ordinal: impl fmt::Display) -> String {
        format!("{}-{ordinal}.{}.{}.svc", self.tier(tier), self.nodes(tier), self.namespace)
    }

    /// Labels that never change: selectors and claim templates carry exactly these.
    pub fn selector(&self, tier: Tier) -> BTreeMap<String, String> {
        [(LABEL_NAME, APP_NAME), (LABEL_INSTANCE, self.name.as_str()), (LABEL_COMPONENT, tier.component())]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    /// Labels of an object of a tier.
    pub fn labels(&self, tier: Tier) -> BTreeMap<String, String> {
        let mut labels = self.selector(tier);
        labels.insert(LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned());
        labels
    }

    /// Selects everything that belongs to the resource.
    pub fn label_query(&self) -> String {
        format!("{LABEL_NAME}={APP_NAME},{LABEL_INSTANCE}={}", self.name)
    }

    /// The owner reference of everything that goes when the resource goes.
    pub fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: ReplicatedDB::api_version(&()).into_owned(),
            kind: ReplicatedDB::kind(&()).into_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }
    }
}

/// The ordinal at the end of a pod's or claim's name.
pub fn ordinal(name: &str) -> Option<i32> {
    name.rsplit_once('-')?.1.parse().ok()
}

/// First 16 hexadecimal digits of the SHA-256 of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::NAME_LENGTH_MAX;

    /// The longest label value that Kubernetes takes.
    const LABEL_LENGTH_MAX: usize = 63;

    #[test]
    fn the_longest_name_leaves_room_for_derived_ones() {
        let identity = Identity { name: "a".repeat(NAME_LENGTH_MAX), namespace: "n".repeat(63), uid: "u".into() };
        for tier in Tier::ALL {
            // the StatefulSet controller makes a revision name of it: a dash and up to 10 characters
            assert!(identity.tier(tier).len() + 11 <= LABEL_LENGTH_MAX, "{tier}");
            assert!(identity.nodes(tier).len() <= LABEL_LENGTH_MAX, "{tier}");
            assert!(identity.host(tier, 10).len() <= 253, "{tier}");
        }
    }

    #[test]
    fn ordinals() {
        assert_eq!(ordinal("data-a-cassandra-12"), Some(12));
        assert_eq!(ordinal("a-cassandra-"), None);
        assert_eq!(ordinal("nodash"), None);
    }
}
