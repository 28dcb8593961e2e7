//! The operator against a real API server: etcd, kube-apiserver, and of kube-controller-manager the StatefulSet controller
//! and the garbage collector. There are no nodes: [`kubelet`] stands in for them, with invented admin interfaces.
//!
//! The binaries are those in the folder that `RDB_KUBE_BIN` names, else what `cluster/binaries` builds.

#![allow(clippy::unwrap_used)] // a helper that fails fails its test

mod claims;
mod cluster;
mod convergence;
mod crash;
mod election;
mod kept;
mod kubelet;
mod layers;
mod many;
mod phases;
mod rolls;
mod rules;
mod superuser;
mod tls;
mod told;
