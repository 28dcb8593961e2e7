//! Keyspace mode: several replicas share one Cassandra, each confined to a keyspace of its own (design 7), for development
//! and the smallest installation.
//!
//! There is no store agent of the replica's, so nothing can be rewound. Instead the state is **rebuilt** after every
//! unclean end: everything that the log made in the keyspace is dropped, and the log is executed from the newest checkpoint
//! on ([`store`], [`crate::checkpoint`]), or from its beginning without one. Records carry unqualified names, which mean each replica's own keyspace ([`confine`], [`backend`]).

pub mod backend;
pub mod confine;
mod landing;
mod open;
pub mod store;

/// The table in each replica's keyspace in which it keeps what the store agent would.
pub const STATE_TABLE: &str = "replicateddb_state";
/// Pause between two looks at whether a newer incarnation of the replica has taken the keyspace.
const FENCE_WATCH: std::time::Duration = std::time::Duration::from_secs(1);

pub use backend::KeyspaceConnector;
pub use store::KeyspaceStore;
