//! Restore points of the store: flush beside the work, then hold the lanes at an index, flush what is left, go on, and
//! snapshot and commit beside the work again. What is not committed in the end is deleted.
//!
//! The snapshot is exactly the state at that index: when the lanes are freed, that is what Cassandra's files hold, and what
//! is written from then on is in memory alone until a memtable is replaced. Cassandra counts that: if it has happened by the
//! end of the snapshot, this one is given up, and the next is taken with the lanes held until it is done. No table is
//! created, dropped or emptied meanwhile, for that changes files. Where rows are read in place of files, lanes are always
//! held.

mod turns;

use std::future::pending;
use std::sync::Arc;

use futures::future::BoxFuture;
use replicateddb_faults::{Fault, pass};
use replicateddb_store::api::{Code, Mark};
use replicateddb_store::client::StoreError;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant};

use self::turns::is_due;
use crate::metrics::{Metrics, Phase};
use crate::mutations::{Mutation, mutated};
use crate::shared::{Condition, Shared};
use crate::site::{Agent, Rest};
use crate::state::State;

/// How often builds of indexes and views are asked for before this restore point is given up.
const BUILD_POLLS: usize = 20;
/// Pause between two such questions.
const BUILD_POLL: Duration = Duration::from_millis(500);
/// Longest wait for a commit, which reads and syncs every file that is new. Nothing but the next restore point waits for
/// it.
const COMMIT_WAIT: Duration = Duration::from_secs(1800);
/// Longest wait for the agent to give up a snapshot.
const ABORT_WAIT: Duration = Duration::from_secs(60);
/// Fewest records between two restore points, however often the store had to be rewound.
const FEWEST_RECORDS: u64 = 16;
/// How often the pause after a failed attempt doubles.
const MOST_DOUBLINGS: u32 = 5;
/// People who may wait for a restore point they asked for.
const ASKERS: usize = 16;

type Asker = oneshot::Sender<Result<u64, String>>;

enum Doing {
    Nothing,
    Flushing(BoxFuture<'static, Result<(), Trouble>>),
    /// Waits for the lanes to drain.
    Draining(Pause),
    /// Flushes what is left, with all lanes held.
    FlushingRest(BoxFuture<'static, Result<(Snapshot, Rest), Trouble>>),
    /// Takes the snapshot.
    Saving(Writes, BoxFuture<'static, Result<Snapshot, Trouble>>),
    /// Makes the snapshot a restore point, with the lanes free again.
    Committing(u64, BoxFuture<'static, Result<(), Trouble>>),
}

/// Lanes are held.
#[derive(Clone, Copy)]
struct Pause {
    since: Instant,
    /// They stay so until the snapshot is taken, whatever is written meanwhile.
    whole: bool,
}

impl Pause {
    /// What is left of the longest time.
    fn left(self, shared: &Shared) -> Duration {
        shared.config.restore_point_timeout.saturating_sub(self.since.elapsed())
    }

    /// Lanes are free again.
    fn over(self, shared: &Shared) {
        shared.metrics.restore_point_seconds.observe(self.since.elapsed().as_secs_f64());
    }
}

/// What becomes of writes while the snapshot is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    Held,
    /// Rows may be written; tables stay as they are.
    Free,
}

/// What a snapshot is of: exactly the state of its mark.
struct Snapshot {
    id: String,
    mark: Mark,
    timestamp_us: i64,
    pause: Pause,
}

/// What a step has led to.
pub enum Step {
    /// Go on.
    Done,
    /// The agent follows a newer incarnation, or another JVM runs: this applier's time is over.
    Lost(String),
}

/// When and how restore points are made.
pub struct RestorePoints<A> {
    shared: Arc<Shared>,
    agent: A,
    generation: u64,
    /// Records between two restore points.
    records: u64,
    /// The store was rewound to the same index before: nothing beyond the next restore point is admitted until that is
    /// made, or a replay of a long log would never get so far without trouble.
    cautious: bool,
    doing: Doing,
    /// Index, bytes and time of the last snapshot that became one, or of the start.
    last: (u64, u64, Instant),
    /// One was made since the start.
    has_made: bool,
    /// When the lanes were drained for the one under way, and the records with an effect, and the bytes of all, before that.
    drained: (Instant, u64, u64),
    not_before: Instant,
    /// Attempts in a row that failed.
    failures: u32,
    /// Records with an effect since the last one.
    writes: u64,
    /// Bytes of all entries, as the log counts them.
    bytes: u64,
    made: u64,
    askers: Vec<Asker>,
}

impl<A: Agent> RestorePoints<A> {
    /// None is under way; the store is at `index`. `setbacks`: how often the store was rewound to the same index lately.
    /// Each halves the distance between restore points, so that a replay that keeps meeting trouble still comes forward.
    pub fn new(shared: Arc<Shared>, agent: A, generation: u64, index: u64, setbacks: u32) -> Self {
        let now = Instant::now();
        let most = shared.config.restore_point_records.max(1);
        let records = (most.checked_shr(setbacks).unwrap_or(0)).max(FEWEST_RECORDS.min(most));
        Self {
            shared,
            agent,
            generation,
            records,
            cautious: setbacks > 0,
            doing: Doing::Nothing,
            last: (index, 0, now),
            has_made: false,
            drained: (now, 0, 0),
            not_before: now,
            failures: 0,
            writes: 0,
            bytes: 0,
            made: 0,
            askers: Vec::new(),
        }
    }

    /// No record may be admitted: lanes drain, what is left is flushed, or a snapshot is taken with them held.
    pub fn holds_lanes(&self) -> bool {
        match self.doing {
            Doing::Draining(_) => true,
            Doing::FlushingRest(_) => !mutated(Mutation::LanesFreeBeforeFlush),
            Doing::Saving(writes, _) => writes == Writes::Held,
            _ => false,
        }
    }

    /// No table may be created, dropped, changed or emptied: the snapshot is being taken, beside the work.
    pub fn holds_tables(&self) -> bool {
        matches!(self.doing, Doing::Saving(..)) && !mutated(Mutation::DdlDuringSnapshot)
    }

    /// No record behind `index` may be admitted before a restore point is made there.
    pub fn holds_back(&self, index: u64) -> bool {
        self.cautious && index.saturating_sub(self.last.0) >= self.records
    }

    /// One is under way that would come to nothing if the replica stopped now. A commit is carried out by the agent to
    /// its end, whoever waits for it.
    pub fn is_busy(&self) -> bool {
        !matches!(self.doing, Doing::Nothing | Doing::Committing(..))
    }

    /// So many bytes more of the log are admitted.
    pub fn passed(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// A record with an effect was applied; `index` is the last that was admitted.
    pub fn wrote(&mut self, index: u64) {
        self.writes += 1;
        if self.is_far(index) {
            self.look(index);
        }
    }

    /// Whether there are as many records, or as many bytes of them, behind the last one as the log should hold; or behind the
    /// one before it, as when processes have ended before their first one was due.
    fn is_far(&self, index: u64) -> bool {
        let config = &self.shared.config;
        let (last, bytes, _) = self.last;
        let ends = |most, last, now| is_due(config.replica, most, last, now, self.has_made);
        // Records without an effect count, too: a replay has to read them, and the log has to hold them.
        ends(self.records, last, index)
            || ends(config.restore_point_bytes, bytes, self.bytes)
            || config.makes_restore_points() && self.shared.log_room.wants_point()
    }

    /// Somebody wants one now.
    pub fn ask(&mut self, asker: Asker) {
        if self.askers.len() >= ASKERS {
            let _ = asker.send(Err("too many are waiting for a restore point".to_owned()));
            return;
        }
        self.askers.push(asker);
        self.not_before = Instant::now();
    }

    /// Begins one if it is due at this index.
    pub fn look(&mut self, index: u64) {
        let config = &self.shared.config;
        let by_time = self.writes > 0 && self.last.2.elapsed() >= config.restore_point_interval;
        let due = by_time || self.is_far(index) || !self.askers.is_empty();
        if due && matches!(self.doing, Doing::Nothing) && Instant::now() >= self.not_before {
            pass(Fault::RestorePointFlushing);
            let (agent, shared) = (self.agent.clone(), self.shared.clone());
            let flushing = async move { timed(&shared.metrics, Phase::Flush, flush(agent)).await };
            self.doing = Doing::Flushing(Box::pin(flushing));
        }
        // One record that can't be applied must not hold up all others for a snapshot's sake.
        if let Doing::Draining(pause) = self.doing
            && pause.since.elapsed() >= config.restore_point_timeout
        {
            self.failed("the lanes did not drain".into());
        }
    }

    /// Waits for what is under way; never completes if nothing is. Cancel-safe.
    pub async fn step(&mut self) -> Step {
        let (next, trouble) = match &mut self.doing {
            Doing::Nothing | Doing::Draining(_) => return pending().await,
            Doing::Flushing(flushing) => match flushing.await {
                Ok(()) => (Some(draining(false)), None),
                Err(trouble) => (None, Some(trouble)),
            },
            Doing::FlushingRest(flushing) => match flushing.await {
                Ok((snapshot, rest)) => (Some(self.save(snapshot, &rest)), None),
                Err(trouble) => (None, Some(trouble)),
            },
            Doing::Saving(writes, saving) => match (*writes, saving.await) {
                (_, Ok(snapshot)) => (Some(self.commit(snapshot)), None),
                (Writes::Free, Err(trouble)) if trouble.switched => {
                    tracing::info!(reason = trouble.reason, "another snapshot is taken, with writes held");
                    (Some(draining(true)), None)
                }
                (_, Err(trouble)) => (None, Some(trouble)),
            },
            Doing::Committing(index, committing) => match (*index, committing.await) {
                (index, Ok(())) => {
                    self.saved(index);
                    (None, None)
                }
                (_, Err(trouble)) => (None, Some(trouble)),
            },
        };
        match (next, trouble) {
            (_, Some(trouble)) => return self.failed(trouble),
            (Some(next), None) => self.doing = next,
            (None, None) => {}
        }
        Step::Done
    }

    /// All lanes are free and the store is exactly at this state: flushes what is left of it.
    pub fn drained(&mut self, state: &State) {
        let Doing::Draining(pause) = self.doing else { return };
        pass(Fault::RestorePointDrained);
        self.made += 1;
        self.drained = (Instant::now(), self.writes, self.bytes);
        self.shared.metrics.restore_point_phase(Phase::Drain, pause.since.elapsed());
        let (index, timestamp_us) = (state.index(), state.timestamp_us());
        let (incarnation, generation, made) = (self.shared.incarnation, self.generation, self.made);
        // Never the same again, so that an aborted one stays aborted.
        let id = format!("{index:016x}-{incarnation:x}-{generation}-{made}");
        let mark = serde_json::to_value(state).map(|replica_state| Mark { index, replica_state });
        let (agent, shared) = (self.agent.clone(), self.shared.clone());
        self.doing = Doing::FlushingRest(Box::pin(async move {
            let mark = mark.map_err(|e| Trouble::from(e.to_string()))?;
            // There is no snapshot of this id yet to give up.
            let rest = limited(pause.left(&shared), flush_rest(&agent, &shared.metrics)).await;
            if rest.is_err() {
                pause.over(&shared);
            }
            Ok((Snapshot { id, mark, timestamp_us, pause }, rest?))
        }));
    }

    /// Takes the snapshot; lanes are free meanwhile unless rows are read for it, or one was taken like that in vain.
    fn save(&self, snapshot: Snapshot, rest: &Rest) -> Doing {
        let (agent, shared, generation) = (self.agent.clone(), self.shared.clone(), self.generation);
        let switches = rest.memtable_switches.filter(|_| !snapshot.pause.whole);
        let writes = if switches.is_some() { Writes::Free } else { Writes::Held };
        let limit = match writes {
            Writes::Held => snapshot.pause.left(&shared),
            Writes::Free => {
                snapshot.pause.over(&shared);
                shared.config.restore_point_timeout
            }
        };
        let switches = switches.filter(|_| !mutated(Mutation::SnapshotDespiteSwitch));
        let saving = async move {
            let taken = agent.snapshot(&snapshot.id, generation, snapshot.timestamp_us, switches);
            let taken = async { Ok(timed(&shared.metrics, Phase::Snapshot, taken).await?) };
            let taken = bounded(limit, &agent, &snapshot.id, taken).await;
            if writes == Writes::Held {
                snapshot.pause.over(&shared);
            }
            taken?;
            pass(Fault::RestorePointTaken);
            Ok(snapshot)
        };
        Doing::Saving(writes, Box::pin(saving))
    }

    /// Makes the snapshot a restore point. The lanes are free meanwhile.
    fn commit(&self, Snapshot { id, mark, .. }: Snapshot) -> Doing {
        let (agent, shared) = (self.agent.clone(), self.shared.clone());
        let index = mark.index;
        Doing::Committing(
            index,
            Box::pin(async move {
                pass(Fault::RestorePointUncommitted);
                let committed = async { Ok(agent.commit(&id, mark).await?) };
                timed(&shared.metrics, Phase::Commit, bounded(COMMIT_WAIT, &agent, &id, committed)).await
            }),
        )
    }

    fn saved(&mut self, index: u64) {
        pass(Fault::RestorePointCommitted);
        self.doing = Doing::Nothing;
        (self.cautious, self.failures) = (false, 0);
        let (at, writes, bytes) = self.drained;
        self.last = (index, bytes, at);
        self.has_made = true;
        // Others were applied while it was committed.
        self.writes = self.writes.saturating_sub(writes);
        self.shared.log_room.made_point();
        self.shared.metrics.restore_points.inc();
        self.shared.restore_point(index);
        self.shared.condition(Condition::RestorePoint, None);
        tracing::info!(index, "restore point");
        for asker in self.askers.drain(..) {
            let _ = asker.send(Ok(index));
        }
    }

    fn failed(&mut self, trouble: Trouble) -> Step {
        let Trouble { reason, over, .. } = trouble;
        self.doing = Doing::Nothing;
        // Without one, too, the replay has to go on.
        self.cautious = false;
        // Each attempt may hold the lanes for long: the more fail, the fewer.
        let pause = self.shared.config.restore_point_retry * 2u32.pow(self.failures.min(MOST_DOUBLINGS));
        self.failures = self.failures.saturating_add(1);
        self.not_before = Instant::now() + pause;
        self.shared.metrics.error("restore_point");
        self.shared.condition(Condition::RestorePoint, Some(format!("no restore point could be made: {reason}")));
        for asker in self.askers.drain(..) {
            let _ = asker.send(Err(reason.clone()));
        }
        if over { Step::Lost(reason) } else { Step::Done }
    }
}

/// Why there is no restore point.
struct Trouble {
    reason: String,
    /// This applier's time is over.
    over: bool,
    /// A memtable was replaced between the flush and the snapshot.
    switched: bool,
}

impl From<&str> for Trouble {
    fn from(reason: &str) -> Self {
        reason.to_owned().into()
    }
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self { reason, over: false, switched: false }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        let over = matches!(error.code(), Some(Code::StaleIncarnation | Code::OtherLog | Code::WrongGeneration));
        let switched = error.code() == Some(Code::MemtableSwitched);
        Self { reason: error.to_string(), over, switched }
    }
}

async fn flush<A: Agent>(agent: A) -> Result<(), Trouble> {
    for _ in 0..BUILD_POLLS {
        if agent.flush().await?.builds.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(BUILD_POLL).await;
    }
    Err("indexes or views are still being built".into())
}

fn draining(whole: bool) -> Doing {
    Doing::Draining(Pause { since: Instant::now(), whole })
}

async fn flush_rest<A: Agent>(agent: &A, metrics: &Metrics) -> Result<Rest, Trouble> {
    let rest =
        async { if mutated(Mutation::SnapshotWithoutFlush) { Ok(Rest::default()) } else { agent.flush().await } };
    let rest = timed(metrics, Phase::FlushRest, rest).await?;
    // What is built now was begun by a DDL after the flush: it may not be in the snapshot half.
    if !rest.builds.is_empty() {
        return Err("indexes or views are being built".into());
    }
    pass(Fault::RestorePointFlushed);
    Ok(rest)
}

/// Carries out a part of a restore point; how long it took is noted if it came to something.
async fn timed<T, E>(metrics: &Metrics, phase: Phase, part: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let begin = Instant::now();
    let result = part.await;
    if result.is_ok() {
        metrics.restore_point_phase(phase, begin.elapsed());
    }
    result
}

/// A step of a restore point, within a limit.
async fn limited<T>(limit: Duration, step: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    tokio::time::timeout(limit, step).await.unwrap_or_else(|_| Err(format!("it took longer than {limit:?}").into()))
}

/// A step of a restore point, within a limit; if it fails, the restore point is given up.
async fn bounded<A: Agent, T>(
    limit: Duration,
    agent: &A,
    id: &str,
    step: impl Future<Output = Result<T, Trouble>>,
) -> Result<T, Trouble> {
    let failed = match limited(limit, step).await {
        Ok(done) => return Ok(done),
        Err(trouble) => trouble,
    };
    // The id is never committed after this: a late snapshot can't be taken for this index's. Should the abort be lost,
    // nobody commits the id either.
    let _ = tokio::time::timeout(ABORT_WAIT, agent.abort(id)).await;
    Err(failed)
}
