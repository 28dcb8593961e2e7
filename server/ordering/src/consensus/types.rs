//! The types that the Raft library is used with, and the numbers of its nodes.

use std::io::Cursor;

use super::command::{Batch, Outcomes};

openraft::declare_raft_types!(
    /// One Raft entry is a batch of commands, its answer one outcome for each.
    pub(super) Types:
        D = Batch,
        R = Outcomes,
        NodeId = u64,
        Node = openraft::EmptyNode,
        SnapshotData = Cursor<Vec<u8>>,
);

/// A node of Raft: a replica's number and its volume; see [`node_id`].
pub(super) type NodeId = u64;
pub(super) type Raft = openraft::Raft<Types>;
pub(super) type RaftEntry = openraft::Entry<Types>;
pub(super) type RaftLogId = openraft::LogId<NodeId>;
pub(super) type Vote = openraft::Vote<NodeId>;
pub(super) type StoredMembership = openraft::StoredMembership<NodeId, openraft::EmptyNode>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<NodeId, openraft::EmptyNode>;
pub(super) type Snapshot = openraft::Snapshot<Types>;
pub(super) type Metrics = openraft::RaftMetrics<NodeId, openraft::EmptyNode>;
pub(super) type StorageError = openraft::StorageError<NodeId>;
pub(super) type StorageIOError = openraft::StorageIOError<NodeId>;

/// Bits of a node's number that tell volumes of one replica apart.
const VOLUME_BITS: u32 = 48;
/// The largest number of a replica that can be a node.
pub(super) const MAX_REPLICA: u32 = (1 << (u64::BITS - VOLUME_BITS)) - 1;

/// The number of the node that `replica` is with the volume `volume`, of which 48 bits count.
///
/// A node that has lost its volume has forgotten whom it voted for and which entries it has acknowledged: as the same node
/// it could vote a second time in one term, or make a majority forget. So a node is a volume, and not a replica: an emptied
/// one is another node, that nobody counts until the others have taken it in and its predecessor out.
pub(super) fn node_id(replica: u32, volume: u64) -> NodeId {
    let volume = volume & ((1 << VOLUME_BITS) - 1);
    (u64::from(replica & MAX_REPLICA) << VOLUME_BITS) | volume
}

/// The replica that a node is.
pub(super) fn replica_of(node: NodeId) -> u32 {
    // The shift leaves 16 bits.
    u32::try_from(node >> VOLUME_BITS).unwrap_or(MAX_REPLICA)
}

/// A log id from its parts.
pub(super) fn log_id(term: u64, node: NodeId, index: u64) -> RaftLogId {
    RaftLogId::new(openraft::CommittedLeaderId::new(term, node), index)
}
