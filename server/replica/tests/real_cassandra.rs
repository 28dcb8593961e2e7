//! The core with real Cassandras and their agents, over a log in memory. Needs the jars of `images/artifacts/fetch.sh`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use futures::{SinkExt, StreamExt};
use replicateddb_cql::Consistency;
use replicateddb_cql::frame::{Envelope, Opcode};
use replicateddb_cql::request::{Params, query};
use replicateddb_cql::response::parse_error;
use replicateddb_cql::wire::Value;
use replicateddb_ordering::OrderedLog;
use replicateddb_ordering::memory::MemoryStorage;
use replicateddb_replica::ReplicaHandle;
use replicateddb_replica::backend::connect;
use replicateddb_replica::backend::executor::CassandraConnector;
use replicateddb_replica::config::Config;
use replicateddb_replica::metrics::Metrics;
use replicateddb_replica::record::{Values, flags};
use replicateddb_replica::replica::{Digest, Outcome, Phase, Request, RequestKind, Serving, StatementText};
use replicateddb_store::agent::{AgentArgs, run};
use replicateddb_store::api::Jvm;
use replicateddb_store::client::Store;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// Longest wait for anything, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: AgentArgs,
}

/// The agent's command line, for this program started again as an agent; see [`agent_as_a_process`].
const AGENT_WORDS: &str = "TEST_AGENT_WORDS";

/// A store: an agent in a thread or process of its own, and the Cassandra that it supervises.
struct Site {
    _dir: tempfile::TempDir,
    words: Vec<String>,
    agent: String,
    cql: String,
}

/// An agent as a process, dead with its owner.
struct AgentProcess(std::process::Child);

impl AgentProcess {
    fn terminate(&self) {
        let sent = std::process::Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    async fn ended(mut self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.0.try_wait().unwrap().is_none() {
            assert!(tokio::time::Instant::now() < deadline, "the agent does not stop");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// No test: what [`Site::agent_process`] runs.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agent of other tests"]
async fn agent_as_a_process() {
    let words = std::env::var(AGENT_WORDS).unwrap();
    run(Cli::parse_from(words.split('\n')).args).await.unwrap();
}

fn cassandra_lib() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("a home folder")).join(".cache/replicateddb");
    let lib = std::env::var_os("REPLICATEDDB_CACHE").map_or_else(home, PathBuf::from);
    let lib = lib.join("artifacts/cassandra-5.0.9/lib");
    assert!(lib.is_dir(), "{} is missing: run images/artifacts/fetch.sh", lib.display());
    lib
}

impl Site {
    fn new() -> Self {
        let site = Self::without_agent();
        let words = site.words.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            // It ends with the test's process, and the JVM with it.
            runtime.block_on(run(Cli::parse_from(words).args)).unwrap();
        });
        site
    }

    fn agent_process(&self) -> AgentProcess {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["agent_as_a_process", "--exact", "--ignored", "--nocapture"]);
        command.env(AGENT_WORDS, self.words.join("\n")).stdout(std::process::Stdio::null());
        AgentProcess(command.spawn().unwrap())
    }

    fn without_agent() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, TOKEN).unwrap();
        let listeners = [(); 4].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let [agent, cql, storage, jolokia] = listeners.map(|listener| listener.local_addr().unwrap().port());
        let mut words: Vec<String> = vec!["agent".into(), "--data-dir".into()];
        words.push(dir.path().join("data").display().to_string());
        words.extend(["--token-file".into(), token.display().to_string()]);
        words.extend(["--cassandra-lib".into(), cassandra_lib().display().to_string()]);
        words.extend(["--listen".into(), format!("127.0.0.1:{agent}")]);
        words.extend(["--cql-listen-address".into(), "127.0.0.1".into(), "--cql-port".into(), cql.to_string()]);
        words.extend(["--storage-port".into(), storage.to_string(), "--jolokia-port".into(), jolokia.to_string()]);
        words.extend(["--heap", "256m", "--profile", "small"].map(str::to_owned));
        Self { _dir: dir, words, agent: format!("http://127.0.0.1:{agent}"), cql: format!("127.0.0.1:{cql}") }
    }

    fn start(&self, log: &MemoryStorage, replica: u32) -> ReplicaHandle {
        let (log, incarnation) = log.open(replica);
        let store = Store::new(&self.agent, TOKEN, log.log_id().0, incarnation.0).unwrap();
        let config = Config { replica, restore_point_interval: Duration::from_secs(3600), ..Config::default() };
        let connector = CassandraConnector { address: self.cql.clone() };
        ReplicaHandle::start(config, log, store, connector, Metrics::default())
    }

    /// A statement that no log knows of.
    async fn past_the_log(&self, text: &str) {
        let mut framed = connect(&self.cql, None).await.unwrap();
        let query = query(text, &Params::new(Consistency::One, Values::none())).unwrap();
        framed.send(Envelope::request(0, Opcode::Query, query)).await.unwrap();
        assert_eq!(framed.next().await.unwrap().unwrap().opcode, Opcode::Result);
    }

    async fn kill_jvm(&self) {
        let status = Store::new(&self.agent, TOKEN, 0, 0).unwrap().status().await.unwrap();
        assert_eq!(status.jvm, Jvm::Running);
        let pid = status.jvm_pid.expect("a running JVM has a process").to_string();
        let killed = std::process::Command::new("kill").args(["-9", &pid]).status().unwrap();
        assert!(killed.success());
    }
}

async fn served(handle: &ReplicaHandle) {
    let mut serving = handle.serving();
    let wait = serving.wait_for(|serving| matches!(serving, Serving::Yes { .. }));
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "not serving: {:?}", handle.status());
}

fn request(kind: RequestKind, statements: Vec<(&str, Vec<Value>)>) -> Request {
    let statement = |(text, values): (&str, Vec<Value>)| StatementText {
        text: text.to_owned(),
        values: Values::positional(&values).unwrap(),
    };
    let statements = statements.into_iter().map(statement).collect();
    Request { kind, keyspace: Some("ks".into()), statements, flags: 0 }
}

fn int(value: i32) -> Value {
    Value::Bytes(Bytes::copy_from_slice(&value.to_be_bytes()))
}

fn text(value: &str) -> Value {
    Value::Bytes(Bytes::copy_from_slice(value.as_bytes()))
}

/// A request that must succeed.
async fn done(handle: &ReplicaHandle, request: Request) -> Outcome {
    let said = format!("{:?}", request.statements);
    let outcome = handle.propose(request).await.unwrap_or_else(|error| panic!("{said}: {error}"));
    if outcome.opcode != 8 {
        panic!("{said}: {:?}", parse_error(&outcome.body));
    }
    outcome
}

async fn ddl(handle: &ReplicaHandle, text: &str) {
    done(handle, request(RequestKind::Ddl, vec![(text, Vec::new())])).await;
}

async fn fill(handle: &ReplicaHandle, from: i32) {
    let insert = "INSERT INTO t (k, c, v) VALUES (?, ?, ?)";
    let writes = (from..from + 200).map(|n| {
        let values = vec![int(n % 17), int(n), text(&format!("v{n}"))];
        done(handle, request(RequestKind::Dml, vec![(insert, values)]))
    });
    futures::future::join_all(writes).await;
    let batch = vec![
        (insert, vec![int(1000), int(from), text("batch")]),
        ("DELETE FROM ks.t WHERE k = ? AND c = ?", vec![int(3), int(from + 3)]),
        ("UPDATE t SET v = 'literal' WHERE k = 1001 AND c = 1", Vec::new()),
    ];
    done(handle, request(RequestKind::Batch, batch)).await;
    let whole = "BEGIN BATCH INSERT INTO t (k, c, v) VALUES (2000, 1, 'a'); DELETE FROM t WHERE k = 5; APPLY BATCH";
    done(handle, request(RequestKind::Dml, vec![(whole, Vec::new())])).await;
    let once = |request| Request { flags: flags::NOT_REPEATABLE, ..request };
    for n in 0..5 {
        let append = vec![("UPDATE lists SET l = l + ? WHERE k = ?", vec![list(from + n), int(1)])];
        done(handle, once(request(RequestKind::Dml, append))).await;
        let add = vec![("UPDATE counts SET n = n + ? WHERE k = ?", vec![long(n.into()), int(n % 2)])];
        done(handle, once(request(RequestKind::Dml, add))).await;
    }
    for (text, value) in [
        ("UPDATE lists SET l = ? + l WHERE k = ?", list(-from)),
        ("UPDATE lists SET l = l - ? WHERE k = ?", list(from + 1)),
        ("UPDATE lists SET l[1] = ? WHERE k = ?", int(7)),
        ("DELETE l[?] FROM lists WHERE k = ?", int(2)),
    ] {
        done(handle, once(request(RequestKind::Dml, vec![(text, vec![value, int(1)])]))).await;
    }
    let counters = vec![
        ("UPDATE counts SET n = n - ? WHERE k = ?", vec![long(3), int(2)]),
        ("UPDATE ks.counts SET n = n + 1 WHERE k = 3", Vec::new()),
    ];
    let counters = request(RequestKind::Batch, counters);
    done(handle, Request { flags: flags::NOT_REPEATABLE | flags::COUNTERS, ..counters }).await;
    let deleted = vec![("DELETE FROM counts WHERE k = ?", vec![int(1)])];
    done(handle, once(request(RequestKind::Dml, deleted))).await;
}

fn long(value: i64) -> Value {
    Value::Bytes(Bytes::copy_from_slice(&value.to_be_bytes()))
}

/// A list of one int.
fn list(element: i32) -> Value {
    let parts = [1i32, 4, element].map(i32::to_be_bytes);
    Value::Bytes(parts.concat().into())
}

async fn schema(handle: &ReplicaHandle) {
    ddl(handle, "CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}").await;
    ddl(handle, "CREATE TABLE t (k int, c int, v text, dropped int, PRIMARY KEY (k, c))").await;
    ddl(handle, "CREATE TABLE lists (k int PRIMARY KEY, l list<int>)").await;
    ddl(handle, "CREATE TABLE counts (k int PRIMARY KEY, n counter)").await;
    ddl(handle, "CREATE TABLE gone (k int PRIMARY KEY)").await;
    ddl(handle, "ALTER TABLE t DROP dropped").await;
    ddl(handle, "CREATE TABLE IF NOT EXISTS gone (k int PRIMARY KEY)").await;
}

/// The digests of one state taken at different indexes are the same.
fn same(a: &Digest, b: &Digest) {
    assert_eq!(a.tables, b.tables);
    let rows: u64 = a.tables.values().map(|table| table.rows).sum();
    assert!(rows > 200, "the digest has seen something: {a:?}");
}

async fn wrong_statements_are_results(handle: &ReplicaHandle) {
    let wrong = [
        (RequestKind::Ddl, "CREATE TABLE t (k int PRIMARY KEY)", 0x2400),
        (RequestKind::Ddl, "CREATE TABLE x (k int PRIMARY KEY) WITH ID = 5a1c395e-b41f-11e5-9f22-ba0be0483c18", 0x2200),
        (RequestKind::Ddl, "CREATE TABLE", 0x2000),
        (RequestKind::Dml, "INSERT INTO nowhere (k) VALUES (1)", 0x2200),
        (RequestKind::Truncate, "TRUNCATE nowhere", 0x2200),
    ];
    for (kind, text, code) in wrong {
        let outcome = handle.propose(request(kind, vec![(text, Vec::new())])).await.unwrap();
        assert_eq!((outcome.opcode, parse_error(&outcome.body).unwrap().code), (0, code), "{text}");
    }
    let unknown_column = vec![("INSERT INTO t (k, nothing) VALUES (?, ?)", vec![int(1), int(1)])];
    let outcome = handle.propose(request(RequestKind::Dml, unknown_column)).await.unwrap();
    assert_eq!(parse_error(&outcome.body).unwrap().code, 0x2200);
}

/// I1, I2, I3, I5, I10: a killed Cassandra is rewound and replayed; a clean stop needs neither; a newcomer replays all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_stops_and_newcomers_end_in_the_same_cells() {
    let log = MemoryStorage::default();
    let site = Arc::new(Site::new());
    let handle = site.start(&log, 0);
    served(&handle).await;
    schema(&handle).await;
    let schema_version = *handle.schema().borrow();
    wrong_statements_are_results(&handle).await;
    assert_eq!(*handle.schema().borrow(), schema_version, "what fails changes no schema");
    fill(&handle, 0).await;
    let index = handle.restore_point().await.unwrap();
    fill(&handle, 1000).await;
    done(&handle, request(RequestKind::Truncate, vec![("TRUNCATE gone", Vec::new())])).await;
    ddl(&handle, "ALTER TABLE t ADD later int").await;
    done(&handle, request(RequestKind::Dml, vec![("UPDATE t SET later = ? WHERE k = ? AND c = ?", vec![int(1); 3])]))
        .await;
    let schema_version = *handle.schema().borrow();
    let before = handle.digest().await.unwrap();

    site.kill_jvm().await;
    let mut serving = handle.serving();
    serving.wait_for(|serving| matches!(serving, Serving::No { .. })).await.unwrap();
    served(&handle).await;
    let replay = handle.status().replay.unwrap();
    assert_eq!((replay.rewound, replay.restore_point), (true, Some(index)));
    assert!(replay.records > 200, "{replay:?}");
    same(&before, &handle.digest().await.unwrap());
    assert_eq!(*handle.schema().borrow(), schema_version);
    assert!(handle.status().conditions.is_empty(), "{:?}", handle.status());

    assert!(handle.stop().await.starts_with("stopped cleanly"));
    let handle = site.start(&log, 0);
    served(&handle).await;
    assert!(!handle.status().replay.unwrap().rewound, "a clean stop needs no rewind");
    same(&before, &handle.digest().await.unwrap());

    // What somebody does to the store past the log, while nobody looks, is undone by a rewind.
    assert!(handle.stop().await.starts_with("stopped cleanly"));
    site.past_the_log("TRUNCATE ks.t").await;
    let handle = site.start(&log, 0);
    served(&handle).await;
    assert!(handle.status().replay.unwrap().rewound, "a table was truncated past the log");
    same(&before, &handle.digest().await.unwrap());

    let newcomer_site = Site::new();
    let newcomer = newcomer_site.start(&log, 1);
    served(&newcomer).await;
    assert_eq!(newcomer.status().state, Phase::Serving);
    assert_eq!(*newcomer.schema().borrow(), schema_version);
    let digest = newcomer.digest().await.unwrap();
    handle.barrier().await.unwrap();
    assert_eq!(handle.digest_at(digest.index).as_ref(), Some(&digest), "I1");
    same(&before, &digest);
}

/// SIGTERM to the agent, with its replica alive and then with both asked to stop in the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_agent_needs_no_rewind_later() {
    let log = MemoryStorage::default();
    let site = Site::without_agent();
    let agent = site.agent_process();
    let handle = site.start(&log, 0);
    served(&handle).await;
    schema(&handle).await;
    fill(&handle, 0).await;
    let before = handle.digest().await.unwrap();
    let generation = handle.status().generation;

    // As when a Cassandra pod is deleted, with writes on their way.
    let writing = tokio::spawn({
        let handle = handle.clone();
        async move {
            let insert = "INSERT INTO gone (k) VALUES (?)";
            let mut k = 0;
            while handle.propose(request(RequestKind::Dml, vec![(insert, vec![int(k)])])).await.is_ok() {
                k += 1;
            }
            k
        }
    });
    agent.terminate();
    agent.ended().await;
    let written = writing.await.unwrap();
    let agent = site.agent_process();
    served(&handle).await;
    let status = handle.status();
    assert!(status.generation > generation && !status.replay.unwrap().rewound, "{:?}", handle.status());
    let after = handle.digest().await.unwrap();
    assert_eq!(after.tables["ks.t"], before.tables["ks.t"]);
    assert_eq!(after.tables["ks.lists"], before.tables["ks.lists"]);
    // The last one may have been ordered and not answered.
    let rows = i64::try_from(after.tables["ks.gone"].rows).unwrap();
    assert!(written > 0 && (i64::from(written)..=i64::from(written) + 1).contains(&rows), "{written} {rows}");

    agent.terminate();
    assert!(handle.stop().await.starts_with("stopped cleanly"));
    agent.ended().await;
    let _agent = site.agent_process();
    let handle = site.start(&log, 0);
    served(&handle).await;
    assert!(!handle.status().replay.unwrap().rewound, "both were asked to stop at once");
    same(&after, &handle.digest().await.unwrap());
}
