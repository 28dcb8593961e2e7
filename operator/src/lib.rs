//! The operator of ReplicatedDB: one `ReplicatedDB` resource becomes ZooKeeper, Cassandra and replica StatefulSets and
//! what belongs to them.
//!
//! Deciding is apart from doing. Pure: [`crd`], [`validate`], [`build`], [`compare`], [`kept`], [`authority`], [`pods`], [`roll`],
//! [`status`] and the plan in [`claims`]. Thin layers that act: [`dereference`], [`apply`], [`probe`], [`events`], [`unreadable`], and [`reconcile`],
//! which strings them together. Around them: [`controller`], [`lease`] with the write [`gate`], [`metrics`], [`http`].

pub mod apply;
pub mod authority;
pub mod build;
pub mod claims;
pub mod compare;
pub mod controller;
pub mod crd;
pub mod dereference;
pub mod events;
pub mod gate;
pub mod http;
pub mod kept;
pub mod lease;
pub mod metrics;
pub mod names;
pub mod pods;
pub mod probe;
pub mod problem;
pub mod process;
pub mod reconcile;
pub mod roll;
pub mod status;
pub mod superuser;
pub mod tls;
pub mod unreadable;
pub mod validate;
pub mod wake;

#[cfg(test)]
mod testing;
