//! A replica set over a log and stores that fail on demand, and what its clients are told.

pub mod history;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use super::{Data, ModelConnector, ModelStore};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replicateddb_ordering::memory::{Config as LogConfig, Fault, MemoryLog, MemoryStorage};
use replicateddb_ordering::{Life, OrderedLog, Position};
use replicateddb_replica::ReplicaHandle;
use replicateddb_replica::clock::Clock;
use replicateddb_replica::config::Config;
use replicateddb_replica::lanes::Lanes;
use replicateddb_replica::metrics::{KindLabel, Metrics};
use replicateddb_replica::record::{Values, flags};
use replicateddb_replica::replica::{Outcome, ProposeError, Request, RequestKind, Serving, StatementText};

const REPLICAS: u32 = 3;
const CLIENTS: u32 = 6;
const OPERATIONS: u32 = 60;
/// How long a record fails before a replica complains of it.
pub const COMPLAIN_AFTER: Duration = Duration::from_secs(5);
/// One in so many requests is for a record that stores fail to execute, in every so manieth history.
const FAILING: (u32, u64) = (60, 5);
/// What the log may hold: about half of what a history writes.
const LOG_MAX_BYTES: u64 = 40_000;
/// How long a client that was refused waits.
const AFTER_REFUSAL: Duration = Duration::from_millis(250);
/// Longer than a write waits for room in the log.
const ROOM: Duration = Duration::from_secs(3);
/// Barriers after which nothing more can come from faults of the log: see [`Fault::UnknownLate`].
const LATE: u32 = 12;
/// When simulated time begins, µs since 1970.
const EPOCH_US: i64 = 1_800_000_000_000_000;
const HOUR_US: i64 = 3_600_000_000;
/// Simulated time after which everything must have come to rest.
pub const PATIENCE: Duration = Duration::from_secs(600);

/// What clients were told.
#[derive(Default)]
pub struct Told {
    /// Index → timestamp of the write, as answered.
    times: BTreeMap<u64, i64>,
    /// Reads that showed everything acknowledged or shown before them.
    reads: u64,
    /// What they showed.
    shown: BTreeMap<String, i64>,
    /// Value → timestamp of the write, as answered.
    acknowledged: BTreeMap<String, i64>,
    /// Values that certainly were not written.
    refused: BTreeSet<String>,
    /// Values whose writes were skipped by a verdict.
    skipped: BTreeSet<String>,
    /// Requests of unknown outcome.
    unknown: u32,
    /// Requests that stand in the log and were not applied in all that time.
    stuck: u32,
}

pub struct Cluster {
    pub log: MemoryStorage,
    pub stores: Vec<ModelStore>,
    pub handles: Vec<Mutex<Option<ReplicaHandle>>>,
    /// Replaced, and not dead yet.
    zombies: Vec<Mutex<Option<ReplicaHandle>>>,
    /// The newest life of each replica.
    lives: Vec<Mutex<Option<Life>>>,
    told: Mutex<Told>,
    began: Instant,
    /// What had been acknowledged when each replica was started.
    before_start: Vec<Mutex<Vec<(String, i64)>>>,
    /// µs that the clock of each replica's node is ahead.
    skew: Vec<i64>,
    /// Of all lives.
    metrics: Metrics,
    /// What the log may hold.
    log_max_bytes: u64,
}

/// What happened in a run.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    pub acknowledged: u64,
    pub refused: u64,
    pub unknown: u64,
    pub reads: u64,
    pub rewinds: u64,
    pub clean_starts: u64,
    pub restore_points: u64,
    /// Histories whose log lost its beginning.
    pub truncated: u64,
    /// Restore points that were taken over from other replicas.
    pub installs: u64,
    /// Barriers that asked the other replicas, in place of the log.
    pub asked: u64,
    /// Requests that were skipped by a verdict.
    pub skipped: u64,
    /// Requests for which there was no room in the log.
    pub full: u64,
    /// Of everything that clients were told and stores hold.
    pub trace: u64,
}

impl Cluster {
    pub fn new(seed: u64) -> Self {
        let log = MemoryStorage::new(LogConfig { segment_entries: 37, ..LogConfig::default() });
        log.set_clock(Some(EPOCH_US / 1000));
        // A clock step or a wrong clock of an hour, on one node.
        let skew = |n: u32| if seed % 4 == u64::from(n) { HOUR_US * [1, -1][(seed / 4 % 2) as usize] } else { 0 };
        Self {
            log,
            stores: (0..REPLICAS).map(|n| ModelStore::new(seed.wrapping_add(u64::from(n)), n)).collect(),
            handles: (0..REPLICAS).map(|_| Mutex::default()).collect(),
            zombies: (0..REPLICAS).map(|_| Mutex::default()).collect(),
            lives: (0..REPLICAS).map(|_| Mutex::default()).collect(),
            told: Mutex::default(),
            before_start: (0..REPLICAS).map(|_| Mutex::default()).collect(),
            began: Instant::now(),
            skew: (0..REPLICAS).map(skew).collect(),
            metrics: Metrics::default(),
            log_max_bytes: Config::default().log_max_bytes,
        }
    }

    /// One whose log is full soon.
    pub fn of_small_log(seed: u64) -> Self {
        Self { log_max_bytes: LOG_MAX_BYTES, ..Self::new(seed) }
    }

    fn now_us(&self) -> i64 {
        now_us(self.began)
    }

    pub fn start(&self, replica: u32) {
        self.begin(replica, self.open(replica));
    }

    /// The log knows a new life of the replica, which has not begun.
    fn open(&self, replica: u32) -> MemoryLog {
        let (log, incarnation) = self.log.open(replica);
        *self.lives[replica as usize].lock().unwrap() = Some((replica, incarnation));
        log
    }

    fn begin(&self, replica: u32, log: MemoryLog) {
        let incarnation = log.incarnation();
        let mut config = Config { replica, restore_point_interval: Duration::from_secs(3), ..Config::default() };
        let (began, skew) = (self.began, self.skew[replica as usize]);
        config.clock = Clock::new(move || now_us(began) + skew);
        config.restore_point_records = 60;
        config.restore_point_bytes = 12_000;
        (config.log_behind_bytes, config.log_max_bytes) = (self.log_max_bytes / 3, self.log_max_bytes);
        config.log_keep_interval = Duration::from_secs(1);
        (config.log_behind_records, config.log_step_entries) = (100, 5);
        config.log_away_after = Duration::from_millis(1500);
        config.complain_after = COMPLAIN_AFTER;
        config.limits.max_records = 5;
        config.limits.window = 64;
        config.limits.commit_wait = Duration::from_secs(5);
        config.limits.apply_wait = PATIENCE;
        let store = &self.stores[replica as usize];
        let agent = store.agent(incarnation.0, &self.stores);
        let handle = ReplicaHandle::start(config, log, agent, ModelConnector(store.clone()), self.metrics.clone());
        *self.before_start[replica as usize].lock().unwrap() = self.acknowledged();
        *self.handles[replica as usize].lock().unwrap() = Some(handle);
    }

    /// This replica's present life.
    pub fn life(&self, replica: u32) -> Option<Life> {
        *self.lives[replica as usize].lock().unwrap()
    }

    /// Takes the log away from this replica's present life.
    pub fn cut_off(&self, replica: u32) {
        self.log.cut_off(self.life(replica).into_iter().collect());
    }

    /// Barriers that asked the other replicas, in place of the log.
    pub fn asked(&self) -> u64 {
        self.metrics.asked_barriers.get()
    }

    pub fn handle(&self, replica: u32) -> Option<ReplicaHandle> {
        self.handles[replica as usize].lock().unwrap().clone()
    }

    /// Asks like a session: the handle is not kept over the wait for a replica that has been killed.
    async fn ask(&self, replica: u32, request: Request, value: &str) {
        let Some(handle) = self.handle(replica) else { return };
        let counted = request.kind == RequestKind::Dml;
        self.log.set_clock(Some(self.now_us() / 1000));
        let answer = handle.propose(request).await;
        if self.tell(&answer, counted, value) {
            // As drivers do, before they come back.
            tokio::time::sleep(AFTER_REFUSAL).await;
        }
    }

    /// Keeps what a client was told; whether it was refused.
    fn tell(&self, answer: &Result<Outcome, ProposeError>, counted: bool, value: &str) -> bool {
        let mut told = self.told.lock().unwrap();
        match answer {
            Ok(outcome) if counted && outcome.opcode == 8 => {
                let timestamp = i64::from_be_bytes(outcome.body.as_ref().try_into().unwrap());
                told.acknowledged.insert(value.to_owned(), timestamp);
                told.times.insert(outcome.index, timestamp);
                // I4: one wrong clock does not drag the log's.
                assert!(timestamp <= self.now_us() + 2_000_000, "{value} was written in the future: {timestamp}");
            }
            Ok(outcome) if outcome.opcode == 0 && is_skipped(outcome) => {
                told.skipped.insert(value.to_owned());
            }
            Ok(_) => {}
            Err(
                ProposeError::Unavailable { maybe_written: true, .. }
                | ProposeError::NotServing { maybe_written: true, .. },
            ) => {
                told.unknown += 1;
                told.stuck += u32::from(error_says(answer, "ordered but not applied"));
            }
            Err(_) => {
                told.refused.insert(value.to_owned());
                return true;
            }
        }
        false
    }

    async fn settle(&self) {
        self.settle_on(0..REPLICAS).await;
    }

    /// Waits until these replicas serve and all that was proposed before is applied on them.
    pub async fn settle_on(&self, replicas: std::ops::Range<u32>) {
        // An agent that was asked to stop as the trouble ended takes its time.
        let stopping = || self.stores.iter().any(ModelStore::is_stopping);
        tokio::time::sleep(Duration::from_millis(10)).await;
        while stopping() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for n in replicas {
            self.pass_barrier(n).await;
        }
    }

    /// Waits until the replica serves and a barrier has passed it; what comes late may make it rewind meanwhile.
    async fn pass_barrier(&self, n: u32) {
        let handle = self.handle(n).expect("all were started");
        let passed = async {
            let mut serving = handle.serving();
            loop {
                serving.wait_for(|serving| matches!(serving, Serving::Yes { .. })).await.expect("it lives");
                if handle.barrier().await.is_ok() {
                    break;
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, passed).await;
        assert!(waited.is_ok(), "replica {n} does not come to serve: {:?}", handle.status());
    }

    /// I4, I5: after a barrier, everything acknowledged or shown before it is there; and a held table stands still.
    async fn read(&self, replica: u32, table: &str) {
        let Some(handle) = self.handle(replica) else { return };
        self.read_one(replica, &handle);
        self.read_through(replica, &handle, table).await;
    }

    /// As [`Self::read`], through a replica that has been replaced, as long as that does not know it, or its store is its own.
    async fn read_zombie(&self, replica: u32, table: &str) {
        let Some(zombie) = self.zombies[replica as usize].lock().unwrap().clone() else { return };
        self.read_through(replica, &zombie, table).await;
    }

    async fn read_through(&self, replica: u32, handle: &ReplicaHandle, table: &str) {
        let Serving::Yes { generation, .. } = *handle.serving().borrow() else { return };
        let before = self.acknowledged_or_shown();
        let store = &self.stores[replica as usize];
        let early = handle.early().map(|early| (early, store.data(), store.generation()));
        let Ok(barrier) = handle.barrier().await else { return };
        if let Some((early, data, of)) = early
            && early.covers(barrier)
            && of == generation
            && store.generation() == generation
            && handle.standing().holds()
        {
            shows(&data, &before, "I4: acknowledged or shown before a read that began before its barrier passed");
        }
        let mut lanes = Lanes::none();
        lanes.add_table("ks", table);
        let Ok(hold) = handle.hold(lanes).await else { return };
        let of_table = || {
            let mut data = store.data();
            data.rows.retain(|(of, _), _| of == table);
            (data.rows, store.generation())
        };
        let (first, all) = (of_table(), store.data());
        tokio::time::sleep(Duration::from_millis(5)).await;
        let second = of_table();
        // What is read from a store that was rewound meanwhile reaches nobody.
        if !hold.finish() || first.1 != generation || second.1 != generation || !store.is_running() {
            return;
        }
        assert_eq!(first.0, second.0, "a held table changes");
        if !handle.standing().holds() && handle.prove().await.is_err() {
            return;
        }
        shows(&all, &before, "I4: acknowledged or shown before the barrier");
        let mut told = self.told.lock().unwrap();
        told.reads += 1;
        told.shown.extend(first.0.into_iter().map(|((_, value), time)| (value, time)));
    }

    /// I5: at ONE, a replica shows at least what was acknowledged when it was started.
    fn read_one(&self, replica: u32, handle: &ReplicaHandle) {
        let store = &self.stores[replica as usize];
        if matches!(*handle.serving().borrow(), Serving::Yes { .. }) && store.is_running() {
            shows(
                &store.data(),
                &self.before_start[replica as usize].lock().unwrap(),
                "I5: acknowledged before its start",
            );
        }
    }

    fn acknowledged(&self) -> Vec<(String, i64)> {
        let told = self.told.lock().unwrap();
        told.acknowledged.iter().map(|(value, time)| (value.clone(), *time)).collect()
    }

    fn acknowledged_or_shown(&self) -> Vec<(String, i64)> {
        let told = self.told.lock().unwrap();
        told.acknowledged.iter().chain(&told.shown).map(|(value, time)| (value.clone(), *time)).collect()
    }

    fn report(&self) -> Report {
        let told = self.told.lock().unwrap();
        let mut trace = DefaultHasher::new();
        (&told.acknowledged, &told.refused, told.unknown, format!("{:?}", self.stores[0].data())).hash(&mut trace);
        let of_stores = |count: fn(&ModelStore) -> u64| self.stores.iter().map(count).sum();
        Report {
            acknowledged: told.acknowledged.len() as u64,
            refused: told.refused.len() as u64,
            unknown: u64::from(told.unknown),
            reads: told.reads,
            rewinds: of_stores(ModelStore::rewinds),
            clean_starts: of_stores(ModelStore::starts_without_rewind),
            restore_points: of_stores(ModelStore::restore_points),
            truncated: u64::from(self.log.entries().first().is_some_and(|entry| entry.position != Position::START)),
            installs: of_stores(ModelStore::installs),
            asked: self.metrics.asked_barriers.get(),
            skipped: told.skipped.len() as u64,
            full: self.metrics.errors.get_or_create(&KindLabel { kind: "log_full".to_owned() }).get(),
            trace: trace.finish(),
        }
    }
}

/// Simulated time, µs since 1970.
fn now_us(began: Instant) -> i64 {
    EPOCH_US + i64::try_from(began.elapsed().as_micros()).unwrap()
}

/// Every value that is there, as often as it is.
fn values(data: &Data) -> impl Iterator<Item = &str> {
    data.rows.keys().map(|(_, value)| value).chain(data.lists.values().flatten()).map(String::as_str)
}

/// All of these are there, or were truncated.
fn shows(data: &Data, told: &[(String, i64)], why: &str) {
    let there: BTreeSet<&str> = values(data).collect();
    for (value, time) in told {
        assert!(there.contains(value.as_str()) || *time <= data.truncated_us, "{value} is not there; {why}");
    }
}

/// Whether an answer says that the record was skipped.
pub fn is_skipped(outcome: &Outcome) -> bool {
    String::from_utf8_lossy(&outcome.body).contains("skipped by the verdict")
}

fn error_says<T>(answer: &Result<T, ProposeError>, text: &str) -> bool {
    answer.as_ref().is_err_and(|error| error.to_string().contains(text))
}
