//! Where a Cassandra is, and who the replica is there.

use std::fmt;

use replicateddb_store::{internal::Internal, login::Login};

/// The CQL port of a Cassandra, or of a replica, and how to log in there if it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `host:port`.
    pub address: String,
    /// Who asks.
    pub login: Option<Login>,
    /// With TLS or without.
    pub internal: Internal,
}

impl Endpoint {
    /// One that may ask who it is.
    pub fn new(address: impl Into<String>, login: Option<Login>) -> Self {
        Self { address: address.into(), login, internal: Internal::default() }
    }

    /// The same over TLS, where the processes of the database use it.
    #[must_use]
    pub fn over(self, internal: Internal) -> Self {
        Self { internal, ..self }
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
