//! The operator of ReplicatedDB: one `ReplicatedDB` resource becomes ZooKeeper, Cassandra and replica StatefulSets and
//! what belongs to them.

pub mod crd;
