//! The section of the spec that says who may log in.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Whether clients log in, and the first superuser.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct AuthenticationSpec {
    /// Clients log in by user name and password, and may do what has been granted to them. Switched on on a database that
    /// exists, its Cassandra and then its replica pods are replaced one by one; switched off, its replica pods.
    pub enabled: bool,
    /// Where the first superuser's name and password come from. The replicas see to it that this role exists with this
    /// password; a password that is changed in the Secret is changed in the database.
    pub superuser_secret: SuperuserSecret,
}

/// The Secret with the first superuser, of type `kubernetes.io/basic-auth` where the operator makes it.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SuperuserSecret {
    /// Name of a Secret of yours with the keys `username` and `password`, which the operator reads and never writes; without
    /// it the operator makes one, `NAME-superuser`, for the user `admin`, and never changes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: Option<String>,
}
