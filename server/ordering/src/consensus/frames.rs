//! What replicas say to each other: requests and answers, and the frames that carry them. No IO.
//!
//! ```text
//! frame    length 4 | checksum 4 | number 8 | body       the checksum covers what follows it
//! request  kind 1 | entries or commands in their own form, anything smaller as JSON
//! answer   JSON
//! ```
//! The first frame of a connection has the number 0 and [`PREFACE`] for a body.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use serde::{Deserialize, Serialize};

use super::command::{Batch, CodecError, Command, Outcome, put_length, take};
use super::record::{decode_entry, encode_entry, put_log_id, take_log_id};
use super::types::{NodeId, RaftLogId, Types, Vote};
use crate::Life;

/// What a connection begins with: what it is for, and the version of its form.
pub(super) const PREFACE: &[u8] = b"replicateddb-consensus 1";
/// Longest frame, in bytes.
pub(super) const MAX_FRAME: usize = 96 << 20;
/// Bytes of a frame before its body.
const FRAME_FIXED: usize = 12;
const KIND_APPEND: u8 = 1;
const KIND_PROPOSE: u8 = 2;
const KIND_SMALL: u8 = 3;

/// A request.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// Raft's entries, or its heartbeat.
    Append {
        /// The node that is meant, and no other one at the same address.
        to: NodeId,
        /// What it is to append.
        rpc: AppendEntriesRequest<Types>,
    },
    /// Commands for whoever leads.
    Propose {
        /// How long the answer is waited for, in milliseconds.
        patience_ms: u64,
        /// The commands.
        commands: Vec<Command>,
    },
    /// Anything else.
    Small(Small),
}

/// A request that is small, or rare.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Small {
    /// Raft asks for a vote.
    Vote {
        /// The node that is meant.
        to: NodeId,
        /// By whom, and for when.
        rpc: VoteRequest<NodeId>,
    },
    /// A piece of a snapshot.
    Snapshot {
        /// The node that is meant.
        to: NodeId,
        /// The piece.
        rpc: InstallSnapshotRequest<Types>,
    },
    /// The leader gives its term up: nobody is bound by it any more.
    Yield {
        /// The node that is meant.
        to: NodeId,
        /// A term that is greater, and has no leader.
        term: u64,
    },
    /// The node should lead.
    Elect {
        /// The node that is meant.
        to: NodeId,
    },
    /// How far one must have read to have seen everything that was acknowledged before this; for whoever leads.
    ReadIndex,
    /// What a life has shown.
    Ask {
        /// The life.
        life: Life,
    },
    /// Who are you?
    Hello,
    /// A node wants to take part; for whoever leads.
    Join {
        /// The node.
        node: NodeId,
    },
    /// A replica no longer takes part; for whoever leads.
    Leave {
        /// Its number.
        replica: u32,
    },
}

/// An answer.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// To [`Request::Append`].
    Append(AppendEntriesResponse<NodeId>),
    /// To [`Small::Vote`].
    Vote(VoteResponse<NodeId>),
    /// To [`Small::Snapshot`].
    Snapshot(InstallSnapshotResponse<NodeId>),
    /// To [`Small::Snapshot`]: it is to be sent differently.
    SnapshotError(RaftError<NodeId, InstallSnapshotError>),
    /// To [`Request::Propose`]: what came of the commands.
    Proposed(Vec<Outcome>),
    /// To [`Request::Propose`]: they are not in the order and never will be.
    NotProposed(String),
    /// To [`Request::Propose`]: they may be.
    Unknown(String),
    /// To [`Small::ReadIndex`].
    Index(Option<u64>),
    /// To [`Small::Ask`]; `None` if the life is not here or has not said.
    Shown(Option<u64>),
    /// To [`Small::Hello`].
    Hello {
        /// Who is there.
        node: NodeId,
        /// It has taken no part in anything yet.
        pristine: bool,
    },
    /// To [`Small::Join`]: whether the node votes now.
    Joined(bool),
    /// It is done.
    Done,
    /// Ask another node, that one if it is known.
    NotLeader(Option<NodeId>),
    /// It can't be done, or not now.
    Refused(String),
}

impl Request {
    /// Its bytes.
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Append { to, rpc } => {
                out.put_u8(KIND_APPEND);
                put_append(&mut out, *to, rpc);
            }
            Self::Propose { patience_ms, commands } => {
                out.put_u8(KIND_PROPOSE);
                out.put_u64(*patience_ms);
                out.put_slice(&Batch { at_ms: 0, commands: commands.clone() }.encode());
            }
            Self::Small(small) => {
                out.put_u8(KIND_SMALL);
                out.put_slice(&serde_json::to_vec(small).expect("plain fields serialise"));
            }
        }
        out.freeze()
    }

    /// Reads its bytes, all of them; total.
    pub(super) fn decode(mut data: Bytes) -> Result<Self, CodecError> {
        match take(&mut data, 1)?.get_u8() {
            KIND_APPEND => take_append(data),
            KIND_PROPOSE => {
                let patience_ms = take(&mut data, 8)?.get_u64();
                Ok(Self::Propose { patience_ms, commands: Batch::decode(data)?.commands })
            }
            KIND_SMALL => Ok(Self::Small(serde_json::from_slice(&data)?)),
            other => Err(CodecError::Kind(other)),
        }
    }
}

impl Answer {
    /// Its bytes.
    pub(super) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("plain fields serialise").into()
    }

    /// Reads its bytes, all of them; total.
    pub(super) fn decode(data: &[u8]) -> Result<Self, CodecError> {
        Ok(serde_json::from_slice(data)?)
    }
}

fn put_append(out: &mut BytesMut, to: NodeId, rpc: &AppendEntriesRequest<Types>) {
    out.put_u64(to);
    out.put_u64(rpc.vote.leader_id.term);
    out.put_u64(rpc.vote.leader_id.node_id);
    out.put_u8(rpc.vote.committed.into());
    for id in [rpc.prev_log_id, rpc.leader_commit] {
        out.put_u8(id.is_some().into());
        put_log_id(out, id.unwrap_or_default());
    }
    put_length(out, rpc.entries.len());
    for entry in &rpc.entries {
        let entry = encode_entry(entry);
        put_length(out, entry.len());
        out.put_slice(&entry);
    }
}

fn take_append(mut data: Bytes) -> Result<Request, CodecError> {
    let mut fixed = take(&mut data, 25)?;
    let (to, term, node) = (fixed.get_u64(), fixed.get_u64(), fixed.get_u64());
    let vote = Vote { committed: fixed.get_u8() != 0, ..Vote::new(term, node) };
    let mut id = || -> Result<Option<RaftLogId>, CodecError> {
        let some = take(&mut data, 1)?.get_u8() != 0;
        Ok(Some(take_log_id(&mut data)?).filter(|_| some))
    };
    let (prev_log_id, leader_commit) = (id()?, id()?);
    let count = take(&mut data, 4)?.get_u32() as usize;
    // An entry has a length at least: a count that can't be true takes no memory.
    let mut entries = Vec::with_capacity(count.min(data.len() / 4));
    for _ in 0..count {
        let length = take(&mut data, 4)?.get_u32() as usize;
        entries.push(decode_entry(take(&mut data, length)?)?);
    }
    if !data.is_empty() {
        return Err(CodecError::Length(data.len()));
    }
    Ok(Request::Append { to, rpc: AppendEntriesRequest { vote, prev_log_id, entries, leader_commit } })
}

/// A frame without its length, which the connection's codec writes.
pub(super) fn frame(number: u64, body: &[u8]) -> Bytes {
    let mut covered = BytesMut::with_capacity(FRAME_FIXED + body.len());
    covered.put_u32(0);
    covered.put_u64(number);
    covered.put_slice(body);
    let checksum = crc32fast::hash(&covered[4..]);
    covered[..4].copy_from_slice(&checksum.to_be_bytes());
    covered.freeze()
}

/// The number and the body of a frame.
pub(super) fn unframe(mut data: Bytes) -> Result<(u64, Bytes), CodecError> {
    let checksum = take(&mut data, 4)?.get_u32();
    if crc32fast::hash(&data) != checksum {
        return Err(CodecError::Text("a frame does not match its checksum".into()));
    }
    let number = take(&mut data, 8)?.get_u64();
    Ok((number, data))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::command::tests::command;
    use super::super::record::tests::entry;
    use super::super::types::log_id;
    use super::*;

    fn id() -> impl Strategy<Value = Option<RaftLogId>> {
        prop::option::of((0..9u64, any::<u64>(), 0..9u64).prop_map(|(term, node, index)| log_id(term, node, index)))
    }

    proptest! {
        #[test]
        fn appends_round_trip(
            to: u64, vote in (0..9u64, any::<u64>(), any::<bool>()), prev_log_id in id(), leader_commit in id(),
            entries in prop::collection::vec(entry(), 0..4),
        ) {
            let vote = Vote { committed: vote.2, ..Vote::new(vote.0, vote.1) };
            let rpc = AppendEntriesRequest { vote, prev_log_id, entries, leader_commit };
            let encoded = Request::Append { to, rpc: rpc.clone() }.encode();
            let Request::Append { to: said, rpc: read } = Request::decode(encoded).unwrap() else { panic!() };
            prop_assert_eq!(said, to);
            prop_assert_eq!(format!("{read:?}"), format!("{rpc:?}"));
        }

        #[test]
        fn proposals_round_trip(patience_ms: u64, commands in prop::collection::vec(command(), 0..4)) {
            let encoded = Request::Propose { patience_ms, commands: commands.clone() }.encode();
            let Request::Propose { patience_ms: said, commands: read } = Request::decode(encoded).unwrap() else { panic!() };
            prop_assert_eq!((said, read), (patience_ms, commands));
        }

        #[test]
        fn any_bytes_are_read_or_refused(data: Vec<u8>) {
            for kind in 0..5 {
                let _ = Request::decode([&[kind], &data[..]].concat().into());
            }
            let _ = Answer::decode(&data);
            let _ = unframe(data.into());
        }

        #[test]
        fn a_changed_frame_is_noticed(number: u64, body: Vec<u8>, at: prop::sample::Index, flip: u8) {
            let mut data = frame(number, &body).to_vec();
            let at = at.index(data.len());
            data[at] ^= flip;
            prop_assert_eq!(unframe(data.into()).ok(), (flip == 0).then(|| (number, body.into())));
        }
    }

    #[test]
    fn small_ones_round_trip() {
        let vote = VoteRequest { vote: Vote::new(3, 4), last_log_id: Some(log_id(1, 2, 3)) };
        let smalls = [
            Small::Vote { to: 9, rpc: vote },
            Small::Yield { to: 9, term: 4 },
            Small::Ask { life: (1, crate::Incarnation(5)) },
            Small::Join { node: u64::MAX },
        ];
        for small in smalls {
            let Request::Small(read) = Request::decode(Request::Small(small.clone()).encode()).unwrap() else {
                panic!()
            };
            assert_eq!(read, small);
        }
        for answer in [Answer::NotLeader(Some(u64::MAX)), Answer::Index(Some(3)), Answer::Proposed(vec![Outcome::Done])]
        {
            assert_eq!(Answer::decode(&answer.encode()).unwrap(), answer);
        }
    }
}
