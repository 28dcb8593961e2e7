//! The store agent beside each Cassandra, and its client.
//!
//! The agent is the only one that starts and stops the JVM and the only one that touches its files. It gives the
//! replica three promises: a directory whose JVM runs was clean or just rewound when it was started; a rewind ends in
//! exactly the state of a restore point, whatever crashes in between (I10); and an incarnation of the replica that was
//! replaced changes nothing (I6).

pub mod agent;
pub mod api;
pub mod bearer;
pub mod bounded;
pub mod client;
pub mod generation;
pub mod internal;
pub mod login;
pub mod tls;
