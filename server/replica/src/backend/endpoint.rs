//! Where a Cassandra is, and who the replica is there.

use std::fmt;

use replicateddb_store::login::Login;

/// The CQL port of a Cassandra, or of a replica, and how to log in there if it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// Who asks.
    pub login: Option<Login>,
}

impl Endpoint {
    /// One that may ask who it is.
    pub fn new(address: impl Into<String>, login: Option<Login>) -> Self {
        Self { address: address.into(), login }
    }
}

impl From<&str> for Endpoint {
    /// One that asks nobody who he is.
    fn from(address: &str) -> Self {
        Self::new(address, None)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}
