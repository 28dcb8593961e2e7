//! The whole core over a log and stores that fail on demand: proposers, state, lanes, recovery, restore points.
//!
//! Goal: whatever crashes, all replicas end equal (I1), every acknowledged write is there (I2) exactly once (I3), and
//! what was refused is not. Time is simulated; `SIMULATION_SEED` repeats a run, `SIMULATION_RUNS` makes more.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::{ModelConnector, ModelStore};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use replicateddb_ordering::OrderedLog;
use replicateddb_ordering::memory::{Config as LogConfig, Fault, MemoryStorage};
use replicateddb_replica::ReplicaHandle;
use replicateddb_replica::config::Config;
use replicateddb_replica::metrics::Metrics;
use replicateddb_replica::record::{Values, flags};
use replicateddb_replica::replica::{ProposeError, Request, RequestKind, Serving, StatementText};

const REPLICAS: u32 = 3;
const CLIENTS: u32 = 6;
const OPERATIONS: u32 = 120;
/// Simulated time after which everything must have come to rest.
const PATIENCE: Duration = Duration::from_secs(600);

/// What clients were told.
#[derive(Default)]
struct Told {
    /// Value → timestamp of the write, as answered.
    acknowledged: BTreeMap<String, i64>,
    /// Values that certainly were not written.
    refused: BTreeSet<String>,
    /// Requests of unknown outcome.
    unknown: u32,
    /// Requests that stand in the log and were not applied in all that time.
    stuck: u32,
}

struct Cluster {
    log: MemoryStorage,
    stores: Vec<ModelStore>,
    handles: Vec<Mutex<Option<ReplicaHandle>>>,
    told: Mutex<Told>,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        Self {
            log: MemoryStorage::new(LogConfig { segment_entries: 37, ..LogConfig::default() }),
            stores: (0..REPLICAS).map(|n| ModelStore::new(seed.wrapping_add(u64::from(n)))).collect(),
            handles: (0..REPLICAS).map(|_| Mutex::default()).collect(),
            told: Mutex::default(),
        }
    }

    fn start(&self, replica: u32) {
        let (log, incarnation) = self.log.open(replica);
        let mut config = Config { replica, restore_point_interval: Duration::from_secs(3), ..Config::default() };
        config.restore_point_records = 60;
        config.limits.max_records = 5;
        config.limits.window = 64;
        config.limits.commit_wait = Duration::from_secs(5);
        config.limits.apply_wait = PATIENCE;
        let store = &self.stores[replica as usize];
        let agent = store.agent(incarnation.0);
        let handle = ReplicaHandle::start(config, log, agent, ModelConnector(store.clone()), Metrics::default());
        *self.handles[replica as usize].lock().unwrap() = Some(handle);
    }

    fn handle(&self, replica: u32) -> Option<ReplicaHandle> {
        self.handles[replica as usize].lock().unwrap().clone()
    }

    /// Asks like a session: the handle is not kept over the wait for a replica that has been killed.
    async fn ask(&self, replica: u32, request: Request, value: &str) {
        let Some(handle) = self.handle(replica) else { return };
        let counted = request.kind == RequestKind::Dml;
        let answer = handle.propose(request).await;
        let mut told = self.told.lock().unwrap();
        match &answer {
            Ok(outcome) if counted && outcome.opcode == 8 => {
                let timestamp = i64::from_be_bytes(outcome.body.as_ref().try_into().unwrap());
                told.acknowledged.insert(value.to_owned(), timestamp);
            }
            Ok(_) => {}
            Err(
                ProposeError::Unavailable { maybe_written: true, .. }
                | ProposeError::NotServing { maybe_written: true, .. },
            ) => {
                told.unknown += 1;
                told.stuck += u32::from(error_says(&answer, "ordered but not applied"));
            }
            Err(_) => {
                told.refused.insert(value.to_owned());
            }
        }
    }

    async fn settle(&self) {
        for n in 0..REPLICAS {
            let handle = self.handle(n).expect("all were started");
            let mut serving = handle.serving();
            let served = serving.wait_for(|serving| matches!(serving, Serving::Yes { .. }));
            let waited = tokio::time::timeout(PATIENCE, served).await;
            assert!(waited.is_ok(), "replica {n} does not come to serve: {:?}", handle.status());
        }
    }
}

fn error_says<T>(answer: &Result<T, ProposeError>, text: &str) -> bool {
    answer.as_ref().is_err_and(|error| error.to_string().contains(text))
}

fn request(random: &mut StdRng, value: &str) -> Request {
    let table = format!("t{}", random.random_range(0..3u32));
    let key = random.random_range(0..4u32);
    let (kind, flags, text) = match random.random_range(0..40u32) {
        0 => (RequestKind::Ddl, 0, format!("CREATE {table}")),
        1 => (RequestKind::Truncate, 0, format!("TRUNCATE {table}")),
        2 => (RequestKind::Dml, 0, "nonsense".to_owned()),
        3..15 => (RequestKind::Dml, flags::NOT_REPEATABLE, format!("APPEND l{key} {value}")),
        _ => (RequestKind::Dml, 0, format!("PUT {table} {key} {value}")),
    };
    Request { kind, keyspace: None, statements: vec![StatementText { text, values: Values::none() }], flags }
}

async fn client(cluster: Arc<Cluster>, name: u32, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for n in 0..OPERATIONS {
        let value = format!("{name}-{n}");
        let request = request(&mut random, &value);
        // Some clients give up and go elsewhere.
        let patience = Duration::from_millis(if random.random_range(0..20u32) == 0 { 5 } else { 1_000_000 });
        let replica = random.random_range(0..REPLICAS);
        let _ = tokio::time::timeout(patience, cluster.ask(replica, request, &value)).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..120))).await;
    }
}

/// Whether what a handle did with its replica before it went away is still in flight doesn't matter: kills are kills.
async fn trouble(cluster: Arc<Cluster>, seed: u64, crashes: bool) {
    let mut random = StdRng::seed_from_u64(seed);
    loop {
        tokio::time::sleep(Duration::from_millis(random.random_range(20..1500))).await;
        let replica = random.random_range(0..REPLICAS);
        // Every rewind heals what went wrong before it: some runs go without.
        match random.random_range(if crashes { 0 } else { 7 }..15u32) {
            0..2 => cluster.stores[replica as usize].kill_jvm(),
            2..4 => {
                // The process dies; a new one starts.
                cluster.handles[replica as usize].lock().unwrap().take();
                tokio::time::sleep(Duration::from_millis(random.random_range(0..3000))).await;
                cluster.start(replica);
            }
            // A zombie lingers while its successor starts (I6).
            4 => {
                let zombie = cluster.handle(replica);
                cluster.start(replica);
                tokio::time::sleep(Duration::from_millis(random.random_range(0..2000))).await;
                drop(zombie);
            }
            5 => {
                let handle = cluster.handles[replica as usize].lock().unwrap().take();
                if let Some(handle) = handle {
                    handle.stop().await;
                }
                cluster.start(replica);
            }
            // To its end, whenever the trouble ends.
            6 => {
                let store = cluster.stores[replica as usize].clone();
                let _ = tokio::spawn(async move { store.restart_agent().await }).await;
            }
            7 => {
                cluster.log.set_available(false);
                tokio::time::sleep(Duration::from_millis(random.random_range(100..8000))).await;
                cluster.log.set_available(true);
            }
            _ => {
                for _ in 0..random.random_range(1..6u32) {
                    cluster.log.inject(match random.random_range(0..5u32) {
                        0 => Fault::UnknownCommitted,
                        1 => Fault::UnknownLost,
                        2..4 => Fault::UnknownLate(random.random_range(1..12)),
                        _ => Fault::Unavailable,
                    });
                }
            }
        }
    }
}

async fn simulate(seed: u64) {
    let cluster = Arc::new(Cluster::new(seed));
    let mut random = StdRng::seed_from_u64(seed);
    let crashes = !seed.is_multiple_of(2);
    for n in 0..REPLICAS {
        cluster.start(n);
        cluster.stores[n as usize].set_trouble(random.random_range(0..12));
    }
    let clients = (0..CLIENTS).map(|name| tokio::spawn(client(cluster.clone(), name, random.random())));
    let clients: Vec<_> = clients.collect();
    let trouble = tokio::spawn(trouble(cluster.clone(), random.random(), crashes));
    for client in clients {
        client.await.expect("a client's task ends");
    }
    trouble.abort();
    let _ = trouble.await;
    cluster.log.set_available(true);
    for n in 0..REPLICAS {
        cluster.stores[n as usize].set_trouble(0);
        // Some were being replaced when the trouble ended.
        if cluster.handle(n).is_none() || (n == 0 && crashes) {
            cluster.start(n);
        }
    }
    cluster.settle().await;
    check(&cluster, seed).await;
}

async fn check(cluster: &Cluster, seed: u64) {
    // I4: after a barrier on each, everything is applied everywhere.
    for n in 0..REPLICAS {
        cluster.handle(n).unwrap().barrier().await.unwrap();
    }
    let digest = cluster.handle(0).unwrap().digest().await.unwrap();
    for n in 0..REPLICAS {
        let handle = cluster.handle(n).unwrap();
        handle.barrier().await.unwrap();
        assert_eq!(handle.digest_at(digest.index), Some(digest.clone()), "I1: replica {n}, seed {seed}");
        assert_eq!(cluster.stores[n as usize].data(), cluster.stores[0].data(), "I1: replica {n}, seed {seed}");
        let schema = *cluster.handle(0).unwrap().schema().borrow();
        assert_eq!(*handle.schema().borrow(), schema, "I1: schema version, seed {seed}");
    }
    let data = cluster.stores[0].data();
    let mut found: BTreeMap<&str, u32> = BTreeMap::new();
    for value in data.rows.keys().map(|(_, value)| value).chain(data.lists.values().flatten()) {
        *found.entry(value).or_default() += 1;
    }
    for (value, times) in &found {
        assert_eq!(*times, 1, "I3: {value} is there {times} times, seed {seed}");
    }
    let told = cluster.told.lock().unwrap();
    for (value, timestamp) in &told.acknowledged {
        let gone = *timestamp <= data.truncated_us && !data.lists.values().flatten().any(|v| v == value);
        assert!(found.contains_key(value.as_str()) || gone, "I2: {value} was acknowledged, seed {seed}");
    }
    for value in &told.refused {
        assert!(!found.contains_key(value.as_str()), "{value} was refused and is there, seed {seed}");
    }
    let crashes = !seed.is_multiple_of(2);
    assert!(crashes || told.stuck == 0, "{} requests were ordered and never applied, seed {seed}", told.stuck);
    assert!(told.acknowledged.len() > 5, "the run has shown something, seed {seed}: {}", told.acknowledged.len());
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// I1, I2, I3, I6, I10.
#[test]
fn whatever_crashes_all_end_equal() {
    let first = number("SIMULATION_SEED");
    let runs = number("SIMULATION_RUNS").unwrap_or(16);
    for seed in first.map_or(0..runs, |seed| seed..seed + 1) {
        eprintln!("SIMULATION_SEED={seed}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(simulate(seed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_graceful_stop_needs_no_rewind() {
    let cluster = Cluster::new(1);
    cluster.start(0);
    let serve = async || {
        let handle = cluster.handle(0).unwrap();
        handle.serving().wait_for(|s| matches!(s, Serving::Yes { .. })).await.unwrap();
        handle
    };
    let ddl = |text: &str| Request {
        kind: RequestKind::Ddl,
        keyspace: None,
        statements: vec![StatementText { text: text.into(), values: Values::none() }],
        flags: 0,
    };
    let handle = serve().await;
    assert_eq!(handle.propose(ddl("CREATE t0")).await.unwrap().opcode, 8);
    assert_eq!(handle.propose(ddl("CREATE t0")).await.unwrap().opcode, 0, "an error is a result, too");
    let (schema, data) = (*handle.schema().borrow(), cluster.stores[0].data());
    cluster.handles[0].lock().unwrap().take();
    assert!(handle.stop().await.starts_with("stopped cleanly"), "a clean stop");
    cluster.start(0);
    let handle = serve().await;
    assert_eq!((cluster.stores[0].rewinds(), cluster.stores[0].starts_without_rewind()), (0, 1));
    assert_eq!((*handle.schema().borrow(), cluster.stores[0].data()), (schema, data));
    assert!(!handle.status().replay.unwrap().rewound);
    // The mark is gone: a crash now rewinds.
    cluster.handles[0].lock().unwrap().take();
    drop(handle);
    cluster.start(0);
    serve().await;
    assert_eq!(cluster.stores[0].rewinds(), 1);
}

/// The snapshot fixes the state: what is applied while it is committed is not in it, and replayed.
#[tokio::test(start_paused = true)]
async fn records_are_applied_while_a_restore_point_is_committed() {
    let cluster = Cluster::new(5);
    let store = &cluster.stores[0];
    store.set_commit_ms(1_500_000);
    cluster.start(0);
    let handle = cluster.handle(0).unwrap();
    handle.serving().wait_for(|s| matches!(s, Serving::Yes { .. })).await.unwrap();
    let write = async |value: &str| {
        let text = format!("APPEND l {value}");
        let statements = vec![StatementText { text, values: Values::none() }];
        let request = Request { kind: RequestKind::Dml, keyspace: None, statements, flags: flags::NOT_REPEATABLE };
        handle.propose(request).await.unwrap().index
    };
    let index = write("before").await;
    let asked = tokio::spawn({
        let handle = handle.clone();
        async move { handle.restore_point().await }
    });
    while store.uncommitted() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let started = tokio::time::Instant::now();
    for n in 0..100 {
        write(&format!("while {n}")).await;
    }
    assert!(started.elapsed() < Duration::from_secs(60) && !asked.is_finished(), "{:?}", started.elapsed());
    let made = asked.await.unwrap().unwrap();
    assert!(made >= index, "{made}");
    let before = store.data();
    store.kill_jvm();
    handle.serving().wait_for(|s| matches!(s, Serving::No { .. })).await.unwrap();
    handle.serving().wait_for(|s| matches!(s, Serving::Yes { .. })).await.unwrap();
    let replay = handle.status().replay.unwrap();
    assert_eq!(replay.restore_point, Some(made));
    assert!(replay.records >= 100, "{replay:?}");
    assert_eq!(store.data(), before);
}

/// A Cassandra pod is deleted, its replica stays.
#[tokio::test(start_paused = true)]
async fn a_graceful_restart_of_the_agent_needs_no_rewind() {
    let cluster = Arc::new(Cluster::new(4));
    cluster.start(0);
    let handle = cluster.handle(0).unwrap();
    let served = async || {
        handle.serving().wait_for(|s| matches!(s, Serving::Yes { .. })).await.unwrap();
    };
    served().await;
    let write = |value: &str| Request {
        kind: RequestKind::Dml,
        keyspace: None,
        statements: vec![StatementText { text: format!("APPEND l {value}"), values: Values::none() }],
        flags: flags::NOT_REPEATABLE,
    };
    for round in 1..=3 {
        assert_eq!(handle.propose(write(&format!("a{round}"))).await.unwrap().opcode, 8);
        // One is on its way: it is answered before the drain, or refused.
        let late = {
            let (handle, request) = (handle.clone(), write(&format!("b{round}")));
            tokio::spawn(async move { handle.propose(request).await })
        };
        cluster.stores[0].restart_agent().await;
        served().await;
        assert_eq!(late.await.unwrap().unwrap().opcode, 8);
        assert_eq!((cluster.stores[0].rewinds(), cluster.stores[0].starts_without_rewind()), (0, round));
        assert!(!handle.status().replay.unwrap().rewound);
    }
    let list = cluster.stores[0].data().lists["l"].clone();
    assert_eq!(list, ["a1", "b1", "a2", "b2", "a3", "b3"]);
}

#[tokio::test(start_paused = true)]
async fn i6_a_fenced_replica_stops_serving_and_says_why() {
    let cluster = Cluster::new(2);
    cluster.start(0);
    let old = cluster.handle(0).unwrap();
    old.serving().wait_for(|s| matches!(s, Serving::Yes { .. })).await.unwrap();
    let (newer, _) = cluster.log.open(0);
    assert!(newer.log_id() == newer.log_id());
    let error = old.propose(request(&mut StdRng::seed_from_u64(0), "v")).await.unwrap_err();
    assert!(matches!(error, ProposeError::NotServing { .. }), "{error:?}");
    assert!(old.finished().await.contains("taken over"));
    assert!(matches!(*old.serving().borrow(), Serving::No { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_away_is_a_bounded_wait_and_nothing_is_written() {
    let cluster = Cluster::new(3);
    cluster.start(0);
    let handle = cluster.handle(0).unwrap();
    handle.serving().wait_for(|s| matches!(s, Serving::Yes { .. })).await.unwrap();
    cluster.log.set_available(false);
    let before = tokio::time::Instant::now();
    let append = |value: &str| Request {
        kind: RequestKind::Dml,
        keyspace: None,
        statements: vec![StatementText { text: format!("APPEND l {value}"), values: Values::none() }],
        flags: flags::NOT_REPEATABLE,
    };
    let error = handle.propose(append("a")).await.unwrap_err();
    assert!(matches!(error, ProposeError::Unavailable { .. }), "{error:?}");
    assert!(before.elapsed() < Duration::from_secs(7));
    // Several may not even be proposed: certainly not written.
    let waiting: Vec<_> = (0..20)
        .map(|n| {
            let (handle, request) = (handle.clone(), append(&format!("b{n}")));
            tokio::spawn(async move { handle.propose(request).await })
        })
        .collect();
    let mut certain = 0;
    for answer in waiting {
        let error = answer.await.unwrap().unwrap_err();
        certain += u32::from(matches!(error, ProposeError::Unavailable { maybe_written: false, .. }));
    }
    assert!(certain > 0);
    cluster.log.set_available(true);
    assert_eq!(handle.propose(append("c")).await.unwrap().opcode, 8);
    let list = cluster.stores[0].data().lists["l"].clone();
    assert_eq!(list.iter().filter(|v| *v == "c").count(), 1);
    assert!(list.len() <= 21 - certain as usize);
}
