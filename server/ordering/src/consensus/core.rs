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

/// How long one attempt to learn what is agreed may take, so that nobody waits for long behind one that gets no answer.
const ROUND_LIMIT: Duration = Duration::from_secs(3);

/// Rounds in which a node learns how far the log is, one at a time: whoever comes while one is under way shares the next.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    begun: AtomicU64,
    /// The last one that has succeeded. Held during a round.
    done: tokio::sync::Mutex<u64>,
}

impl Rounds {
    /// Waits for a round that begins after this call, and makes one if nobody else does. A failure is the caller's own.
    async fn share(&self, round: impl Future<Output = Result<(), String>>) -> Result<(), String> {
        let wanted = self.begun.load(Ordering::SeqCst) + 1;
        let mut done = self.done.lock().await;
        if *done >= wanted {
            return Ok(());
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        round.await?;
        *done = number;
        Ok(())
    }
}

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
    /// Set while this replica is taken out, and when it was: it does not ask to be taken in.
    pub(super) leaving: AtomicBool,
    /// See [`Core::catch_up`].
    pub(super) rounds: Rounds,
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
            let reason = match timeout_at(deadline, self.rounds.share(self.one_round(deadline))).await {
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

    async fn one_round(&self, deadline: Instant) -> Result<(), String> {
        let deadline = deadline.min(Instant::now() + ROUND_LIMIT);
        let round = timeout_at(deadline, self.try_catch_up(deadline)).await;
        round.unwrap_or_else(|_| Err("this replica does not hear from a majority in time".into()))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Poll;

    use tokio::sync::Semaphore;

    use super::*;

    /// However many come, there is one round at a time, and each of them gets one that began after it came.
    #[tokio::test]
    async fn rounds_are_shared_but_never_by_one_that_came_later() {
        let (rounds, made, go) = (Rounds::default(), AtomicU64::new(0), Arc::new(Semaphore::new(0)));
        let ask = || {
            Box::pin(rounds.share(async {
                made.fetch_add(1, Ordering::SeqCst);
                go.acquire().await.map(tokio::sync::SemaphorePermit::forget).map_err(|error| error.to_string())
            }))
        };
        let mut first = ask();
        assert_eq!(futures::poll!(&mut first), Poll::Pending);
        let mut later: Vec<_> = (0..5).map(|_| ask()).collect();
        for one in &mut later {
            assert_eq!(futures::poll!(one), Poll::Pending);
        }
        go.add_permits(1);
        first.await.unwrap();
        assert_eq!(futures::poll!(&mut later[0]), Poll::Pending, "the first round began before it came");
        go.add_permits(1);
        for one in later {
            one.await.unwrap();
        }
        assert_eq!(made.load(Ordering::SeqCst), 2);

        let failed = rounds.share(async { Err("no".to_owned()) }).await;
        assert_eq!(failed, Err("no".to_owned()));
        go.add_permits(1);
        ask().await.unwrap();
        assert_eq!(made.load(Ordering::SeqCst), 3, "what has failed counts for nobody");
    }
}
