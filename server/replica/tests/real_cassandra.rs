//! The core with real Cassandras and their agents, over a log in memory. Needs the jars of `images/artifacts/fetch.sh`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod site;

use std::sync::Arc;

use replicateddb_cql::response::{cell, parse_error};
use replicateddb_ordering::memory::MemoryStorage;
use replicateddb_replica::ReplicaHandle;
use replicateddb_replica::record::flags;
use replicateddb_replica::replica::{Digest, Phase, Request, RequestKind};
use site::{Direct, Site, agree, ddl, done, int, list, long, request, served, text};

/// No test: the agent of other tests.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the agent of other tests"]
async fn agent_as_a_process() {
    site::run_agent().await;
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

/// Writes of different partitions that are ready together go to Cassandra together; each keeps its write time, its expiry
/// and its answer.
async fn writes_that_go_together_keep_their_own(site: &Site, handle: &ReplicaHandle) {
    const KEYS: std::ops::Range<i32> = 7000..7060;
    let ttl = |k: i32| 1000 + k;
    let wrong = |k: i32| k % 20 == 3;
    let writes = KEYS.map(async |k| {
        // A wrong one spoils nobody else's.
        let c = if wrong(k) { text("abc") } else { int(1) };
        let write = match k % 3 {
            0 => ("INSERT INTO t (k, c, v) VALUES (?, ?, ?) USING TTL ?", vec![int(k), c, text("a"), int(ttl(k))]),
            1 => ("UPDATE t USING TTL ? SET v = ? WHERE k = ? AND c = ?", vec![int(ttl(k)), text("b"), int(k), c]),
            _ => ("INSERT INTO ks.t (k, c, v) VALUES (?, ?, ?);", vec![int(k), c, text("c")]),
        };
        (k, handle.propose(request(RequestKind::Dml, vec![write])).await.unwrap())
    });
    let mut written = futures::future::join_all(writes).await;
    written.sort_by_key(|(_, outcome)| outcome.index);
    let mut direct = Direct::to(&site.cql).await;
    let mut last = 0;
    for (k, outcome) in written {
        let read = format!("SELECT writetime(v), ttl(v) FROM ks.t WHERE k = {k}");
        let rows = direct.rows(&read).await;
        if wrong(k) {
            assert_eq!(parse_error(&outcome.body).unwrap().code, 0x2200, "{k}");
            assert!(rows.is_empty(), "{k}");
            continue;
        }
        assert_eq!(outcome.opcode, 8, "{k}: {:?}", parse_error(&outcome.body));
        let [time, expires] = rows[0].as_slice() else { panic!("{rows:?}") };
        let time = cell::as_bigint(time.as_ref().unwrap()).unwrap();
        assert!(time > last, "write times follow the order: {time} behind {last}");
        last = time;
        let left = expires.as_ref().and_then(|cell| cell::as_int(cell));
        assert_eq!(left.is_some(), k % 3 != 2, "{k}: {left:?}");
        assert!(left.is_none_or(|left| (ttl(k) - 900..=ttl(k)).contains(&left)), "{k}: {left:?}");
    }
    // Digests at other times are to be the same, and count what is left of a life.
    let deletions =
        KEYS.map(|k| done(handle, request(RequestKind::Dml, vec![("DELETE FROM t WHERE k = ?", vec![int(k)])])));
    futures::future::join_all(deletions).await;
}

/// I1, I2, I3, I5, I10: a killed Cassandra is rewound and replayed; a clean stop needs neither; a newcomer replays all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_stops_and_newcomers_end_in_the_same_cells() {
    let log = MemoryStorage::default();
    let site = Arc::new(Site::new());
    let handle = site.serve(&log, 0).await;
    schema(&handle).await;
    let schema_version = *handle.schema().borrow();
    wrong_statements_are_results(&handle).await;
    assert_eq!(*handle.schema().borrow(), schema_version, "what fails changes no schema");
    writes_that_go_together_keep_their_own(&site, &handle).await;
    fill(&handle, 0).await;
    let index = handle.restore_point().await.unwrap();
    fill(&handle, 1000).await;
    done(&handle, request(RequestKind::Truncate, vec![("TRUNCATE gone", Vec::new())])).await;
    ddl(&handle, "ALTER TABLE t ADD later int").await;
    done(&handle, request(RequestKind::Dml, vec![("UPDATE t SET later = ? WHERE k = ? AND c = ?", vec![int(1); 3])]))
        .await;
    let schema_version = *handle.schema().borrow();
    let before = handle.digest().await.unwrap();

    site.kill_and_recover(&handle).await;
    let replay = handle.status().replay.unwrap();
    assert_eq!((replay.rewound, replay.restore_point), (true, Some(index)));
    assert!(replay.records > 200, "{replay:?}");
    same(&before, &handle.digest().await.unwrap());
    assert_eq!(*handle.schema().borrow(), schema_version);
    assert!(handle.status().conditions.is_empty(), "{:?}", handle.status());

    assert!(handle.stop().await.starts_with("stopped cleanly"));
    let handle = site.serve(&log, 0).await;
    assert!(!handle.status().replay.unwrap().rewound, "a clean stop needs no rewind");
    same(&before, &handle.digest().await.unwrap());

    // What somebody does to the store past the log, while nobody looks, is undone by a rewind.
    assert!(handle.stop().await.starts_with("stopped cleanly"));
    site.past_the_log("TRUNCATE ks.t").await;
    let handle = site.serve(&log, 0).await;
    assert!(handle.status().replay.unwrap().rewound, "a table was truncated past the log");
    same(&before, &handle.digest().await.unwrap());

    let newcomer_site = Site::new();
    let newcomer = newcomer_site.serve(&log, 1).await;
    assert_eq!(newcomer.status().state, Phase::Serving);
    assert_eq!(*newcomer.schema().borrow(), schema_version);
    let digest = agree(&handle, &newcomer).await;
    same(&before, &digest);
}

/// SIGTERM to the agent, with its replica alive and then with both asked to stop in the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_agent_needs_no_rewind_later() {
    let log = MemoryStorage::default();
    let site = Site::without_agent();
    let agent = site.agent_process();
    let handle = site.serve(&log, 0).await;
    schema(&handle).await;
    fill(&handle, 0).await;
    let before = handle.digest().await.unwrap();
    let generation = handle.status().generation;

    // As when a Cassandra pod is deleted, with writes on their way.
    let (first, begun) = tokio::sync::oneshot::channel();
    let writing = tokio::spawn({
        let handle = handle.clone();
        async move {
            let insert = "INSERT INTO gone (k) VALUES (?)";
            let (mut k, mut first) = (0, Some(first));
            while handle.propose(request(RequestKind::Dml, vec![(insert, vec![int(k)])])).await.is_ok() {
                first.take().map(|first| first.send(()));
                k += 1;
            }
            k
        }
    });
    begun.await.expect("the first write is acknowledged");
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
    let handle = site.serve(&log, 0).await;
    assert!(!handle.status().replay.unwrap().rewound, "both were asked to stop at once");
    same(&after, &handle.digest().await.unwrap());
}
