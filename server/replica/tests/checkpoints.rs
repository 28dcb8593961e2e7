//! Replicas that share a Cassandra recover by checkpoints: whatever was done to their tables meanwhile, what they hold is
//! what a replica holds that has executed the whole log. Needs the jars of `images/artifacts/fetch.sh`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod site;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use replicateddb_cql::response::{ResultBody, cell, parse_result};
use replicateddb_ordering::memory::MemoryStorage;
use replicateddb_ordering::{OrderedLog, Position};
use replicateddb_replica::ReplicaHandle;
use replicateddb_replica::backend::executor::CassandraConnector;
use replicateddb_replica::checkpoint::exchange::{self, Peer};
use replicateddb_replica::checkpoint::folder::DocumentReader;
use replicateddb_replica::checkpoint::{Exporting, Points};
use replicateddb_replica::config::Config;
use replicateddb_replica::keyspace::{KeyspaceConnector, KeyspaceStore};
use replicateddb_replica::metrics::Metrics;
use replicateddb_replica::replica::{Phase, Request, RequestKind};
use site::statements::{AFTER, BEFORE, WRITES};
use site::{Direct, PATIENCE, Site, agree, ddl, done, int, list, request, served};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Longest recovery of what a test has written.
const RECOVERY: Duration = Duration::from_secs(20);

/// What the other statements leave out: every type, what is made of several cells, and rows that show little.
const MORE: &[&str] = &[
    "CREATE TYPE pair (a int, \"B\" frozen<list<text>>)",
    "CREATE TABLE types (k int PRIMARY KEY, ti tinyint, si smallint, bi bigint, de decimal, va varint, fl float, do double, \
     bo boolean, bl blob, az ascii, tim timestamp, dat date, tm time, du duration, u uuid, tu timeuuid, i inet, \
     fm frozen<map<int, frozen<list<text>>>>, nested map<text, frozen<map<text, int>>>, p pair, fp frozen<pair>, \
     t3 tuple<int, frozen<set<int>>, text>, v1 vector<float, 2>, v2 vector<text, 2>)",
    "INSERT INTO types (k, ti, si, bi, de, va, fl, do, bo, bl, az, tim, dat, tm, du, u, tu, i, fm, nested, p, fp, t3, v1, v2) \
     VALUES (1, -1, 300, -9000000000, 10.50, 123456789012345678901234567890123456789012345678901234567890, 0.1, 1e300, true, \
     0x00ff, 'a', '2024-02-29 12:00:00.001+0000', '0001-01-01', '23:59:59.999999999', -1mo2d, \
     50554d6e-29bb-41e5-b345-feff819cdc9f, 50554d6e-29bb-11e5-b345-feff819cdc9f, '::1', {1: ['x', 'y'], 2: []}, \
     {'$hex': {'b': 2, 'a': 1}}, {a: 1, \"B\": ['b']}, {a: null, \"B\": []}, (1, {2, 3}, null), [0.5, -0.0], ['', 'z'])",
    "INSERT INTO types (k, de, va, fl, do, bl, tim, dat, du) \
     VALUES (2, 1E+10, -1, NaN, Infinity, 0x, '-0001-01-01', 4294967295, 89h)",
    "INSERT INTO types (k, fl, do, va, de) VALUES (3, -Infinity, NaN, 0, -0.001)",
    "UPDATE types SET p.a = 5 WHERE k = 4",
    "UPDATE types USING TTL 5000 SET p.\"B\" = ['later'] WHERE k = 4",
    "CREATE TABLE keys (a text, b int, PRIMARY KEY (a, b))",
    "INSERT INTO keys (a, b) VALUES ('-', 1)",
    "INSERT INTO keys (a, b) VALUES ('x', 2)",
    "CREATE TABLE statics (p int, c int, s list<text> static, m map<int, int> static, v int, PRIMARY KEY (p, c))",
    "UPDATE statics SET s = ['only'], m[1] = 1 WHERE p = 1",
    "UPDATE statics USING TTL 6000 SET s = s + ['ends'] WHERE p = 1",
    "UPDATE statics SET m[2] = 2 WHERE p = 2",
    "INSERT INTO statics (p, c, v) VALUES (2, 1, 1)",
    "INSERT INTO statics (p, c) VALUES (2, 2)",
    "INSERT INTO statics (p, c, v) VALUES (3, 3, 3)",
    "CREATE TABLE elements (k int PRIMARY KEY, l list<int>, st set<int>, m map<text, int>)",
    "UPDATE elements SET l = l + [2, 2], st = st + {1, 2}, m = m + {'a': 1, 'b': 2} WHERE k = 1",
    "UPDATE elements USING TTL 7000 SET l = [1] + l, st = st + {0, 3}, m = m + {'c': 3} WHERE k = 1",
    "UPDATE elements SET l = l + [3], m['b'] = 20 WHERE k = 1",
    "UPDATE elements SET l[1] = 7 WHERE k = 1",
    "UPDATE elements USING TIMESTAMP 123 SET st = st + {9} WHERE k = 1",
    "CREATE TABLE counters (p int, c int, n counter, \"M\" counter, PRIMARY KEY (p, c))",
    "UPDATE counters SET n = n + 5, \"M\" = \"M\" - 7 WHERE p = 1 AND c = 1",
    "UPDATE counters SET n = n + 0 WHERE p = 1 AND c = 2",
    "CREATE TABLE altered (k int PRIMARY KEY, a int, gone text, s int)",
    "INSERT INTO altered (k, a, gone) VALUES (1, 1, 'x')",
    "ALTER TABLE altered DROP gone",
    "ALTER TABLE altered DROP s",
    "ALTER TABLE altered ADD s int",
    "INSERT INTO altered (k, s) VALUES (2, 2)",
];

/// What depends on what came before: it is the same on a replica that was restored only if all of that was.
const LATER: &[&str] = &[
    "UPDATE elements SET l = l + [4] WHERE k = 1",
    "UPDATE elements SET l = [0] + l WHERE k = 1",
    "UPDATE elements SET l[2] = 99 WHERE k = 1",
    "UPDATE elements SET l = l - [2] WHERE k = 1",
    "UPDATE counters SET n = n + 1 WHERE p = 1 AND c = 1",
    "UPDATE types SET ti = 2 WHERE k = 1 IF bi = -9000000000 AND de = 10.5",
    "UPDATE types SET p.a = 6 WHERE k = 4 IF p.a = 5",
    "UPDATE types SET v1 = null, fl = null WHERE k = 3",
    "DELETE l FROM elements WHERE k = 1 IF m['b'] = 20",
    "DELETE FROM statics WHERE p = 2 AND c = 1",
    "INSERT INTO altered (k, s) VALUES (1, 5) IF NOT EXISTS",
    // Of another type than the column that was dropped: refused everywhere.
    "ALTER TABLE altered ADD gone int",
    "ALTER TABLE altered ADD gone text",
];

/// A Cassandra that replicas share, and the folders of their checkpoints.
struct Confined {
    site: Site,
    dirs: tempfile::TempDir,
}

impl Confined {
    fn new() -> Self {
        Self { site: Site::shared(), dirs: tempfile::tempdir().unwrap() }
    }

    fn dir(&self, replica: u32) -> PathBuf {
        self.dirs.path().join(replica.to_string())
    }

    fn start(&self, log: &MemoryStorage, replica: u32, checkpoints: bool) -> ReplicaHandle {
        let (log, incarnation) = log.open(replica);
        let keyspace = format!("replica_{replica}");
        let store =
            KeyspaceStore::new(self.site.cql.as_str().into(), &keyspace, replica, log.log_id().0, incarnation.0);
        let config = Config {
            replica,
            restore_point_interval: Duration::from_secs(3600),
            log_keep_interval: Duration::from_millis(200),
            log_step_entries: 1,
            ..Config::default()
        };
        let start = |store: KeyspaceStore| {
            let connector = KeyspaceConnector::new(store.clone());
            ReplicaHandle::start(config, log, store, connector, Metrics::default())
        };
        if !checkpoints {
            return start(store);
        }
        std::fs::create_dir_all(self.dir(replica)).unwrap();
        let points = Points::new(&self.dir(replica));
        let (listener, source) = listener();
        let handle = start(store.with_checkpoints(points.clone(), &source));
        // Its own handle would keep the replica alive: this one's end is a crash.
        let router = exchange::reading(points);
        tokio::spawn(async move { axum::serve(listener, router).await });
        handle
    }

    async fn serve(&self, log: &MemoryStorage, replica: u32, checkpoints: bool) -> ReplicaHandle {
        let handle = self.start(log, replica, checkpoints);
        served(&handle).await;
        handle
    }

    /// Empties every table of a replica, past the log.
    async fn empty(&self, replica: u32) {
        let mut direct = Direct::to(&self.site.cql).await;
        let keyspace = format!("replica_{replica}");
        let tables = format!("SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{keyspace}'");
        for row in direct.rows(&tables).await {
            let table = cell::as_text(row[0].as_deref().unwrap()).unwrap().to_owned();
            if table != "replicateddb_state" {
                direct.done(&format!("TRUNCATE {keyspace}.\"{table}\"")).await;
            }
        }
    }

    /// The folders of a replica's checkpoints, oldest first: their names begin with the index.
    fn checkpoints(&self, replica: u32) -> Vec<PathBuf> {
        let mut folders: Vec<_> =
            std::fs::read_dir(self.dir(replica)).unwrap().map(|entry| entry.unwrap().path()).collect();
        folders.sort();
        folders
    }
}

/// A port, and its URL.
fn listener() -> (TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (TcpListener::from_std(listener).unwrap(), url)
}

fn unqualified(kind: RequestKind, text: &str) -> Request {
    let text = text.replace("ks.", "").replace("other.", "");
    Request { keyspace: None, ..request(kind, vec![(&text, Vec::new())]) }
}

fn kind_of(text: &str) -> RequestKind {
    match text.split(' ').next() {
        Some("CREATE" | "ALTER" | "DROP") => RequestKind::Ddl,
        _ => RequestKind::Dml,
    }
}

async fn all(handle: &ReplicaHandle, texts: &[&str]) {
    for text in texts.iter().filter(|text| !text.contains("KEYSPACE")) {
        done(handle, unqualified(kind_of(text), text)).await;
    }
}

/// Statements that may be refused.
async fn tried(handle: &ReplicaHandle, texts: &[&str]) {
    for text in texts {
        handle.propose(unqualified(kind_of(text), text)).await.unwrap();
    }
}

fn append(n: i32) -> Request {
    Request {
        keyspace: None,
        ..request(RequestKind::Dml, vec![("UPDATE events SET l = l + ? WHERE k = ?", vec![list(n), int(0)])])
    }
}

/// Changes a byte in the middle of a file.
fn damage(file: &Path) {
    let mut content = std::fs::read(file).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(file, content).unwrap();
}

/// I1, I2: with each table emptied behind the replica's back, and each checkpoint damaged in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_comes_back_from_its_checkpoint_and_the_log() {
    let (log, confined) = (MemoryStorage::default(), Confined::new());
    let whole = confined.serve(&log, 1, false).await;
    let handle = confined.serve(&log, 0, true).await;
    all(&handle, BEFORE).await;
    all(&handle, WRITES).await;
    all(&handle, MORE).await;
    // By this a later life of the replica sees what an earlier one left under way.
    let clients = Direct::to(&confined.site.cql).await.rows("SELECT client_options FROM system_views.clients").await;
    let named = |row: &Vec<Option<bytes::Bytes>>| {
        row[0].as_deref().is_some_and(|options| options.windows(23).any(|part| part == b"replicateddb/replica_0/"))
    };
    assert!(clients.iter().any(named), "{clients:?}");
    let first = handle.restore_point().await.unwrap();
    let before = agree(&whole, &handle).await;
    assert!(before.tables.len() > 10, "{before:?}");

    drop(handle);
    confined.empty(0).await;
    let started = Instant::now();
    let handle = confined.serve(&log, 0, true).await;
    println!("recovered after {:?}", started.elapsed());
    assert!(started.elapsed() < RECOVERY, "{:?}", started.elapsed());
    let replay = handle.status().replay.unwrap();
    assert_eq!((replay.from, replay.restore_point, replay.rewound), (first, Some(first), true), "{replay:?}");
    let after = agree(&whole, &handle).await;
    assert_eq!(after.tables.len(), before.tables.len());

    // What depends on the state before it.
    all(&handle, AFTER).await;
    tried(&handle, LATER).await;
    agree(&whole, &handle).await;
    let second = handle.restore_point().await.unwrap();
    assert!(second > first);
    assert_eq!(confined.checkpoints(0).len(), 2);
    tried(&handle, &LATER[..4]).await;

    // The newer one is damaged: the older is used, and the replica says so.
    let newer = confined.checkpoints(0).pop().unwrap();
    drop(handle);
    confined.empty(0).await;
    damage(&newer.join("types.jsonl.gz"));
    let handle = confined.serve(&log, 0, true).await;
    assert_eq!(handle.status().replay.unwrap().from, first);
    let conditions = handle.status().conditions.join("\n");
    assert!(conditions.contains("types.jsonl.gz is damaged"), "{conditions}");
    agree(&whole, &handle).await;

    // Both: the log is whole, and is executed from its beginning.
    drop(handle);
    for folder in confined.checkpoints(0) {
        damage(&folder.join("manifest.json"));
    }
    let handle = confined.serve(&log, 0, true).await;
    assert_eq!(handle.status().replay.unwrap().from, 0);
    let conditions = handle.status().conditions.join("\n");
    assert!(conditions.contains("manifest.json is damaged"), "{conditions}");
    agree(&whole, &handle).await;

    // The next one takes their place.
    handle.restore_point().await.unwrap();
    assert_eq!((confined.checkpoints(0).len(), handle.status().conditions), (1, Vec::new()));

    // A graceful stop needs neither, unless somebody empties a table meanwhile.
    assert!(handle.stop().await.starts_with("stopped cleanly"));
    let handle = confined.serve(&log, 0, true).await;
    assert!(!handle.status().replay.unwrap().rewound);
    assert!(handle.stop().await.starts_with("stopped cleanly"));
    confined.empty(0).await;
    let handle = confined.serve(&log, 0, true).await;
    assert!(handle.status().replay.unwrap().rewound);
    agree(&whole, &handle).await;
}

/// I10: a replica that dies while it restores begins again, and lists and counters don't double.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_in_the_middle_of_a_restore() {
    let (log, confined) = (MemoryStorage::default(), Confined::new());
    let whole = confined.serve(&log, 1, false).await;
    let handle = confined.serve(&log, 0, true).await;
    all(
        &handle,
        &["CREATE TABLE events (k int PRIMARY KEY, l list<int>)", "CREATE TABLE n (k int PRIMARY KEY, n counter)"],
    )
    .await;
    let started = Instant::now();
    let appends = (0..2000).map(|n| done(&handle, append(n)));
    futures::future::join_all(appends).await;
    println!("2000 appends to one list in {:?}", started.elapsed());
    let counts = (0..400).map(|k| format!("UPDATE n SET n = n + 1 WHERE k = {k}"));
    let counts: Vec<_> = counts.collect();
    futures::future::join_all(counts.iter().map(|text| done(&handle, unqualified(RequestKind::Dml, text)))).await;
    handle.restore_point().await.unwrap();
    for n in 2000..2100 {
        done(&handle, append(n)).await;
    }
    agree(&whole, &handle).await;

    drop(handle);
    let mut direct = Direct::to(&confined.site.cql).await;
    for _ in 0..2 {
        let before = table_id(&mut direct).await;
        let handle = confined.start(&log, 0, true);
        some_of_the_list(&mut direct, &before).await;
        assert_eq!(handle.status().state, Phase::Recovering);
        drop(handle);
    }
    let started = Instant::now();
    let handle = confined.serve(&log, 0, true).await;
    println!("recovered after {:?}: {:?}", started.elapsed(), handle.status().replay);
    agree(&whole, &handle).await;
}

/// The id of the table with the list.
async fn table_id(direct: &mut Direct) -> Vec<Vec<Option<bytes::Bytes>>> {
    let text = "SELECT id FROM system_schema.tables WHERE keyspace_name = 'replica_0' AND table_name = 'events'";
    direct.rows(text).await
}

/// Waits until the table was made anew, and a part of the list is in it.
async fn some_of_the_list(direct: &mut Direct, before: &[Vec<Option<bytes::Bytes>>]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "nothing is restored");
        let now = table_id(direct).await;
        if !now.is_empty() && now != before {
            // The table may be dropped, too.
            let (_, body) = direct.statement("SELECT k FROM replica_0.events WHERE k = 0", &[]).await;
            if matches!(parse_result(&body), Ok(ResultBody::Rows(rows)) if !rows.rows.is_empty()) {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// I2, I8: the log is given up behind checkpoints, and whoever has none that it reaches back to takes over another replica's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_bounded_and_a_newcomer_takes_over_a_checkpoint() {
    let (log, confined) = (MemoryStorage::default(), Confined::new());
    let (one, two) = (confined.serve(&log, 0, true).await, confined.serve(&log, 1, true).await);
    all(&one, &["CREATE TABLE events (k int PRIMARY KEY, l list<int>)"]).await;
    for round in 0..3 {
        for n in 0..20 {
            done(&one, append(20 * round + n)).await;
        }
        two.barrier().await.unwrap();
        one.restore_point().await.unwrap();
        two.restore_point().await.unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    while one.status().log_first.is_none_or(|first| first == Position::START.to_string()) {
        assert!(Instant::now() < deadline, "the log is not truncated: {:?}", one.status());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let newcomer = confined.serve(&log, 2, true).await;
    assert!(newcomer.status().replay.unwrap().from > 0, "{:?}", newcomer.status());
    agree(&one, &newcomer).await;

    // With both its checkpoints damaged, a replica takes over one, too.
    drop(two);
    for folder in confined.checkpoints(1) {
        damage(&folder.join("events.jsonl.gz"));
    }
    confined.empty(1).await;
    let two = confined.serve(&log, 1, true).await;
    agree(&two, &one).await;

    // A replica without a folder for them can't: it says what to do.
    let without = confined.start(&log, 3, false);
    let deadline = Instant::now() + PATIENCE;
    while !without.status().conditions.iter().any(|text| text.contains("--checkpoint-dir")) {
        assert!(Instant::now() < deadline, "{:?}", without.status());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A replica with a Cassandra of its own writes one when it is asked to, and then only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_for_whoever_asks() {
    let (storage, site, dir) = (MemoryStorage::default(), Site::new(), tempfile::tempdir().unwrap());
    let (log, incarnation) = storage.open(0);
    let made = dir.path().join("made");
    std::fs::create_dir(&made).unwrap();
    let points = Points::new(&made);
    let store = Exporting::new(site.store(log.log_id().0, incarnation.0), site.cql.as_str().into(), points.clone());
    let (asked, connector) = (store.asked(), CassandraConnector { at: site.cql.as_str().into() });
    let config = Config { restore_point_interval: Duration::from_secs(3600), ..Config::default() };
    let handle = ReplicaHandle::start(config, log, store, connector, Metrics::default());
    served(&handle).await;
    for text in BEFORE {
        ddl(&handle, text).await;
    }
    for text in WRITES {
        done(&handle, request(RequestKind::Dml, vec![(text, Vec::new())])).await;
    }
    let (listener, source) = listener();
    let router = exchange::router(points.clone(), handle.clone(), Some(asked), Some(site::TOKEN));
    tokio::spawn(async move { axum::serve(listener, router).await });

    handle.restore_point().await.unwrap();
    assert_eq!(points.list().unwrap(), []);
    ddl(&handle, "CREATE TABLE ks.beside (k int PRIMARY KEY)").await;
    let stop = CancellationToken::new();
    let writer = tokio::spawn(write_until(handle.clone(), stop.clone()));
    nothing_without_the_token(&source).await;
    let peer = Peer::showing(Some(site::TOKEN.to_owned()));
    let point = peer.make(&source).await.unwrap();
    stop.cancel();
    let written = writer.await.unwrap();
    let beside = written.iter().filter(|index| **index <= point.index).count() as u64;
    assert!(written.len() as u64 > beside, "something was written after it, so perhaps while its rows were read");
    let copy = dir.path().join("copy");
    let manifest = peer.install(&source, &point.id, copy.clone(), 1).await.unwrap();
    assert!(peer.install(&source, &point.id, copy.clone(), 1).await.is_err(), "there is one already");
    assert!(manifest.schema.iter().any(|text| text.starts_with("CREATE KEYSPACE ks ")), "{:?}", manifest.schema);
    let digest = handle.digest().await.unwrap();
    for document in &manifest.documents {
        let (mut reader, mut rows) = (DocumentReader::open(&copy, document).unwrap(), 0);
        while let Some(line) = reader.next_line().unwrap() {
            rows += u64::from(line.cells.is_some());
        }
        if document.table == "ks.beside" {
            assert_eq!(rows, beside, "what was written up to its index, and nothing of what came while it was made");
            continue;
        }
        // A partition of static cells alone is a row to CQL.
        let digest = digest.tables[&document.table].rows;
        assert!(rows <= digest && digest <= document.lines, "{}: {rows} {digest} {}", document.table, document.lines);
    }
    let tables: Vec<_> = manifest.documents.iter().map(|document| document.table.as_str()).collect();
    assert_eq!(tables, ["ks.beside", "ks.n", "ks.t", "other.Mixed", "other.gone"]);
}

/// Neither is one made, nor is anything of one shown.
async fn nothing_without_the_token(source: &str) {
    for peer in [Peer::default(), Peer::showing(Some("another token".to_owned()))] {
        let refused = peer.make(source).await.unwrap_err().to_string();
        assert!(refused.contains("--agent-token-file"), "{refused}");
        assert!(peer.list(source).await.unwrap_err().to_string().contains("401"));
        assert!(peer.manifest(source, "any").await.unwrap_err().to_string().contains("401"));
    }
}

/// Inserts row after row into `ks.beside`; the index of each.
async fn write_until(handle: ReplicaHandle, stop: CancellationToken) -> Vec<u64> {
    let mut indices = Vec::new();
    while !stop.is_cancelled() {
        let row = int(i32::try_from(indices.len()).unwrap());
        let insert = request(RequestKind::Dml, vec![("INSERT INTO beside (k) VALUES (?)", vec![row])]);
        indices.push(done(&handle, insert).await.index);
    }
    indices
}
