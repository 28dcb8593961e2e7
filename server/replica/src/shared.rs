//! What the core's tasks and the handle share: whether clients are served, and what people are shown.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use replicateddb_ordering::Position;
use replicateddb_ordering::presence::Presences;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

use crate::backend::Endpoint;
use crate::bell::found;
use crate::config::Config;
use crate::frontier::{SETTLE, Standing};
use crate::log_room::LogRoom;
use crate::metrics::Metrics;
use crate::mutations::{Mutation, mutated};
use crate::record::Entry;
use crate::replica::{Digest, Phase, ProposeError, Replay, SchemaEvent, Serving, Status};
use crate::state::State;
use crate::stuck::Stuck;
use crate::unresolved::Unresolved;

/// Digests kept for [`crate::ReplicaHandle::digest_at`].
const DIGESTS: usize = 8;
/// Schema events a slow session may lag behind before it loses some.
const EVENTS: usize = 256;

/// What may be wrong; each at most once in the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// A record can't be executed now.
    Apply,
    /// Cassandra answers a record with the same error each time: a verdict is waited for.
    Verdict,
    /// The local Cassandra can't be reached.
    Backend,
    /// The store agent can't be reached or refuses.
    Agent,
    /// The ordered log can't be reached.
    Log,
    /// The ordered log holds as much as it may: writes are refused.
    LogFull,
    /// The last restore point failed.
    RestorePoint,
    /// Compaction could not be switched.
    Compaction,
    /// Cassandra's clock is behind the restore point's.
    Clock,
    /// The store differs from what the other replicas have.
    Diverged,
}

/// What this replica needs of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// From where on.
    pub from: Position,
    /// The index before that.
    pub index: u64,
    /// Bytes of the log before that, if they are known.
    pub bytes: Option<u64>,
    /// It has a restore point there, and is not just copying one.
    pub durable: bool,
}

impl Needs {
    /// The whole log.
    pub const ALL: Self = Self { from: Position::START, index: 0, bytes: Some(0), durable: true };

    /// What comes after a state.
    pub fn after(state: &State, durable: bool) -> Self {
        Self { from: state.next_position(), index: state.index(), bytes: state.bytes(), durable }
    }
}

struct Known {
    phase: Phase,
    detail: String,
    applied: u64,
    log_end: Option<u64>,
    recovering_since: Instant,
    replay: Option<Replay>,
    generation: Option<u64>,
    restore_point_index: Option<u64>,
    /// Where the log starts.
    log_first: Option<Position>,
    needs: Option<Needs>,
    conditions: BTreeMap<Condition, String>,
    digests: BTreeMap<u64, Digest>,
    /// When a record was last seen in the log, and how many ticks in a row came last.
    activity: (Instant, u32),
}

/// See the module's head.
pub struct Shared {
    /// The settings.
    pub config: Config,
    /// This life of the replica.
    pub incarnation: i64,
    /// Counters.
    pub metrics: Metrics,
    /// Requests on their way.
    pub unresolved: Arc<Unresolved>,
    /// How much the log holds, and may hold.
    pub log_room: Arc<LogRoom>,
    /// Records that Cassandra fails to execute, and verdicts.
    pub stuck: Stuck,
    /// Whether clients may be answered (I5).
    pub serving: watch::Sender<Serving>,
    /// The schema version applied here.
    pub schema: watch::Sender<Uuid>,
    /// The index of the record that made it.
    pub schema_index: AtomicU64,
    /// The index of the last record applied here that may have changed the schema, roles or permissions.
    pub last_ddl: AtomicU64,
    /// What was in the log when the replica last looked is applied.
    current: AtomicBool,
    /// When this life began, at the latest.
    born: Instant,
    /// The highest index that was admitted in this life: what is admitted may show. What an earlier life has shown is
    /// behind the barrier that every other replica passes before it asks this one.
    pub shown: Arc<AtomicU64>,
    /// Whether this life still is.
    pub standing: Standing,
    /// Rung when more is applied.
    moved: Notify,
    /// Times that what this replica needs of the log was made known.
    beats: AtomicU64,
    /// Times that the store has come forward.
    forward: AtomicU64,
    /// What was seen of the other replicas, for as long as this process lives: whose Cassandra starts again and again would
    /// otherwise never find out who is gone.
    pub presences: Mutex<Presences>,
    /// Applied schema changes.
    pub events: broadcast::Sender<SchemaEvent>,
    /// Why the core has ended.
    pub finished: watch::Sender<Option<String>>,
    known: Mutex<Known>,
}

impl Shared {
    /// Everything at its beginning.
    pub fn new(config: Config, incarnation: i64, metrics: Metrics) -> Self {
        let known = Known {
            phase: Phase::Starting,
            detail: "starting".to_owned(),
            applied: 0,
            log_end: None,
            recovering_since: Instant::now(),
            replay: None,
            generation: None,
            restore_point_index: None,
            log_first: None,
            needs: None,
            conditions: BTreeMap::new(),
            digests: BTreeMap::new(),
            activity: (Instant::now(), 0),
        };
        Self {
            log_room: Arc::new(LogRoom::new(config.log_max_bytes, metrics.clone())),
            config,
            incarnation,
            metrics,
            unresolved: Arc::default(),
            stuck: Stuck::default(),
            serving: watch::Sender::new(Serving::No { reason: "starting".to_owned() }),
            schema: watch::Sender::new(Uuid::nil()),
            schema_index: AtomicU64::new(0),
            last_ddl: AtomicU64::new(0),
            current: AtomicBool::new(false),
            born: Instant::now(),
            shown: Arc::default(),
            standing: Standing::default(),
            moved: Notify::new(),
            beats: AtomicU64::new(0),
            forward: AtomicU64::new(0),
            presences: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
            finished: watch::Sender::new(None),
            known: Mutex::new(known),
        }
    }

    /// Number and incarnation of this life.
    pub fn own(&self) -> (u32, i64) {
        (self.config.replica, self.incarnation)
    }

    /// Changes the phase; in every phase but `Serving` no client is served (I5).
    pub fn enter(&self, phase: Phase, detail: impl Into<String>) {
        let detail = detail.into();
        if phase != Phase::Serving {
            self.stop_serving(&detail);
        }
        tracing::info!(?phase, %detail, "replica");
        let mut known = self.lock();
        known.phase = phase;
        known.detail = detail;
    }

    /// The core has ended by a failure: whoever waits is told, and nobody is served.
    pub fn fail(&self, reason: &str) {
        self.metrics.error("failed");
        tracing::error!(%reason, "the replica has failed");
        self.end(Phase::Failed, reason);
    }

    /// The core has ended.
    pub fn end(&self, phase: Phase, reason: &str) {
        self.enter(phase, reason);
        self.unresolved.fail_all(reason);
        self.finished.send_replace(Some(reason.to_owned()));
    }

    /// Serves no client from now on.
    pub fn stop_serving(&self, reason: &str) {
        self.metrics.serving.set(0);
        self.serving.send_if_modified(|serving| {
            let change = matches!(serving, Serving::Yes { .. });
            // A new reason is no change for those who wait for service.
            *serving = Serving::No { reason: reason.to_owned() };
            change
        });
    }

    /// Clients may be answered by this generation.
    pub fn start_serving(&self, generation: u64, backend: Endpoint) {
        self.metrics.serving.set(1);
        self.serving.send_replace(Serving::Yes { generation, backend });
    }

    /// The schema of this state is applied.
    pub fn has_schema(&self, state: &State) {
        self.schema_index.store(state.schema_index(), Ordering::Release);
        self.schema.send_replace(state.schema_version());
    }

    /// What is wrong, or `None` when it is right again.
    pub fn condition(&self, condition: Condition, text: Option<String>) {
        let mut known = self.lock();
        match text {
            Some(text) => {
                if known.conditions.get(&condition) != Some(&text) {
                    tracing::warn!(?condition, %text, "condition");
                }
                known.conditions.insert(condition, text);
            }
            None => {
                if known.conditions.remove(&condition).is_some() {
                    tracing::info!(?condition, "condition ended");
                }
            }
        }
    }

    /// Recovery has brought the store to this index.
    pub fn recovered(&self, generation: u64, index: u64, restore_point: Option<u64>, rewound: bool) {
        let mut known = self.lock();
        known.generation = Some(generation);
        known.applied = index;
        known.restore_point_index = restore_point.or(known.restore_point_index);
        known.replay = Some(Replay { from: index, to: index, records: 0, restore_point, rewound, seconds: 0.0 });
    }

    /// Everything up to this index is applied; `log_end` is the last index known to be in the log.
    pub fn progress(&self, applied: u64, log_end: u64) {
        self.metrics.applied_index.set(applied);
        self.metrics.lag.set(log_end.saturating_sub(applied));
        let mut known = self.lock();
        let before = std::mem::replace(&mut known.applied, applied);
        known.log_end = Some(log_end);
        drop(known);
        if before != applied {
            self.came_forward();
        }
        self.moved.notify_waiters();
    }

    /// Records up to this index are admitted: from now on what they do may be seen.
    pub fn admitted(&self, index: u64) {
        self.shown.fetch_max(index, Ordering::SeqCst);
    }

    /// Completes when every other replica knows of this life, or can't act on its not being there.
    pub async fn settled(&self) {
        if !mutated(Mutation::ServeUnknown) {
            sleep_until(self.born + SETTLE).await;
        }
    }

    /// Completes when everything up to this index is applied here; bounded in time.
    ///
    /// # Errors
    /// [`ProposeError::Unavailable`] past the bound.
    pub async fn reached(&self, index: u64) -> Result<(), ProposeError> {
        let reached = found(&self.moved, || (self.applied() >= index).then_some(()));
        timeout(self.config.limits.apply_wait, reached).await.map_err(|_| ProposeError::Unavailable {
            reason: format!("what was written up to index {index} is not applied on this replica yet"),
            maybe_written: false,
        })
    }

    /// Recovery begins.
    pub fn recovering(&self) {
        self.set_current(false);
        self.lock().recovering_since = Instant::now();
    }

    /// The replay has come to this index.
    pub fn replayed(&self, to: u64) -> Option<Replay> {
        let mut known = self.lock();
        let seconds = known.recovering_since.elapsed().as_secs_f64();
        let replay = known.replay.as_mut()?;
        replay.to = to;
        replay.records = to.saturating_sub(replay.from);
        replay.seconds = seconds;
        Some(replay.clone())
    }

    /// Whether the replica has caught up with the log since it last recovered or lost its backend.
    pub fn is_current(&self) -> bool {
        self.current.load(Ordering::SeqCst)
    }

    /// See [`Shared::is_current`].
    pub fn set_current(&self, current: bool) {
        self.current.store(current, Ordering::SeqCst);
    }

    /// A restore point was committed.
    pub fn restore_point(&self, index: u64) {
        self.metrics.restore_point_index.set(index);
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.metrics.restore_point_time.set(time.map_or(0.0, |time| time.as_secs_f64()));
        self.lock().restore_point_index = Some(index);
    }

    /// Where the log starts.
    pub fn saw_first(&self, first: Position) {
        self.lock().log_first = Some(first);
    }

    /// What this replica needs of the log from now on; whether that is new.
    pub fn set_needs(&self, needs: Needs) -> bool {
        self.log_room.needs(needs.bytes);
        self.lock().needs.replace(needs) != Some(needs)
    }

    /// Another number each time.
    pub fn next_beat(&self) -> u64 {
        self.beats.fetch_add(1, Ordering::Relaxed)
    }

    /// The store holds more than before, or more was copied for it.
    pub fn came_forward(&self) {
        self.forward.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it has come forward.
    pub fn forward(&self) -> u64 {
        self.forward.load(Ordering::Relaxed)
    }

    /// See [`Shared::set_needs`].
    pub fn needs(&self) -> Option<Needs> {
        self.lock().needs
    }

    /// Keeps a digest.
    pub fn keep_digest(&self, digest: Digest) {
        let mut known = self.lock();
        known.digests.insert(digest.index, digest);
        while known.digests.len() > DIGESTS {
            known.digests.pop_first();
        }
    }

    /// A digest that was kept.
    pub fn digest(&self, index: u64) -> Option<Digest> {
        self.lock().digests.get(&index).cloned()
    }

    /// An entry stands in the log: if it is this replica's own, its records are resolved.
    pub fn committed(&self, entry: &Entry) {
        if (entry.origin, entry.incarnation) != (self.config.replica, self.incarnation) {
            return;
        }
        let sequences = entry.records.iter().map(|record| record.sequence);
        if let (Some(first), Some(last)) = (sequences.clone().min(), sequences.max()) {
            // One entry holds consecutive numbers.
            self.unresolved.committed(first..last.saturating_add(1));
        }
    }

    /// An entry was seen in the log; whether it held nothing but ticks.
    pub fn saw_entry(&self, only_ticks: bool) {
        let mut known = self.lock();
        let ticks = if only_ticks { known.activity.1.saturating_add(1) } else { 0 };
        known.activity = (Instant::now(), ticks);
    }

    /// When an entry was last seen in the log, and how many with nothing but ticks came last.
    pub fn activity(&self) -> (Instant, u32) {
        self.lock().activity
    }

    /// Everything up to this index is applied.
    pub fn applied(&self) -> u64 {
        self.lock().applied
    }

    /// For people and probes.
    pub fn status(&self) -> Status {
        let known = self.lock();
        Status {
            id: self.config.replica,
            incarnation: format!("{:#x}", self.incarnation),
            state: known.phase,
            detail: known.detail.clone(),
            engine: self.config.engine.clone(),
            leader: None,
            applied_index: known.applied,
            log_end: known.log_end,
            lag: known.log_end.map(|end| end.saturating_sub(known.applied)),
            replay: known.replay.clone(),
            generation: known.generation,
            restore_point_index: known.restore_point_index,
            log_first: known.log_first.map(|first| first.to_string()),
            log_needs: known.needs.map(|needs| needs.from.to_string()),
            schema_version: *self.schema.borrow(),
            conditions: known.conditions.values().cloned().collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Every change under the lock is complete before anything that may panic.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
