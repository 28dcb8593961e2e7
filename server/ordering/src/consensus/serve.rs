//! What a node answers the others.

use std::io::{self, Cursor};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{SinkExt, StreamExt};
use openraft::LogIdOptionExt;
use openraft::error::RaftError;
use openraft::raft::AppendEntriesRequest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_util::codec::{FramedRead, FramedWrite};

use super::core::{Core, Route};
use super::frames::{Answer, PREFACE, Request, Small, frame, unframe};
use super::membership;
use super::peer::{ANSWER_LIMIT, codec};
use super::propose::ProposeError;
use super::types::{Snapshot, SnapshotMeta, Types, Vote};

/// Connections from others at once.
const CONNECTIONS: usize = 256;
/// Requests of one connection that are worked on at once; further ones are not read.
const REQUESTS: usize = 64;
/// How long a connection has to say what it is for.
const PREFACE_LIMIT: Duration = Duration::from_secs(5);
/// Pause after a connection could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The node that a term without a leader is given to.
const NOBODY: u64 = 0;

/// Serves others until it is dropped.
pub(super) async fn run(core: Arc<Core>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, address)) => {
                let core = core.clone();
                connections.spawn(async move {
                    let _permit = permit;
                    if let Err(error) = serve(core, stream).await {
                        tracing::debug!(%address, %error, "a connection from another replica has ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection from another replica can't be taken");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(core: Arc<Core>, stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    let (mut stream, mut sink) = (FramedRead::new(read, codec()), FramedWrite::new(write, codec()));
    let first = timeout(PREFACE_LIMIT, stream.next()).await.map_err(io::Error::other)?;
    let Some(first) = first.transpose()? else { return Ok(()) };
    let (_, preface) = unframe(first.freeze()).map_err(io::Error::other)?;
    if preface != PREFACE {
        return Err(io::Error::other("it is for something else, or for another version"));
    }
    let (answers, mut ready) = mpsc::channel(REQUESTS);
    let reading = async {
        let mut working = JoinSet::new();
        let room = Arc::new(Semaphore::new(REQUESTS));
        while let Some(data) = stream.next().await {
            let (number, body) = unframe(data?.freeze()).map_err(io::Error::other)?;
            let request = Request::decode(body).map_err(io::Error::other)?;
            while working.try_join_next().is_some() {}
            let Ok(permit) = room.clone().acquire_owned().await else { break };
            let (core, answers) = (core.clone(), answers.clone());
            working.spawn(async move {
                let _permit = permit;
                let answer = answer(&core, request).await;
                let _ = answers.send(frame(number, &answer.encode())).await;
            });
        }
        Ok(())
    };
    let writing = async {
        while let Some(answer) = ready.recv().await {
            sink.send(answer).await?;
        }
        Ok(())
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}

async fn answer(core: &Arc<Core>, request: Request) -> Answer {
    match request {
        Request::Append { to, .. } if to != core.node => another_node(core),
        // The library believes what it is told, or panics.
        Request::Append { rpc, .. } if !is_sound(&rpc) => {
            Answer::Refused("entries that do not follow each other".into())
        }
        Request::Append { rpc, .. } => {
            core.raft.append_entries(rpc).await.map_or_else(|error| refused(&error), Answer::Append)
        }
        Request::Propose { patience_ms, commands } => {
            let patience = Duration::from_millis(patience_ms).min(ANSWER_LIMIT);
            match core.proposer.propose(commands, Instant::now() + patience, true).await {
                Ok(outcomes) => Answer::Proposed(outcomes),
                Err(ProposeError::NotProposed(reason)) => Answer::NotProposed(reason),
                Err(ProposeError::Unknown(reason)) => Answer::Unknown(reason),
            }
        }
        Request::Small(small) => answer_small(core, small).await,
    }
}

async fn answer_small(core: &Arc<Core>, small: Small) -> Answer {
    match small {
        Small::Vote { to, .. } | Small::Snapshot { to, .. } | Small::Yield { to, .. } | Small::Elect { to }
            if to != core.node =>
        {
            another_node(core)
        }
        Small::Vote { rpc, .. } if rpc.vote.committed => Answer::Refused("it asks for a vote that it has".into()),
        Small::Vote { rpc, .. } => core.raft.vote(rpc).await.map_or_else(|error| refused(&error), Answer::Vote),
        Small::Snapshot { rpc, .. } => match core.raft.install_snapshot(rpc).await {
            Ok(response) => Answer::Snapshot(response),
            Err(error @ RaftError::APIError(_)) => Answer::SnapshotError(error),
            Err(RaftError::Fatal(error)) => refused(&error),
        },
        Small::Yield { term, .. } => give_up_lease(core, term).await,
        Small::Elect { .. } => {
            core.raft.trigger().elect().await.map_or_else(|error| refused(&error), |()| Answer::Done)
        }
        Small::ReadIndex => read_index(core).await,
        Small::Ask { life } => {
            let vouched = core.vouched.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let shown = vouched.get(&life).and_then(std::sync::Weak::upgrade);
            Answer::Shown(shown.map(|shown| shown.load(Ordering::SeqCst)))
        }
        Small::Hello => Answer::Hello { node: core.node, pristine: core.machine.is_pristine() },
        Small::Join { node } => match leads_elsewhere(core) {
            Some(answer) => answer,
            None => membership::take_in(core, node).await,
        },
        Small::Leave { replica } => match leads_elsewhere(core) {
            Some(answer) => answer,
            None => membership::take_out(core, replica).await,
        },
    }
}

/// Whether entries follow each other, and what they follow, and come from a leader.
fn is_sound(rpc: &AppendEntriesRequest<Types>) -> bool {
    let mut placed = rpc.entries.iter().zip(rpc.prev_log_id.next_index()..);
    rpc.vote.committed && placed.all(|(entry, index)| entry.log_id.index == index)
}

/// The answer for whoever leads, if that is not this node.
fn leads_elsewhere(core: &Core) -> Option<Answer> {
    match core.route() {
        Route::Here => None,
        Route::There(leader) => Some(Answer::NotLeader(Some(leader))),
        Route::Nowhere => Some(Answer::NotLeader(None)),
    }
}

async fn read_index(core: &Core) -> Answer {
    if let Some(answer) = leads_elsewhere(core) {
        return answer;
    }
    match timeout(ANSWER_LIMIT, core.raft.get_read_log_id()).await {
        Ok(Ok((read, _))) => Answer::Index(read.map(|read| read.index)),
        Ok(Err(error)) => refused(&error),
        Err(_) => Answer::Refused("no majority answers".into()),
    }
}

/// Forgets that it has promised a leader to wait for it, by taking note of a term that has none.
///
/// The library has no message for that. An empty snapshot of such a term is nothing to install, but raises the vote, which
/// is safe whenever it is done: it can only make an election necessary.
pub(super) async fn give_up_lease(core: &Core, term: u64) -> Answer {
    let snapshot = Snapshot { meta: SnapshotMeta::default(), snapshot: Box::new(Cursor::default()) };
    let raised = core.raft.install_full_snapshot(Vote::new(term, NOBODY), snapshot).await;
    raised.map_or_else(|error| refused(&error), |_| Answer::Done)
}

fn another_node(core: &Core) -> Answer {
    Answer::Refused(format!("here is node {:x}, which is another one: the replica's volume was replaced", core.node))
}

fn refused(error: &impl std::fmt::Display) -> Answer {
    Answer::Refused(error.to_string())
}
