//! Proposing: client requests become records, records become entries, entries are appended until it is known that
//! they are in the log. A record that comes to stand there twice takes effect once (I3, see [`crate::state`]).
//!
//! Batching is self-clocking: an entry leaves as soon as fewer than [`Limits::entries_in_flight`] are on their way and as
//! many requests wait as the last one took ([`Cadence`]), and takes everything that waits, up to its bounds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use replicateddb_faults::{Fault, pass};
use replicateddb_ordering::{AppendError, OrderedLog};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::cadence::Cadence;
use crate::clock::Clock;
use crate::log_room::LogRoom;
use crate::metrics::Metrics;
use crate::mutations::{Mutation, mutated};
use crate::record::{ENTRY_HEADER_BYTES, Entry, Record, RecordKind};
use crate::replica::{Outcome, ProposeError};
use crate::unresolved::{Asker, Unresolved};

/// Bytes of the replica's complaints ([`crate::verdict`]) that do not stand in the log: each record that is complained of has
/// one on its way at most ([`crate::stuck`]), and all of them fit.
const COMPLAINT_BYTES: usize = 1 << 20;

/// The named bounds of proposing (I7).
#[derive(Debug, Clone)]
pub struct Limits {
    /// Records in one entry.
    pub max_records: usize,
    /// Bytes of one entry after which no further record is added.
    pub max_bytes: usize,
    /// Bytes of one record. An entry of almost `max_bytes` may take one more of this size and must fit the log, or
    /// small requests would be refused for a large one's sake. More than the front end takes in one message.
    pub max_record_bytes: usize,
    /// Entries on their way at once.
    pub entries_in_flight: usize,
    /// Requests waiting to be proposed.
    pub queue_records: usize,
    /// Bytes of requests waiting or on their way.
    pub queue_bytes: usize,
    /// Numbers between the lowest unresolved record and the highest proposed: bounds the set that finds duplicates.
    pub window: u64,
    /// How long a client waits for its request to be committed.
    pub commit_wait: Duration,
    /// How long a client waits, once its request is committed, for it to be applied here.
    pub apply_wait: Duration,
    /// Pause before an append is tried again; doubles up to the next.
    pub retry_first: Duration,
    /// Longest pause before an append is tried again.
    pub retry_last: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_records: 1024,
            max_bytes: 24 << 10,
            max_record_bytes: (17 << 20) - (264 << 10),
            entries_in_flight: 2,
            queue_records: 8192,
            queue_bytes: 64 << 20,
            window: 65_536,
            commit_wait: Duration::from_secs(10),
            apply_wait: Duration::from_secs(60),
            retry_first: Duration::from_millis(20),
            retry_last: Duration::from_secs(1),
        }
    }
}

/// How far a request has come; shared by the waiting client and the proposer.
#[derive(Debug, Default)]
pub struct Progress(AtomicU8);

const QUEUED: u8 = 0;
const PROPOSED: u8 = 1;
const COMMITTED: u8 = 2;
const GIVEN_UP: u8 = 3;

impl Progress {
    /// The client stops waiting. `true`: it was not proposed and never will be.
    fn give_up(&self) -> bool {
        self.0.compare_exchange(QUEUED, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The proposer takes it. `false`: the client has given up.
    fn take(&self) -> bool {
        self.0.compare_exchange(QUEUED, PROPOSED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// It stands in the log.
    pub fn commit(&self) {
        self.0.store(COMMITTED, Ordering::Release);
    }

    fn is_committed(&self) -> bool {
        self.0.load(Ordering::Acquire) == COMMITTED
    }
}

/// What a waiting client is told.
pub type Answer = Result<Outcome, ProposeError>;
/// What is told of a complaint.
pub type Said = Result<(), ProposeError>;

/// A request that is not proposed. Should it go away like that, with the proposer's end, its client is told so.
struct Queued {
    record: Record,
    progress: Arc<Progress>,
    asker: Option<Asker>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Queued {
    fn drop(&mut self) {
        if let Some(asker) = self.asker.take() {
            asker.refuse(ended_unwritten());
        }
    }
}

/// Where requests enter. Cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    queue: mpsc::Sender<Queued>,
    bytes: Arc<Semaphore>,
    /// For complaints: clients whose requests wait behind the record that is complained of must not keep them back.
    complaint_bytes: Arc<Semaphore>,
    limits: Arc<Limits>,
    room: Arc<LogRoom>,
    metrics: Metrics,
}

/// Why a replica whose life has ended stops, for people.
pub const FENCED: &str = "a newer incarnation of this replica has taken over, or the others took it for gone (I6)";

/// Why proposing has ended for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// A newer incarnation of this replica appends (I6).
    Fenced,
    /// Every [`Proposer`] is gone.
    Closed,
}

impl Proposer {
    /// Orders a record and waits until it is applied here; bounded by the limits' waits. A write waits for room in the log.
    pub async fn propose(&self, record: Record) -> Answer {
        let started = Instant::now();
        if record.kind.writes() {
            self.room.enter().await.inspect_err(|_| self.metrics.error("log_full"))?;
        }
        let (sender, mut answer) = oneshot::channel();
        let progress = self.enqueue(record, &self.bytes, Asker::Applied(sender))?;
        let committed_by = started + self.limits.commit_wait;
        if let Ok(answer) = tokio::time::timeout_at(committed_by, &mut answer).await {
            self.metrics.propose_seconds.observe(started.elapsed().as_secs_f64());
            return answer.unwrap_or_else(|_| Err(ended()));
        }
        if progress.give_up() || mutated(Mutation::UnknownIsNothing) {
            self.metrics.error("propose_timeout");
            let reason = "the ordered log does not answer; nothing was written".to_owned();
            return Err(ProposeError::Unavailable { reason, maybe_written: false });
        }
        let reason = if progress.is_committed() {
            let applied_by = started + self.limits.commit_wait + self.limits.apply_wait;
            if let Ok(answer) = tokio::time::timeout_at(applied_by, &mut answer).await {
                return answer.unwrap_or_else(|_| Err(ended()));
            }
            "the request is ordered but not applied on this replica yet"
        } else {
            "the ordered log does not answer; the request may take effect yet"
        };
        self.metrics.error("propose_timeout");
        Err(ProposeError::Unavailable { reason: reason.to_owned(), maybe_written: true })
    }

    /// As [`Proposer::propose`], without a bound on the wait: for the replica's own records.
    pub async fn propose_patiently(&self, record: Record) -> Answer {
        let (sender, answer) = oneshot::channel();
        self.enqueue(record, &self.bytes, Asker::Applied(sender))?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Orders a complaint, behind those that were ordered before: it is taken at once or refused. Its answer comes when it
    /// stands in the log, and with that it gives its bytes back: it is not applied before the record that is complained of
    /// is, and that may wait for what takes the complaint back.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub fn complain(&self, record: Record) -> Result<impl Future<Output = Said> + Send + use<>, ProposeError> {
        let (sender, said) = oneshot::channel();
        self.enqueue(record, &self.complaint_bytes, Asker::Committed(sender))?;
        Ok(async { said.await.unwrap_or_else(|_| Err(ended())) })
    }

    fn enqueue(&self, record: Record, bytes: &Arc<Semaphore>, asker: Asker) -> Result<Arc<Progress>, ProposeError> {
        let size = record.encoded_len();
        let limit = self.limits.max_record_bytes;
        if size > limit || !record.fits() {
            return Err(ProposeError::TooLarge { size, limit });
        }
        let overloaded = || {
            self.metrics.error("overloaded");
            ProposeError::Overloaded
        };
        let permits = u32::try_from(size).unwrap_or(u32::MAX);
        let permit = Some(bytes.clone().try_acquire_many_owned(permits).map_err(|_| overloaded())?);
        let progress = Arc::new(Progress::default());
        let queued = Queued { record, progress: progress.clone(), asker: Some(asker), permit };
        match self.queue.try_send(queued) {
            Ok(()) => {
                self.metrics.queue.inc();
                Ok(progress)
            }
            Err(mpsc::error::TrySendError::Full(_)) => Err(overloaded()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(ended_unwritten()),
        }
    }
}

fn ended() -> ProposeError {
    ProposeError::NotServing { reason: "the replica has stopped".to_owned(), maybe_written: true }
}

fn ended_unwritten() -> ProposeError {
    ProposeError::NotServing { reason: "the replica has stopped".to_owned(), maybe_written: false }
}

/// The proposing task's side.
pub struct ProposerTask<L> {
    log: L,
    origin: u32,
    queue: mpsc::Receiver<Queued>,
    limits: Arc<Limits>,
    unresolved: Arc<Unresolved>,
    room: Arc<LogRoom>,
    metrics: Metrics,
    clock: Clock,
}

/// A proposer and its task, which has to be [run](ProposerTask::run).
pub fn proposer<L: OrderedLog>(
    log: L,
    origin: u32,
    limits: Limits,
    unresolved: Arc<Unresolved>,
    room: Arc<LogRoom>,
    metrics: Metrics,
    clock: Clock,
) -> (Proposer, ProposerTask<L>) {
    let limits = Arc::new(limits);
    let (sender, queue) = mpsc::channel(limits.queue_records.max(1));
    let bytes = Arc::new(Semaphore::new(limits.queue_bytes));
    let complaint_bytes = Arc::new(Semaphore::new(COMPLAINT_BYTES));
    let proposer = Proposer {
        queue: sender,
        bytes,
        complaint_bytes,
        limits: limits.clone(),
        room: room.clone(),
        metrics: metrics.clone(),
    };
    (proposer, ProposerTask { log, origin, queue, limits, unresolved, room, metrics, clock })
}

impl<L: OrderedLog> ProposerTask<L> {
    /// Runs until the incarnation is fenced or nobody can propose any more.
    pub async fn run(mut self) -> Ended {
        let mut next = 1u64;
        let mut waiting = VecDeque::new();
        let mut cadence = Cadence::new(Instant::now());
        let mut on_their_way = FuturesUnordered::new();
        loop {
            let room = on_their_way.len() < self.limits.entries_in_flight.max(1);
            let in_window = self.unresolved.span(next) < self.limits.window;
            let full = waiting.len() >= self.limits.max_records;
            let may_leave = room && in_window && !waiting.is_empty();
            if may_leave && (full || cadence.is_time(waiting.len(), Instant::now())) {
                if let Some((entry, sequences)) = self.collect(&mut waiting, &mut next) {
                    on_their_way.push(append_until_known(
                        self.log.clone(),
                        entry,
                        sequences,
                        self.limits.clone(),
                        self.unresolved.clone(),
                        self.room.clone(),
                        self.metrics.clone(),
                    ));
                }
                continue;
            }
            tokio::select! {
                biased;
                Some(appended) = on_their_way.next(), if !on_their_way.is_empty() => match appended {
                    Ok(Appended { records, took }) => cadence.appended(records, took, Instant::now()),
                    Err(ended) => return ended,
                },
                () = self.unresolved.changed(), if room && !in_window => {}
                queued = self.queue.recv(), if !full => match queued {
                    Some(queued) => waiting.push_back(queued),
                    None => return Ended::Closed,
                },
                () = sleep_until(cadence.until()), if may_leave => {}
            }
        }
    }

    /// Makes an entry of everything that waits, up to the bounds. `None` if every client has given up or is refused.
    fn collect(&mut self, waiting: &mut VecDeque<Queued>, next: &mut u64) -> Option<(Bytes, std::ops::Range<u64>)> {
        let begin = *next;
        let mut records = Vec::new();
        let mut bytes = ENTRY_HEADER_BYTES;
        let refusal = self.room.refusal();
        while let Some(mut queued) = waiting.pop_front() {
            self.metrics.queue.dec();
            // Who doesn't wait any more gets nothing proposed; the number is not used.
            let asker = queued.asker.take().filter(|asker| !asker.is_closed() && queued.progress.take());
            // What had room when it came may have none by now: as much may have waited as the log holds.
            if let Some(refusal) = refusal.as_ref().filter(|_| queued.record.kind.writes()) {
                self.metrics.error("log_full");
                asker.into_iter().for_each(|asker| asker.refuse(refusal.clone()));
                continue;
            }
            if let (Some(asker), Some(permit)) = (asker, queued.permit.take()) {
                let mut record = std::mem::replace(&mut queued.record, Record::bare(RecordKind::Barrier));
                record.sequence = *next;
                record.clock_us = self.clock.now_us();
                bytes += record.encoded_len();
                self.unresolved.insert(*next, queued.progress.clone(), asker, permit);
                *next += 1;
                records.push(record);
            }
            if records.len() >= self.limits.max_records || bytes >= self.limits.max_bytes {
                break;
            }
        }
        if records.is_empty() {
            return None;
        }
        self.metrics.proposed.inc_by(records.len() as u64);
        let entry = Entry {
            origin: self.origin,
            incarnation: self.log.incarnation().0,
            floor: if mutated(Mutation::FloorTooHigh) { begin } else { self.unresolved.floor(begin) },
            records,
        };
        self.room.sends(begin, entry.log_bytes());
        Some((entry.encode(), begin..*next))
    }
}

/// An entry's way into the log has ended.
struct Appended {
    records: usize,
    took: Duration,
}

/// Appends an entry again and again until it is known to be in the log, or known to be nowhere and given up by all.
async fn append_until_known<L: OrderedLog>(
    log: L,
    entry: Bytes,
    sequences: std::ops::Range<u64>,
    limits: Arc<Limits>,
    unresolved: Arc<Unresolved>,
    room: Arc<LogRoom>,
    metrics: Metrics,
) -> Result<Appended, Ended> {
    let records = usize::try_from(sequences.end - sequences.start).unwrap_or(usize::MAX);
    let started = Instant::now();
    let appended = || Appended { records, took: started.elapsed() };
    let mut pause = limits.retry_first;
    // Once an attempt's outcome is unknown the entry may come to stand in the log at any time: its numbers stay
    // unresolved until it is seen there.
    let mut nowhere = true;
    loop {
        metrics.appends.inc();
        match log.append_requests(entry.clone(), records).await {
            Ok(_) => {
                pass(Fault::AppendKnown);
                metrics.append_seconds.observe(started.elapsed().as_secs_f64());
                unresolved.committed(sequences);
                return Ok(appended());
            }
            Err(AppendError::Fenced) => return Err(Ended::Fenced),
            Err(AppendError::TooLarge { bytes, limit }) if nowhere => {
                metrics.error("append_too_large");
                room.arrived(sequences.start);
                unresolved.refuse(sequences, &ProposeError::TooLarge { size: bytes, limit });
                return Ok(appended());
            }
            Err(AppendError::Unavailable { reason }) => {
                metrics.error("append_unavailable");
                tracing::debug!(%reason, "the log is not available");
            }
            Err(error @ (AppendError::Unknown { .. } | AppendError::TooLarge { .. })) => {
                metrics.error("append_unknown");
                tracing::debug!(%error, "appending again");
                nowhere = false;
                if mutated(Mutation::UnknownIsCommitted) {
                    unresolved.committed(sequences);
                    return Ok(appended());
                }
            }
        }
        if unresolved.all_committed(sequences.clone()) {
            return Ok(appended());
        }
        if nowhere && unresolved.abandon_if_nobody_waits(sequences.clone()) {
            room.arrived(sequences.start);
            return Ok(appended());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(limits.retry_last);
    }
}

#[cfg(test)]
#[path = "propose_tests.rs"]
mod tests;
