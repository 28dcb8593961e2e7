//! The section of the spec that says whether clients use TLS.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// TLS between clients and replicas, and inside.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct TlsSpec {
    /// Clients use TLS. Switched on or off, or changed in another way, the replica pods are replaced one by one.
    pub enabled: bool,
    /// Name of a Secret of yours of type `kubernetes.io/tls`, such as cert-manager makes, which the operator reads and never
    /// writes: replicas show clients the certificate in its `tls.crt`, whose key is in `tls.key`. Others that are put into the
    /// Secret are used for new connections within a minute or two; no pod restarts. Without a name the operator makes an authority
    /// and a certificate signed by it, and renews that: `status.tlsSecret` names its Secret, whose `ca.crt` clients trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub secret_name: Option<String>,
    /// Clients show a certificate, too, of an authority whose own is in the Secret's `ca.crt`. They log in all the same where
    /// that is asked for. Needs `secretName`.
    pub client_certificates: bool,
    /// Clients without TLS are served as well, and show no certificate: for as long as the clients of a running database change
    /// over.
    pub optional: bool,
    /// Replicas, store agents and Cassandras speak TLS with each other, whatever clients do, and both sides show a certificate of an
    /// authority that the operator makes. Switched on or off, the Cassandra and replica pods are replaced one by one, twice: first they take
    /// both, then one alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub internal: bool,
}
