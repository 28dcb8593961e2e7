//! End-to-end tests and the demonstration: everything here drives the real product from outside, as its users do.
//!
//! - [`cluster`]: the Kubernetes cluster of `cluster/up`, through `kubectl` and `helm`;
//! - [`database`]: one `ReplicatedDB` on it: applying, waiting, replica states, digests;
//! - [`digests`]: whether a comparison of replicas compared anything;
//! - [`client`]: the in-cluster client pod that records every acknowledged write and finds each again;
//! - [`load`]: sessions and closed loops of requests, for measurements;
//! - [`timeline`]: the picture of a run as one self-contained HTML file;
//! - [`scenario`]: a runner for named scenarios that goes on after a failure and keeps what is needed to look into it;
//! - [`history`]: what clients were told, and whether it agrees with what each consistency level promises;
//! - [`kind`], [`local`] and [`drivers`]: the scenarios themselves.

pub mod client;
pub mod cluster;
pub mod database;
pub mod digests;
pub mod drivers;
pub mod history;
pub mod kind;
pub mod load;
pub mod local;
pub mod progress;
pub mod scenario;
pub mod timeline;
pub mod wait;
