//! What the parts of a node share, and how commands and reads get to whoever leads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Weak};

use tokio::time::{Duration, Instant, sleep, timeout_at};

use super::Config;
use super::command::{Command, Note, Outcome};
use super::frames::{Answer, Request, Small};
use super::machine::Machine;
use super::peer::{Lane, Peers};
use super::propose::{ProposeError, Proposer};
use super::types::{Metrics, NodeId, Raft, replica_of};
use crate::Life;

/// Pause before something that was not taken is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A running node.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) node: NodeId,
    pub(super) raft: RaftHandle,
    pub(super) peers: std::sync::Arc<Peers>,
    pub(super) machine: Machine,
    pub(super) proposer: Proposer,
    /// Set while leadership is handed over: nothing is proposed here any more.
    pub(super) yielding: AtomicBool,
    /// Set when this replica has left: it does not ask to be taken in.
    pub(super) left: AtomicBool,
    /// Held while the members change.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// What each life that this process has begun vouches for, as long as it lives.
    pub(super) vouched: Mutex<BTreeMap<Life, Weak<AtomicU64>>>,
}

/// Raft itself, which has no form for people.
pub(super) struct RaftHandle(pub(super) Raft);

impl std::fmt::Debug for RaftHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raft")
    }
}

impl std::ops::Deref for RaftHandle {
    type Target = Raft;

    fn deref(&self) -> &Raft {
        &self.0
    }
}

/// Where commands go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// This node leads.
    Here,
    /// That one does.
    There(NodeId),
    /// Nobody is known to.
    Nowhere,
}

impl Core {
    /// Where commands go now, as far as this node knows.
    pub(super) fn route(&self) -> Route {
        let metrics = self.raft.metrics();
        let leader = metrics.borrow().current_leader;
        match leader {
            Some(leader) if leader == self.node && self.yielding.load(Ordering::Acquire) => Route::Nowhere,
            Some(leader) if leader == self.node => Route::Here,
            Some(leader) => Route::There(leader),
            None => Route::Nowhere,
        }
    }

    /// What Raft says of itself.
    pub(super) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow().clone()
    }

    /// Puts a command into the order; what came of it. It goes where the leader is, again and again, until it is proposed.
    pub(super) async fn submit(&self, command: Command, deadline: Instant) -> Result<Outcome, ProposeError> {
        loop {
            let refused = match self.proposer.propose(vec![command.clone()], deadline, false).await {
                Ok(outcomes) => {
                    return outcomes.into_iter().next().ok_or_else(|| ProposeError::Unknown("no answer".into()));
                }
                Err(unknown @ ProposeError::Unknown(_)) => return Err(unknown),
                Err(refused) => refused,
            };
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(refused);
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Puts bookkeeping into the order, until it is known to be there; what came of it, and whether an attempt before may
    /// have been it. A second time has no effect.
    pub(super) async fn settle(&self, note: Note, deadline: Instant) -> Result<(Outcome, bool), ProposeError> {
        let mut unsure = false;
        loop {
            match self.submit(Command::Note(note.clone()), deadline).await {
                Ok(outcome) => return Ok((outcome, unsure)),
                Err(ProposeError::Unknown(_)) if Instant::now() + RETRY_PAUSE < deadline => unsure = true,
                Err(error) => return Err(error),
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Waits until this node has applied everything that was acknowledged anywhere before the call; or why it has not.
    pub(super) async fn catch_up(&self, deadline: Instant) -> Result<(), String> {
        loop {
            let reason = match timeout_at(deadline, self.try_catch_up(deadline)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(reason)) => reason,
                Err(_) => "this replica does not hear from a majority in time".to_owned(),
            };
            if Instant::now() + RETRY_PAUSE >= deadline {
                return Err(reason);
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn try_catch_up(&self, deadline: Instant) -> Result<(), String> {
        match self.route() {
            // While it hands over it still leads, as far as it knows, and is told if it does not.
            Route::Here => self.raft.ensure_linearizable().await.map(drop).map_err(|error| error.to_string()),
            Route::Nowhere => Err("no replica leads".into()),
            Route::There(leader) => {
                let request = Request::Small(Small::ReadIndex);
                let answer = self.peers.call(replica_of(leader), Lane::Control, &request, deadline).await;
                match answer.map_err(|error| error.to_string())? {
                    Answer::Index(index) => {
                        let mut progress = self.machine.progress();
                        let reached = progress.wait_for(|progress| progress.applied >= index).await;
                        reached.map(drop).map_err(|error| error.to_string())
                    }
                    Answer::Refused(reason) => Err(reason),
                    _ => Err(format!("replica {} does not lead", replica_of(leader))),
                }
            }
        }
    }
}
