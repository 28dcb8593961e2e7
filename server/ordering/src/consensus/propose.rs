//! Putting commands into the order: what waits at the same time becomes one batch, and so one write and one sync on each node.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout_at};

use super::command::{Batch, Command, Note, Outcome, Outcomes};
use super::core::{Core, Route};
use super::frames::{Answer, Request};
use super::peer::{ANSWER_LIMIT, CallError, Lane};
use super::types::{NodeId, replica_of};
use crate::memory::system_time_ms;

/// Groups of commands that wait.
const QUEUE: usize = 1024;
/// KiB of commands that wait or are on their way.
const ROOM_KIB: usize = 128 << 10;
/// Commands in one batch.
const BATCH_COMMANDS: usize = 1024;
/// Bytes after which nothing more goes into a batch.
const BATCH_BYTES: usize = 1 << 20;
/// Batches on their way at once: one is written while the one before it is replicated.
const IN_FLIGHT: usize = 2;
/// What the way there and back takes, beyond what the other side may take.
const ON_THE_WAY: Duration = Duration::from_millis(200);

/// Why commands have no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProposeError {
    /// They are not in the order and never will be.
    #[error("{0}")]
    NotProposed(String),
    /// They may be.
    #[error("{0}")]
    Unknown(String),
}

type Proposed = Result<Vec<Outcome>, ProposeError>;

/// Commands that go together.
#[derive(Debug)]
pub(super) struct Waiting {
    commands: Vec<Command>,
    size: usize,
    deadline: Instant,
    /// They come from another replica, and go no farther.
    forwarded: bool,
    reply: oneshot::Sender<Proposed>,
    _room: OwnedSemaphorePermit,
}

/// Where commands are handed in.
#[derive(Debug)]
pub(super) struct Proposer {
    queue: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

impl Proposer {
    /// With what [`run`] takes them from.
    pub(super) fn new() -> (Self, mpsc::Receiver<Waiting>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        (Self { queue, room: Arc::new(Semaphore::new(ROOM_KIB)) }, waiting)
    }

    /// Puts commands into the order; what came of them. One attempt: it says so if there is no leader.
    pub(super) async fn propose(&self, commands: Vec<Command>, deadline: Instant, forwarded: bool) -> Proposed {
        let size = commands.iter().map(Command::size).sum::<usize>();
        let full = || ProposeError::NotProposed("too much waits to be ordered".into());
        let kib = u32::try_from(size.div_ceil(1024).clamp(1, ROOM_KIB)).unwrap_or(1);
        let room = timeout_at(deadline, self.room.clone().acquire_many_owned(kib)).await;
        let room = room.map_err(|_| full())?.map_err(|_| full())?;
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting { commands, size, deadline, forwarded, reply, _room: room };
        timeout_at(deadline, self.queue.send(waiting)).await.map_err(|_| full())?.map_err(|_| full())?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(proposed)) => proposed,
            Ok(Err(_)) => Err(ProposeError::Unknown("this node stops".into())),
            Err(_) => Err(ProposeError::Unknown("no majority has taken it in time".into())),
        }
    }
}

/// Takes what waits to wherever it goes, until the node stops.
pub(super) async fn run(core: Arc<Core>, mut queue: mpsc::Receiver<Waiting>) {
    let in_flight = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut running = JoinSet::new();
    let mut next = None;
    loop {
        let Some(first) = (match next.take() {
            Some(first) => Some(first),
            None => queue.recv().await,
        }) else {
            return;
        };
        // More comes meanwhile, and goes with it.
        let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
        let group = gather(first, &mut queue, &mut next);
        while running.try_join_next().is_some() {}
        if let Some(work) = dispatch(&core, group).await {
            let core = core.clone();
            running.spawn(async move {
                let _permit = permit;
                work.finish(&core).await;
            });
        }
    }
}

/// What goes into one batch; what does not fit any more is left in `next`.
fn gather(first: Waiting, queue: &mut mpsc::Receiver<Waiting>, next: &mut Option<Waiting>) -> Vec<Waiting> {
    let (mut commands, mut bytes) = (first.commands.len(), first.size);
    let mut group = vec![first];
    while let Ok(waiting) = queue.try_recv() {
        commands += waiting.commands.len();
        bytes += waiting.size;
        if commands > BATCH_COMMANDS || bytes > BATCH_BYTES {
            *next = Some(waiting);
            break;
        }
        group.push(waiting);
    }
    group
}

type Receiver = oneshot::Receiver<openraft::raft::ClientWriteResult<super::types::Types>>;

/// A batch on its way.
enum Work {
    /// In Raft; and whether there is an outcome before the group's own.
    Here { group: Vec<Waiting>, made: bool, receiver: Receiver },
    /// To another replica.
    There { group: Vec<Waiting>, leader: NodeId },
}

/// Begins what is to be done with a group; `None` if that is all.
async fn dispatch(core: &Core, group: Vec<Waiting>) -> Option<Work> {
    let now = Instant::now();
    let (group, late): (Vec<_>, Vec<_>) = group.into_iter().partition(|waiting| waiting.deadline > now);
    refuse(late, "it has waited for too long");
    if group.is_empty() {
        return None;
    }
    match core.route() {
        Route::Nowhere => {
            refuse(group, "no replica leads");
            None
        }
        Route::There(leader) => {
            let (forwarded, group): (Vec<_>, Vec<_>) = group.into_iter().partition(|waiting| waiting.forwarded);
            refuse(forwarded, "this replica does not lead");
            (!group.is_empty()).then_some(Work::There { group, leader })
        }
        Route::Here => {
            let made = core.machine.look(|state| state.log().is_none());
            let found = Note::Found { log: uuid::Uuid::new_v4(), segment_entries: core.config.segment_entries };
            let first = made.then_some(Command::Note(found));
            let commands = first.into_iter().chain(commands(&group)).collect();
            // Handed to Raft one after the other, so in this order.
            match core.raft.client_write_ff(Batch { at_ms: system_time_ms(), commands }).await {
                Ok(receiver) => Some(Work::Here { group, made, receiver }),
                Err(error) => {
                    refuse(group, &error.to_string());
                    None
                }
            }
        }
    }
}

fn commands(group: &[Waiting]) -> impl Iterator<Item = Command> {
    group.iter().flat_map(|waiting| waiting.commands.iter().cloned())
}

impl Work {
    async fn finish(self, core: &Core) {
        match self {
            Self::Here { group, made, receiver } => {
                let proposed = written(last_deadline(&group), receiver).await;
                distribute(group, proposed.map(|outcomes| outcomes.into_iter().skip(made.into()).collect()));
            }
            Self::There { group, leader } => {
                let proposed = forward(core, leader, &group).await;
                distribute(group, proposed);
            }
        }
    }
}

fn last_deadline(group: &[Waiting]) -> Instant {
    group.iter().map(|waiting| waiting.deadline).max().unwrap_or_else(Instant::now)
}

/// What became of a batch that Raft was given.
async fn written(deadline: Instant, receiver: Receiver) -> Proposed {
    match timeout_at(deadline, receiver).await {
        Ok(Ok(Ok(response))) => {
            let Outcomes(outcomes) = response.data;
            Ok(outcomes)
        }
        // It may be that it never was in the log; it may also be in another node's, which comes to lead.
        Ok(Ok(Err(error))) => Err(ProposeError::Unknown(error.to_string())),
        Ok(Err(_)) => Err(ProposeError::Unknown("this node stops".into())),
        Err(_) => Err(ProposeError::Unknown("no majority has taken it in time".into())),
    }
}

/// Has another replica propose a group.
async fn forward(core: &Core, leader: NodeId, group: &[Waiting]) -> Proposed {
    let patience = last_deadline(group).saturating_duration_since(Instant::now()).min(ANSWER_LIMIT);
    let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    let request = Request::Propose { patience_ms, commands: commands(group).collect() };
    let deadline = Instant::now() + patience + ON_THE_WAY;
    let mut metrics = core.raft.metrics();
    let answered = tokio::select! {
        answered = core.peers.call(replica_of(leader), Lane::Bulk, &request, deadline) => answered,
        // An answer may never come from one that leads no longer.
        _ = metrics.wait_for(|metrics| metrics.current_leader != Some(leader)) => {
            Err(CallError { sent: true, detail: "another replica leads now".into() })
        }
    };
    match answered {
        Ok(Answer::Proposed(outcomes)) => Ok(outcomes),
        Ok(Answer::NotProposed(reason) | Answer::Refused(reason)) => Err(ProposeError::NotProposed(reason)),
        Ok(Answer::Unknown(reason)) => Err(ProposeError::Unknown(reason)),
        Ok(other) => Err(ProposeError::Unknown(format!("another answer than was asked for: {other:?}"))),
        Err(error) if error.sent => Err(ProposeError::Unknown(error.detail)),
        Err(error) => Err(ProposeError::NotProposed(error.detail)),
    }
}

fn refuse(group: Vec<Waiting>, reason: &str) {
    distribute(group, Err(ProposeError::NotProposed(reason.to_owned())));
}

/// Gives everybody what came of its commands.
fn distribute(group: Vec<Waiting>, proposed: Proposed) {
    let mut outcomes = match proposed {
        Ok(outcomes) => VecDeque::from(outcomes),
        Err(error) => {
            for waiting in group {
                let _ = waiting.reply.send(Err(error.clone()));
            }
            return;
        }
    };
    for waiting in group {
        let count = waiting.commands.len();
        let answer = match outcomes.len() >= count {
            true => Ok(outcomes.drain(..count).collect()),
            false => Err(ProposeError::Unknown("the answer is too short".into())),
        };
        let _ = waiting.reply.send(answer);
    }
}
