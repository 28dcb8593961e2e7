//! The front end: CQL clients on one side, the order and the local Cassandra on the other.
//!
//! Each client connection has one connection to the local Cassandra, of the same protocol version. Reads, PREPARE and errors pass through byte for
//! byte (but for the consistency level, which becomes ONE: the backend is one node); writes are put in the order and
//! answered with the outcome of their execution here. What can't be replicated yet is refused ([`refuse`]).

mod access;
mod answer;
mod classes;
mod control;
mod core;
mod early;
mod events;
#[cfg(test)]
mod fake;
mod handshake;
mod levels;
pub mod limits;
mod listener;
mod metrics;
mod peers;
mod plan;
mod prepared;
mod refuse;
mod relay;
mod schema;
mod select;
mod service;
mod session;
#[cfg(test)]
mod session_tests;
mod shares;
mod socket;
pub mod superuser;
pub mod tls;
mod tokens;
mod topology;
mod write;
#[cfg(test)]
mod write_tests;

/// What judges texts of clients, for fuzz targets.
#[cfg(feature = "fuzzing")]
pub mod fuzzing {
    pub use super::plan::{Plan, Refusal, WritePlan, plan};
    pub use super::refuse::{lexed, too_deep};
    pub use super::select::Select;
    pub use super::topology::Table;
}

pub use self::core::Core;
pub use listener::{Config, Frontend};
pub use metrics::Metrics;
pub use peers::{PeerState, Peers};
pub use tokens::tokens;
pub use topology::Identity;
