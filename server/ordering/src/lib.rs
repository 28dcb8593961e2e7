//! The ordered log: one global, durable order of entries that every replica appends to and reads.
//!
//! [`OrderedLog`] is the contract. [`znode_log::ZnodeLog`] keeps the order in ZooKeeper without a leader,
//! [`zookeeper_leader::ZooKeeperLeader`] with one; [`consensus::ConsensusLog`] needs no ZooKeeper: the replicas keep it
//! themselves, by Raft. [`memory::MemoryLog`] keeps it in the process, for tests, and can be told to fail in the ways a real one
//! does. [`members`] tells which replicas live. Every engine passes the same suite (feature `conformance`).

#[cfg(feature = "conformance")]
pub mod conformance;
mod connection;
pub mod consensus;
#[cfg(feature = "conformance")]
pub mod fixture;
mod framing;
mod leader;
mod log;
pub mod members;
pub mod memory;
mod position;
pub mod presence;
pub mod silence;
pub mod state_log;
pub mod truncation;
pub mod znode_log;
pub mod zookeeper_leader;

pub use log::{
    AppendError, Appended, Beginning, Committed, Incarnation, Leadership, Life, LogError, LogHealth, LogId, OrderedLog,
    TailError,
};
pub use position::{ParsePositionError, Position};
