//! Raft's messages over the connections between replicas.

use std::error::Error;
use std::io;
use std::sync::Arc;

use openraft::error::{InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse, VoteRequest,
    VoteResponse,
};
use openraft::{EmptyNode, RaftNetwork, RaftNetworkFactory};
use tokio::time::{Duration, Instant};

use super::frames::{Answer, Request, Small};
use super::peer::{CallError, Lane, Peers, Reply, answer};
use super::types::{NodeId, RaftLogId, Types, Vote, replica_of};

/// Pause before a node that is not reached is tried again.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(100);

type RpcError<E> = RPCError<NodeId, EmptyNode, RaftError<NodeId, E>>;

/// Makes links to nodes.
#[derive(Debug)]
pub(super) struct Network {
    pub(super) peers: Arc<Peers>,
}

/// The messages of one purpose to one node.
#[derive(Debug)]
pub(super) struct Link {
    peers: Arc<Peers>,
    to: NodeId,
    pending: Option<Pending>,
}

/// Entries that are on their way.
///
/// Raft waits for an answer no longer than for a heartbeat, and then sends the same again. With a large entry on a slow
/// network it would do so for ever; so the answer to the first attempt is the answer to the next one, too.
#[derive(Debug)]
struct Pending {
    vote: Vote,
    prev: Option<RaftLogId>,
    last: Option<RaftLogId>,
    reply: Reply,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, _node: &EmptyNode) -> Link {
        Link { peers: self.peers.clone(), to: target, pending: None }
    }
}

impl Link {
    async fn call<E: Error>(&self, lane: Lane, request: Request, option: &RPCOption) -> Result<Answer, RpcError<E>> {
        let deadline = Instant::now() + option.hard_ttl();
        self.peers.call(replica_of(self.to), lane, &request, deadline).await.map_err(unreachable)
    }

    /// The pending entries that are those of the request, or a part of them.
    fn same(&mut self, rpc: &AppendEntriesRequest<Types>) -> Option<Pending> {
        let last = rpc.entries.last().map(|entry| entry.log_id);
        let same =
            |pending: &Pending| pending.vote == rpc.vote && pending.prev == rpc.prev_log_id && pending.last <= last;
        self.pending.take().filter(same)
    }

    async fn send_entries<E: Error>(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
    ) -> Result<AppendEntriesResponse<NodeId>, RpcError<E>> {
        let last = rpc.entries.last().map(|entry| entry.log_id);
        let pending = match self.same(&rpc) {
            Some(pending) => pending,
            None => {
                let (vote, prev) = (rpc.vote, rpc.prev_log_id);
                let request = Request::Append { to: self.to, rpc };
                let reply = self.peers.begin(replica_of(self.to), Lane::Bulk, &request).map_err(unreachable)?;
                Pending { vote, prev, last, reply }
            }
        };
        // It stays when this future is dropped.
        let sent = pending.last;
        let reply = &mut self.pending.insert(pending).reply;
        let answered = answer(reply).await;
        self.pending = None;
        match answered.map_err(unreachable)? {
            Answer::Append(AppendEntriesResponse::Success) if sent != last => {
                Ok(AppendEntriesResponse::PartialSuccess(sent))
            }
            Answer::Append(response) => Ok(response),
            other => Err(refused(other)),
        }
    }
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RPCError<NodeId, EmptyNode, RaftError<NodeId>>> {
        if !rpc.entries.is_empty() {
            return self.send_entries(rpc).await;
        }
        match self.call(Lane::Control, Request::Append { to: self.to, rpc }, &option).await? {
            Answer::Append(response) => Ok(response),
            other => Err(refused(other)),
        }
    }

    async fn install_snapshot(
        &mut self,
        rpc: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<NodeId>, RpcError<InstallSnapshotError>> {
        let request = Request::Small(Small::Snapshot { to: self.to, rpc });
        match self.call(Lane::Bulk, request, &option).await? {
            Answer::Snapshot(response) => Ok(response),
            Answer::SnapshotError(error) => Err(RemoteError::new(self.to, error).into()),
            other => Err(refused(other)),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RPCError<NodeId, EmptyNode, RaftError<NodeId>>> {
        let request = Request::Small(Small::Vote { to: self.to, rpc });
        match self.call(Lane::Control, request, &option).await? {
            Answer::Vote(response) => Ok(response),
            other => Err(refused(other)),
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(UNREACHABLE_PAUSE))
    }
}

fn unreachable<E: Error>(error: CallError) -> RpcError<E> {
    RPCError::Unreachable(Unreachable::new(&error))
}

/// An answer that does not belong to the request, or says why there is none.
fn refused<E: Error>(answer: Answer) -> RpcError<E> {
    let detail = match answer {
        Answer::Refused(reason) => reason,
        other => format!("another answer than was asked for: {other:?}"),
    };
    RPCError::Unreachable(Unreachable::new(&io::Error::other(detail)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures::{SinkExt, StreamExt};
    use openraft::EntryPayload;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;
    use tokio::time::timeout;
    use tokio_util::codec::Framed;

    use super::super::frames::{frame, unframe};
    use super::super::peer::{Addresses, codec};
    use super::super::types::{RaftEntry, log_id, node_id};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn entries(count: u64) -> AppendEntriesRequest<Types> {
        let entry = |index| RaftEntry { log_id: log_id(1, 1, index), payload: EntryPayload::Blank };
        let vote = Vote::new_committed(1, 1);
        AppendEntriesRequest { vote, prev_log_id: None, entries: (0..count).map(entry).collect(), leader_commit: None }
    }

    /// What is on its way is not sent again when Raft loses patience: the answer to it is the answer to the next attempt, which
    /// may have more; and another attempt is one of its own.
    #[tokio::test]
    async fn slow_entries_are_sent_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (seen, mut seen_by) = mpsc::unbounded_channel();
        let (answer, mut answers) = mpsc::unbounded_channel::<(u64, Answer)>();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = Framed::new(stream, codec());
            stream.next().await.unwrap().unwrap();
            loop {
                tokio::select! {
                    Some(data) = stream.next() => seen.send(unframe(data.unwrap().freeze()).unwrap().0).unwrap(),
                    Some((number, answer)) = answers.recv() => {
                        stream.send(frame(number, &answer.encode())).await.unwrap();
                    }
                    else => return,
                }
            }
        });
        let peers = Peers::new(Addresses::Listed(BTreeMap::from([(1, address)])));
        let mut network = Network { peers };
        let mut link = network.new_client(node_id(1, 7), &EmptyNode {}).await;
        let option = || RPCOption::new(Duration::from_millis(10));

        // Raft gives up on the first attempt while it is on its way.
        let first = timeout(Duration::from_millis(300), link.append_entries(entries(2), option())).await;
        assert!(first.is_err());
        assert_eq!(timeout(PATIENCE, seen_by.recv()).await.unwrap(), Some(1));
        answer.send((1, Answer::Append(AppendEntriesResponse::Success))).unwrap();
        let second = timeout(PATIENCE, link.append_entries(entries(3), option())).await.unwrap();
        assert_eq!(second.unwrap(), AppendEntriesResponse::PartialSuccess(Some(log_id(1, 1, 1))));
        assert!(seen_by.try_recv().is_err(), "it was sent again");

        let answering = async {
            assert_eq!(seen_by.recv().await, Some(2));
            answer.send((2, Answer::Append(AppendEntriesResponse::Success))).unwrap();
        };
        let both = async { tokio::join!(link.append_entries(entries(3), option()), answering) };
        let (third, ()) = timeout(PATIENCE, both).await.unwrap();
        assert_eq!(third.unwrap(), AppendEntriesResponse::Success);
        server.abort();
    }
}
