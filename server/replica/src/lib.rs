//! The replica: it proposes client requests to the ordered log, applies the log to its own Cassandra in the
//! one global order, exactly once, and serves clients only while it has caught up.
//!
//! Deciding is pure ([`record`], [`state`], [`lanes`]), doing is thin (the other modules).
//!
//! ```text
//! sessions ─► propose ─► ordered log ─► apply ─► backend (Cassandra)
//!                 ▲          tail     │  state, lanes, execute, restore_point
//!                 └── outcome ────────┘
//! supervise: recovery (take_over) → replay → barrier → serving; again when the backend dies
//! log_keeper: what restore points need of the log, and giving up the rest; log_room: how much it may hold
//! premise: by which schema a statement was judged, and whether that still holds
//! stuck, look_ahead: records that Cassandra fails to execute, until a verdict on them (verdict) or success
//! ```

pub mod admin;
mod apply;
pub mod backend;
mod barrier;
mod bell;
mod cadence;
pub mod checkpoint;
pub mod clock;
mod command;
pub mod config;
mod execute;
pub mod frontend;
pub mod frontier;
pub mod keyspace;
mod lag;
pub mod lanes;
mod log_keeper;
mod log_room;
mod look_ahead;
pub mod metrics;
pub mod mutations;
mod premise;
pub mod propose;
pub mod reads;
pub mod record;
mod recovery;
pub mod replica;
mod restore_point;
mod shared;
pub mod site;
pub mod state;
pub mod stream;
mod stuck;
mod supervise;
mod take_over;
mod tick;
pub mod tls;
mod unresolved;
pub mod verdict;
mod watermark;

pub use replica::ReplicaHandle;
