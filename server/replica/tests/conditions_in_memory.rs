//! Conditional writes decided in memory, against Cassandra's own decisions. The same random statements go to two keyspaces of one
//! replica: for all partitions at once, so that rows are read and written together and conditions are decided in memory; and one
//! after another, so that each is Cassandra's to decide. Answers must be the same, byte for byte, and so must be the rows; and a
//! replica that comes later, and executes the log in groups of other records, must end in the same cells, write times included.
//! Needs the jars of `images/artifacts/fetch.sh`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod site;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use replicateddb_cql::response::{ResultBody, parse_error, parse_result};
use replicateddb_cql::wire::Value;
use replicateddb_ordering::OrderedLog;
use replicateddb_ordering::memory::MemoryStorage;
use replicateddb_replica::ReplicaHandle;
use replicateddb_replica::backend::executor::CassandraConnector;
use replicateddb_replica::config::Config;
use replicateddb_replica::metrics::Metrics;
use replicateddb_replica::record::Entry;
use replicateddb_replica::replica::{Request, RequestKind};
use replicateddb_replica::state::State;
use site::{Direct, Site, agree, done, int, request, served, text};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Names of one length, so that answers differ in nothing else.
const IN_MEMORY: &str = "ks";
const BY_CASSANDRA: &str = "px";
const PARTITIONS: i32 = 48;
const STEPS: usize = 60;

const SCHEMA: &[&str] = &[
    "CREATE TABLE t (k int, c text, v int, w text, d double, b blob, PRIMARY KEY (k, c)) WITH CLUSTERING ORDER BY (c DESC)",
    "CREATE TABLE p (k int PRIMARY KEY, v int, w text)",
    "CREATE INDEX ON p (w)",
];

/// A request to a partition, by either keyspace.
#[derive(Debug, Clone)]
struct Step {
    kind: RequestKind,
    statements: Vec<(&'static str, Vec<Value>)>,
}

impl Step {
    fn request(&self, keyspace: &str) -> Request {
        Request { keyspace: Some(keyspace.to_owned()), ..request(self.kind, self.statements.clone()) }
    }
}

fn small(random: &mut StdRng) -> Value {
    int(random.random_range(0..3))
}

fn word(random: &mut StdRng) -> Value {
    text(["", "a", "b", "b"].choose(random).unwrap())
}

fn or_null(value: Value, random: &mut StdRng) -> Value {
    if random.random_ratio(1, 5) { Value::Null } else { value }
}

fn double(random: &mut StdRng) -> Value {
    let value: f64 = *[0.0, -0.0, 1.5, f64::NAN].choose(random).unwrap();
    Value::Bytes(Bytes::copy_from_slice(&value.to_be_bytes()))
}

/// Write times of the past, and of a future that no record comes to.
fn time(random: &mut StdRng) -> Value {
    site::long(*[5, 4_000_000_000_000_000].choose(random).unwrap())
}

/// Most are conditional; the others are all that can come between two of them.
fn step(k: i32, random: &mut StdRng) -> Step {
    let r = random;
    let (key, c) = (int(k), text(["x", "y"].choose(r).unwrap()));
    let dml = |statement, values| Step { kind: RequestKind::Dml, statements: vec![(statement, values)] };
    match r.random_range(0..37) {
        0..4 => dml(
            "INSERT INTO t (k, c, v, w) VALUES (?, ?, ?, ?) IF NOT EXISTS",
            vec![key, c, or_null(small(r), r), or_null(word(r), r)],
        ),
        4..8 => dml("UPDATE t SET v = ? WHERE k = ? AND c = ? IF v = ?", vec![or_null(small(r), r), key, c, small(r)]),
        8 => dml(
            "UPDATE t SET w = ?, v = ? WHERE c = ? AND k = ? IF v = ? AND w = ?",
            vec![word(r), small(r), c, key, or_null(small(r), r), word(r)],
        ),
        9 => dml("UPDATE t SET b = ? WHERE k = ? AND c = ? IF EXISTS", vec![or_null(word(r), r), key, c]),
        10 => dml("UPDATE t SET d = ? WHERE k = ? AND c = ? IF d = ?", vec![double(r), key, c, double(r)]),
        11 => dml("DELETE FROM t WHERE k = ? AND c = ? IF EXISTS", vec![key, c]),
        12 => dml("DELETE v FROM t WHERE k = ? AND c = ? IF v = ?", vec![key, c, small(r)]),
        13 => dml("DELETE FROM t WHERE k = ? AND c = ? IF w = ? AND v = ?", vec![key, c, word(r), small(r)]),
        14..16 => dml("INSERT INTO p (k, v) VALUES (?, ?) IF NOT EXISTS", vec![key, or_null(small(r), r)]),
        16..19 => dml("UPDATE p SET v = ? WHERE k = ? IF v = ?", vec![small(r), key, small(r)]),
        19 => dml("UPDATE p SET w = ? WHERE k = ? IF EXISTS", vec![or_null(word(r), r), key]),
        20 => dml("DELETE FROM p WHERE k = ? IF EXISTS", vec![key]),
        // With expiry, of columns and of the row; far enough away that both keyspaces see it alike.
        21 => dml("INSERT INTO t (k, c) VALUES (?, ?) USING TTL 100000", vec![key, c]),
        22 => dml("UPDATE t USING TTL ? SET v = ? WHERE k = ? AND c = ?", vec![int(90_000), small(r), key, c]),
        23 => dml(
            "INSERT INTO t (k, c, v, w) VALUES (?, ?, ?, ?) IF NOT EXISTS USING TTL 80000",
            vec![key, c, small(r), word(r)],
        ),
        // Rows without a marker, and with nothing but one.
        24 => dml("UPDATE t SET v = ? WHERE k = ? AND c = ?", vec![or_null(small(r), r), key, c]),
        25 => dml("UPDATE p SET v = ?, w = ? WHERE k = ?", vec![small(r), or_null(word(r), r), key]),
        26 => dml("INSERT INTO t (k, c) VALUES (?, ?)", vec![key, c]),
        27 => dml("UPDATE t SET w = ?, v = ? WHERE k = ? AND c = ?", vec![Value::Null, Value::Null, key, c]),
        // Deletions of all widths.
        28 => dml("DELETE FROM t WHERE k = ?", vec![key]),
        29 => dml("DELETE FROM t WHERE k = ? AND c > ?", vec![key, text("x")]),
        30 => dml("DELETE FROM t WHERE k IN ? AND c = ?", vec![site::list(k), c]),
        // Write times of a client's own: what they hide, or keep from changing, no record's write time tells.
        31 => dml(
            "UPDATE t USING TIMESTAMP ? SET v = ? WHERE k = ? AND c = ?",
            vec![time(r), or_null(small(r), r), key, c],
        ),
        32 => dml("DELETE FROM p USING TIMESTAMP ? WHERE k = ?", vec![time(r), key]),
        // What can't be decided in memory.
        33 => dml("UPDATE t SET v = ? WHERE k = ? AND c = ? IF v = ?", vec![small(r), key, c, Value::Null]),
        34 => dml("UPDATE t SET v = ? WHERE k = ? AND c = ? IF v > ?", vec![small(r), key, c, small(r)]),
        35 => dml("UPDATE t SET v = ? WHERE k = ? AND c = ? IF v = ?", vec![text("long one"), key, c, small(r)]),
        _ => {
            let condition = if r.random() { "UPDATE t SET v = ? WHERE k = ? AND c = ? IF v = ?" } else { "" };
            let plain = ("INSERT INTO t (k, c, w) VALUES (?, ?, ?)", vec![key.clone(), text("z"), word(r)]);
            let other = match condition {
                "" => ("UPDATE t SET v = ? WHERE k = ? AND c = ?", vec![small(r), key, c]),
                condition => (condition, vec![small(r), key, c, small(r)]),
            };
            Step { kind: RequestKind::Batch, statements: vec![plain, other] }
        }
    }
}

/// With the keyspace's name replaced.
fn of_the_other(body: &Bytes) -> Vec<u8> {
    let mut body = body.to_vec();
    let named = [format!("\0\x02{IN_MEMORY}"), format!("{IN_MEMORY}.")].map(String::into_bytes);
    for at in 0..body.len() {
        for name in &named {
            if body[at..].starts_with(name) {
                let start = at + name.windows(2).position(|pair| pair == IN_MEMORY.as_bytes()).unwrap();
                body[start..start + 2].copy_from_slice(BY_CASSANDRA.as_bytes());
            }
        }
    }
    body
}

async fn answer(handle: &ReplicaHandle, request: Request) -> (u8, u8, Bytes) {
    let outcome = handle.propose(request).await.unwrap();
    (outcome.flags, outcome.opcode, outcome.body)
}

fn is_applied(answer: &(u8, u8, Bytes)) -> bool {
    let Ok(ResultBody::Rows(rows)) = parse_result(&answer.2) else { return false };
    answer.1 == 8 && rows.rows[0][0].as_deref() == Some(&[1][..])
}

/// Every partition's steps, with all partitions at once; the answers by partition.
async fn at_once(handle: &ReplicaHandle, partitions: &[Vec<Step>]) -> Vec<Vec<(u8, u8, Bytes)>> {
    let partitions = partitions.iter().map(async |steps| {
        let mut answers = Vec::new();
        for step in steps {
            answers.push(answer(handle, step.request(IN_MEMORY)).await);
        }
        answers
    });
    futures::future::join_all(partitions).await
}

fn partitions(seed: u64) -> Vec<Vec<Step>> {
    let of = |k: i32| {
        let mut random = StdRng::seed_from_u64(seed * 1000 + k as u64);
        (0..STEPS).map(|_| step(k, &mut random)).collect()
    };
    (0..PARTITIONS).map(of).collect()
}

fn start(site: &Site, log: &MemoryStorage, replica: u32, cql: &str) -> (ReplicaHandle, Metrics) {
    let (log, incarnation) = log.open(replica);
    let store = site.store(log.log_id().0, incarnation.0);
    let config = Config { replica, restore_point_interval: Duration::from_secs(3600), ..Config::default() };
    let (metrics, connector) = (Metrics::default(), CassandraConnector { at: cql.into() });
    (ReplicaHandle::start(config, log, store, connector, metrics.clone()), metrics)
}

async fn both(handle: &ReplicaHandle, kind: RequestKind, text: &str) {
    for keyspace in [IN_MEMORY, BY_CASSANDRA] {
        let request = request(kind, vec![(text, Vec::new())]);
        done(handle, Request { keyspace: Some(keyspace.to_owned()), ..request }).await;
    }
}

async fn schema(handle: &ReplicaHandle) {
    for keyspace in [IN_MEMORY, BY_CASSANDRA] {
        let replication = "replication = {'class': 'SimpleStrategy', 'replication_factor': 1}";
        site::ddl(handle, &format!("CREATE KEYSPACE {keyspace} WITH {replication}")).await;
    }
    for text in SCHEMA {
        both(handle, RequestKind::Ddl, text).await;
    }
}

/// I1: answers, rows and cells of what was decided in memory are those of Cassandra's own decisions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_and_cells_are_those_of_cassandra() {
    let (log, site, later) = (MemoryStorage::default(), Site::new(), Site::new());
    let (handle, metrics) = start(&site, &log, 0, &site.cql);
    served(&handle).await;
    schema(&handle).await;
    let mut direct = Direct::to(&site.cql).await;
    let (mut applied, mut late) = (0, None);
    for seed in 0..2 {
        let partitions = partitions(seed);
        let in_memory = at_once(&handle, &partitions).await;
        let decided = metrics.in_memory.get();
        for (steps, answers) in partitions.iter().zip(&in_memory) {
            for (at, (step, ours)) in steps.iter().zip(answers).enumerate() {
                let theirs = answer(&handle, step.request(BY_CASSANDRA)).await;
                let same = (ours.0, ours.1, of_the_other(&ours.2)) == (theirs.0, theirs.1, theirs.2.to_vec());
                let shown =
                    |answer: &(u8, u8, Bytes)| format!("{:?} {:?}", parse_result(&answer.2), parse_error(&answer.2));
                let before = &steps[..=at];
                assert!(same, "{before:#?}\n in memory: {}\n Cassandra: {}", shown(ours), shown(&theirs));
                applied += u64::from(is_applied(ours));
            }
        }
        assert_eq!(metrics.in_memory.get(), decided, "one after another, Cassandra decides");
        for table in ["t", "p"] {
            let ours = direct.rows(&format!("SELECT * FROM {IN_MEMORY}.{table}")).await;
            assert_eq!(ours, direct.rows(&format!("SELECT * FROM {BY_CASSANDRA}.{table}")).await, "{table}");
            assert!(!ours.is_empty());
        }
        if late.is_none() {
            late = Some(start(&later, &log, 1, &later.cql));
        }
        let (late, _) = late.as_ref().unwrap();
        served(late).await;
        agree(&handle, late).await;
        // Nothing that is known of rows outlives these.
        both(&handle, RequestKind::Truncate, "TRUNCATE p").await;
        both(&handle, RequestKind::Ddl, &format!("ALTER TABLE t ADD new{seed} int")).await;
        both(&handle, RequestKind::Ddl, "ALTER TABLE p DROP v").await;
        both(&handle, RequestKind::Ddl, "ALTER TABLE p ADD v int").await;
    }
    let decided = metrics.in_memory.get();
    assert!(decided > applied / 4, "{decided} of {applied} were decided in memory");

    let (late, of_late) = late.unwrap();
    assert!(of_late.in_memory.get() > 100, "{}", of_late.in_memory.get());
    expiring(&handle).await;
    agree(&handle, &late).await;
    // Decided anew after a rewind, among others than the first time, and long after what expires has expired.
    site.kill_and_recover(&handle).await;
    agree(&handle, &late).await;
}

/// The same write to many rows at once.
async fn to_all(
    handle: &ReplicaHandle,
    rows: std::ops::Range<i32>,
    statement: &'static str,
    values: impl Fn(i32) -> Vec<Value>,
) -> Vec<(u8, u8, Bytes)> {
    let writes = rows.map(|k| answer(handle, request(RequestKind::Dml, vec![(statement, values(k))])));
    futures::future::join_all(writes).await
}

/// What expires holds no condition later, and what was written while it did tells by its write time when that was.
async fn expiring(handle: &ReplicaHandle) {
    const ROWS: std::ops::Range<i32> = 1000..1024;
    let inserted =
        to_all(handle, ROWS, "INSERT INTO p (k, v) VALUES (?, ?) USING TTL 5", |k| vec![int(k), int(1)]).await;
    assert!(inserted.iter().all(|answer| answer.1 == 8));
    let mut held = 0;
    site::until("the end of what expires", async || {
        let update = "UPDATE p SET w = ? WHERE k = ? IF v = ?";
        let answers = to_all(handle, ROWS, update, |k| vec![text("alive"), int(k), int(1)]).await;
        held += answers.iter().filter(|answer| is_applied(answer)).count();
        answers.iter().all(|answer| !is_applied(answer)).then_some(())
    })
    .await;
    assert!(held >= ROWS.len(), "{held}");
    let again =
        to_all(handle, ROWS, "INSERT INTO p (k, v) VALUES (?, ?) IF NOT EXISTS", |k| vec![int(k), int(2)]).await;
    assert!(!again.iter().any(is_applied), "rows of a cell that does not expire");
}

/// The write times of the log's records, µs, by index.
fn write_times(log: &MemoryStorage) -> BTreeMap<u64, i64> {
    let mut state = State::initial(log.open(9).0.log_id().0);
    let admitted = log.entries().into_iter().flat_map(|committed| {
        let entry = Entry::decode(committed.entry).unwrap();
        state.admit(committed.position, committed.commit_time_ms, entry).unwrap()
    });
    admitted.map(|admitted| (admitted.index, admitted.timestamp_us)).collect()
}

/// Deletions and nulls of conditional writes, which Cassandra dates a microsecond before the record: a write of that microsecond
/// is hidden by them, and one of the record's own is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletions_hide_what_those_of_cassandra_hide() {
    const ROWS: i32 = 24;
    let (log, site) = (MemoryStorage::default(), Site::new());
    let (handle, metrics) = start(&site, &log, 0, &site.cql);
    served(&handle).await;
    schema(&handle).await;
    let mut direct = Direct::to(&site.cql).await;
    let plain = "INSERT INTO p (k, v, w) VALUES (?, ?, ?)";
    let update = "UPDATE p SET w = ? WHERE k = ? IF v = ?";
    let late = "UPDATE p USING TIMESTAMP ? SET w = ? WHERE k = ?";
    type Of = fn(i32) -> Vec<Value>;
    let cases: [(&str, Of, bool); 4] = [
        ("INSERT INTO p (k, v, w) VALUES (?, ?, ?) IF NOT EXISTS", |k| vec![int(k), int(1), Value::Null], false),
        (update, |k| vec![Value::Null, int(k), int(1)], false),
        ("DELETE w FROM p WHERE k = ? IF v = ?", |k| vec![int(k), int(1)], true),
        ("DELETE FROM p WHERE k = ? IF EXISTS", |k| vec![int(k)], true),
    ];
    for (statement, values, may_be_in_memory) in cases {
        both(&handle, RequestKind::Truncate, "TRUNCATE p").await;
        let mut hidden = Vec::new();
        for keyspace in [IN_MEMORY, BY_CASSANDRA] {
            let write = async |text: &'static str, values: Vec<Value>| {
                let request = request(RequestKind::Dml, vec![(text, values)]);
                done(&handle, Request { keyspace: Some(keyspace.to_owned()), ..request }).await
            };
            let before = metrics.in_memory.get();
            let answers = if keyspace == IN_MEMORY {
                let writes = (0..ROWS).map(async |k| {
                    if !statement.starts_with("INSERT") {
                        write(plain, vec![int(k), int(1), text("early")]).await;
                    }
                    write(statement, values(k)).await
                });
                futures::future::join_all(writes).await
            } else {
                let mut answers = Vec::new();
                for k in 0..ROWS {
                    if !statement.starts_with("INSERT") {
                        write(plain, vec![int(k), int(1), text("early")]).await;
                    }
                    answers.push(write(statement, values(k)).await);
                }
                answers
            };
            assert!(answers.iter().all(|answer| is_applied(&(answer.flags, answer.opcode, answer.body.clone()))));
            let decided = metrics.in_memory.get() - before;
            assert_eq!(decided > 0, may_be_in_memory && keyspace == IN_MEMORY, "{statement}: {decided}");
            let times = write_times(&log);
            let mut shown = Vec::new();
            for before_us in [1, 0] {
                for (k, answer) in (0..ROWS).zip(&answers) {
                    let time = site::long(times[&answer.index] - before_us);
                    write(late, vec![time, text("late"), int(k)]).await;
                }
                let rows = direct.rows(&format!("SELECT k, w FROM {keyspace}.p")).await;
                shown.push(rows.iter().filter(|row| row[1].as_deref() == Some(b"late")).count());
            }
            hidden.push(shown);
        }
        assert_eq!(hidden, [[0, ROWS as usize]; 2], "{statement}: by that microsecond and by the record's");
    }
}

/// Passes bytes on, and cuts connections instead of passing on what Cassandra answers, as often as it is told to.
struct Cutter {
    address: String,
    cuts: Arc<AtomicUsize>,
}

impl Cutter {
    async fn before(cassandra: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (cuts, cassandra) = (Arc::new(AtomicUsize::new(0)), cassandra.to_owned());
        tokio::spawn({
            let cuts = cuts.clone();
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let (cassandra, cuts) = (cassandra.clone(), cuts.clone());
                    tokio::spawn(async move {
                        // A closed connection is all that either side has to know.
                        let _ = pass(client, &cassandra, &cuts).await;
                    });
                }
            }
        });
        Self { address, cuts }
    }
}

async fn pass(client: TcpStream, cassandra: &str, cuts: &AtomicUsize) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = TcpStream::connect(cassandra).await?.into_split();
    let answers = async {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let length = from_server.read(&mut bytes).await?;
            let cut = |left: usize| left.checked_sub(1);
            if length == 0 || cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, cut).is_ok() {
                return Ok(());
            }
            to_client.write_all(&bytes[..length]).await?;
        }
    };
    tokio::select! {
        done = tokio::io::copy(&mut from_client, &mut to_server) => done.map(drop),
        done = answers => done,
    }
}

/// I3: a write whose first copy was carried out and not answered is not decided again by what that copy wrote.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_decided_stays_decided() {
    const ROWS: i32 = 24;
    let (log, site) = (MemoryStorage::default(), Site::new());
    let cutter = Cutter::before(&site.cql).await;
    let (handle, metrics) = start(&site, &log, 0, &cutter.address);
    served(&handle).await;
    schema(&handle).await;
    let all = async |statement, values: fn(i32) -> Vec<Value>| to_all(&handle, 0..ROWS, statement, values).await;
    let update = "UPDATE p SET v = ? WHERE k = ? IF v = ?";
    for inserted in all("INSERT INTO p (k, v) VALUES (?, ?)", |k| vec![int(k), int(0)]).await {
        assert_eq!(inserted.1, 8);
    }
    // Until every row is known, so that no condition needs a question that could be cut off in place of the write. A single
    // row is not read: new ones keep it company.
    let mut new = ROWS..;
    site::until("rows that are all known", async || {
        let others: Vec<i32> = new.by_ref().take(4).collect();
        let insert = "INSERT INTO p (k, v) VALUES (?, ?)";
        to_all(&handle, others[0]..others[3] + 1, insert, |k| vec![int(k), int(0)]).await;
        let same = |k| vec![int(0), int(k), int(0)];
        assert!(to_all(&handle, 0..others[3] + 1, update, same).await.iter().all(is_applied));
        let before = metrics.in_memory.get();
        assert!(to_all(&handle, 0..ROWS, update, same).await.iter().all(is_applied));
        (metrics.in_memory.get() - before == ROWS as u64).then_some(())
    })
    .await;
    let (rewinds, before) = (metrics.rewinds.get(), metrics.in_memory.get());
    cutter.cuts.store(2, Ordering::SeqCst);
    let answers = all(update, |k| vec![int(7), int(k), int(0)]).await;
    assert!(answers.iter().all(is_applied), "each found 0 and not its own 7");
    assert_eq!(cutter.cuts.load(Ordering::SeqCst), 0, "answers were cut off");
    assert_eq!(metrics.in_memory.get() - before, ROWS as u64);
    assert_eq!(metrics.rewinds.get(), rewinds, "a decision that is kept needs no rewind");
    // One that is Cassandra's to decide does: prepared before, so that its own answer is cut off.
    let other = "UPDATE p SET v = ? WHERE k = ? IF v IN (7)";
    assert!(all(other, |k| vec![int(7), int(k)]).await.iter().all(is_applied));
    cutter.cuts.store(2, Ordering::SeqCst);
    assert!(all(other, |k| vec![int(8), int(k)]).await.iter().all(is_applied));
    site::until("a rewind", async || (metrics.rewinds.get() > rewinds).then_some(())).await;
    served(&handle).await;
    assert!(all(update, |k| vec![int(9), int(k), int(8)]).await.iter().all(is_applied));
}
