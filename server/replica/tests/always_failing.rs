//! Statements that a real Cassandra fails to execute each time, with errors that look like trouble of its own: such a
//! record must come to an end, or it holds its table up, and in the end the whole log, on every replica for ever (design
//! 4.7). Needs the jars of `images/artifacts/fetch.sh`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod site;

use std::time::Duration;

use bytes::Bytes;
use replicateddb_cql::response::{MAX_TYPE_DEPTH, parse_error};
use replicateddb_cql::wire::Value;
use replicateddb_ordering::memory::MemoryStorage;
use replicateddb_replica::config::Config;
use replicateddb_replica::replica::{Request, RequestKind};
use site::{Direct, PATIENCE, Site, agree, ddl, done, int, request, served, text};
use uuid::Uuid;

/// Longest wait for the answer to one of them.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

const SCHEMA: [&str; 12] = [
    "CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
    "CREATE TYPE u (a int, b text)",
    "CREATE TABLE t (k int PRIMARY KEY, v int, d decimal, vi varint, dt date, dur duration, l list<int>, ud u)",
    "CREATE TABLE c (k int, c text, PRIMARY KEY (k, c))",
    "CREATE TABLE i (k int PRIMARY KEY, m map<text, text>)",
    "CREATE INDEX im ON i (entries(m))",
    "CREATE TABLE sai (k int PRIMARY KEY, m map<text, text>)",
    "CREATE INDEX sm ON sai (entries(m)) USING 'sai'",
    "CREATE TABLE vs (k int PRIMARY KEY, v vector<float, 2>, w vector<float, 3>, l list<int>)",
    "CREATE INDEX vi ON vs (v) USING 'sai'",
    "CREATE TABLE dot (k int PRIMARY KEY, v vector<float, 2>)",
    "CREATE CUSTOM INDEX di ON dot (v) USING 'StorageAttachedIndex' WITH OPTIONS = {'similarity_function': 'DOT_PRODUCT'}",
];

fn blob(bytes: &[u8]) -> Value {
    Value::Bytes(Bytes::copy_from_slice(bytes))
}

/// What fails, by what it fails with when Cassandra is asked directly.
fn failing() -> Vec<(i32, RequestKind, &'static str, Vec<Value>)> {
    let long = text(&"x".repeat(70_000));
    let null_element = blob(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
    let half = blob(&[0, 0, 0, 9, 1]);
    let (function, server, write) = (0x1400, 0x0000, 0x1500);
    let dml = RequestKind::Dml;
    vec![
        (function, dml, "INSERT INTO ks.t (k, v) VALUES (1, 1/0)", vec![]),
        (function, dml, "INSERT INTO ks.t (k, v) VALUES (1, (int)? % 0)", vec![int(4)]),
        (function, dml, "UPDATE ks.t SET v = 1 WHERE k = 1/0", vec![]),
        (function, dml, "UPDATE ks.t SET v = 1 WHERE k = 1 IF v = 1/0", vec![]),
        (function, dml, "INSERT INTO ks.t (k, d) VALUES (1, 1.0/0.0)", vec![]),
        (function, dml, "INSERT INTO ks.t (k, dt) VALUES (1, '2011-01-01' + 2h)", vec![]),
        (function, dml, "INSERT INTO ks.t (k, l) VALUES (1, from_json('garbage'))", vec![]),
        (server, dml, "INSERT INTO ks.t (k, d) VALUES (1, log((decimal)0))", vec![]),
        (server, dml, "INSERT INTO ks.t (k, vi) VALUES (1, log((varint)0))", vec![]),
        (server, dml, "INSERT INTO ks.t (k, l) VALUES (1, ?)", vec![null_element]),
        (server, dml, "INSERT INTO ks.t (k, dur) VALUES (1, ?)", vec![blob(&[0xff; 20])]),
        (server, dml, "INSERT INTO ks.t (k, ud) VALUES (1, ?)", vec![half]),
        (server, dml, "INSERT INTO ks.t (k, v) VALUES (1, 1) USING TIMESTAMP ?", vec![blob(&[])]),
        (server, dml, "UPDATE ks.i SET m['a'] = ? WHERE k = 1", vec![long.clone()]),
        (server, dml, "UPDATE ks.sai SET m['a'] = ? WHERE k = 1", vec![long]),
        (write, dml, "DELETE FROM ks.c WHERE k = 1 AND c > ?", vec![Value::Null]),
        (write, dml, "DELETE FROM ks.c WHERE k = 1 AND c > null", vec![]),
        (write, dml, "INSERT INTO ks.vs (k, v) VALUES (1, [0, 0])", vec![]),
        (write, dml, "INSERT INTO ks.vs (k, v) VALUES (1, ?)", vec![blob(&[0; 8])]),
        (write, dml, "INSERT INTO ks.vs JSON '{\"k\": 1, \"v\": [0, 0]}'", vec![]),
        (write, dml, "UPDATE ks.vs SET v = ? WHERE k = 1", vec![blob(&[0x7f, 0xc0, 0, 0, 0x3f, 0x80, 0, 0])]),
        (write, dml, "INSERT INTO ks.dot (k, v) VALUES (1, [NaN, 1])", vec![]),
        (server, RequestKind::Ddl, "CREATE KEYSPACE k8 WITH replication = {}", vec![]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_always_fails_has_a_result() {
    let log = MemoryStorage::default();
    let (site, other) = (Site::new(), Site::new());
    let handle = site.serve(&log, 0).await;
    let before = handle.status().generation;
    for text in SCHEMA {
        ddl(&handle, text).await;
    }
    let mut direct = Direct::to(&site.cql).await;
    for (code, kind, statement, values) in failing() {
        let (_, body) = direct.statement(statement, &values).await;
        assert_eq!(parse_error(&body).unwrap().code, code, "{statement}: {:?}", parse_error(&body));
        for batch in [false, true] {
            if batch && (kind != RequestKind::Dml || statement.contains(" IF ")) {
                continue;
            }
            let kind = if batch { RequestKind::Batch } else { kind };
            let asked: Request = request(kind, vec![(statement, values.clone())]);
            let answer = tokio::time::timeout(ANSWER_LIMIT, handle.propose(asked)).await;
            let answer = answer.unwrap_or_else(|_| panic!("{statement}: no answer; {:?}", handle.status().conditions));
            let answer = answer.unwrap_or_else(|error| panic!("{statement}: {error}"));
            assert_eq!(answer.opcode, 0, "{statement}: accepted");
        }
    }
    // Where it is not indexed, or not by cosine similarity, a vector of zeros is as good as any.
    let zeros = "INSERT INTO ks.dot (k, v) VALUES (1, [0, 0])";
    for text in [zeros, "INSERT INTO vs (k, v, w) VALUES (1, [0, 1], [0, 0, 0])", "INSERT INTO t (k, v) VALUES (2, 2)"]
    {
        done(&handle, request(RequestKind::Dml, vec![(text, Vec::new())])).await;
    }
    // Another replica that replays all of it comes to the same; without a rewind, as the first one.
    let newcomer = other.serve(&log, 1).await;
    agree(&newcomer, &handle).await;
    assert_eq!(handle.status().generation, before, "{:?}", handle.status());
    for handle in [&handle, &newcomer] {
        let status = handle.status();
        assert!(status.replay.as_ref().is_some_and(|replay| !replay.rewound), "{status:?}");
    }
}

/// A table whose column has a type that is nested deeper than is read here: what is written with values is refused, and the answer
/// to a condition is passed on as it is. Replicas can be compared all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_nested_too_deep_hold_nobody_up() {
    let site = Site::new();
    let handle = site.serve(&MemoryStorage::default(), 0).await;
    ddl(&handle, SCHEMA[0]).await;
    let depth = MAX_TYPE_DEPTH + 6;
    let deep = format!("frozen<{}int{}>", "list<".repeat(depth), ">".repeat(depth));
    ddl(&handle, &format!("CREATE TABLE deep (k int PRIMARY KEY, v {deep})")).await;
    let write = |text: &'static str, values| handle.propose(request(RequestKind::Dml, vec![(text, values)]));
    let refused = write("INSERT INTO deep (k, v) VALUES (?, ?)", vec![int(1), Value::Null]);
    let refused = tokio::time::timeout(ANSWER_LIMIT, refused).await.expect("an answer").expect("a result");
    assert!(parse_error(&refused.body).unwrap().message.contains("type nesting"), "{refused:?}");
    for _ in 0..2 {
        let claim = write("INSERT INTO deep (k) VALUES (1) IF NOT EXISTS", vec![]);
        let claim = tokio::time::timeout(ANSWER_LIMIT, claim).await.expect("an answer").expect("a result");
        assert_eq!(claim.opcode, 8, "{claim:?}");
    }
    done(&handle, request(RequestKind::Dml, vec![("INSERT INTO deep (k, v) VALUES (2, [])", vec![])])).await;
    // So deep by types that each are not.
    ddl(&handle, "CREATE TYPE n0 (f int)").await;
    for n in 1..=depth {
        ddl(&handle, &format!("CREATE TYPE n{n} (f frozen<n{}>)", n - 1)).await;
    }
    ddl(&handle, &format!("CREATE TABLE chain (k int PRIMARY KEY, v frozen<n{depth}>)")).await;
    done(&handle, request(RequestKind::Dml, vec![("INSERT INTO chain (k, v) VALUES (1, {f: null})", vec![])])).await;
    let digest = tokio::time::timeout(ANSWER_LIMIT, handle.digest()).await.expect("an answer").expect("a digest");
    assert_eq!((digest.tables["ks.deep"].rows, digest.tables["ks.chain"].rows), (2, 1));
    done(&handle, request(RequestKind::Dml, vec![("UPDATE deep SET v = [[]] WHERE k = 2", vec![])])).await;
    let other = tokio::time::timeout(ANSWER_LIMIT, handle.digest()).await.expect("an answer").expect("a digest");
    assert_ne!(digest.tables["ks.deep"], other.tables["ks.deep"], "values count");
    assert_eq!(digest.tables["ks.chain"], other.tables["ks.chain"]);
}

/// What is not known to be the statement's own is tried until every replica has complained of it. The front end lets no
/// statement through of which that is known today; a table id that is there already, in a record that no front end makes, is
/// one: a real Cassandra answers it with an unexpected error each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_always_fails_for_reasons_unknown_is_skipped_by_all() {
    let log = MemoryStorage::default();
    let sites = [Site::new(), Site::new()];
    let complain_after = Duration::from_secs(3);
    let config = |replica| Config { replica, complain_after, ..Config::default() };
    let handles = [sites[0].start_as(&log, config(0)), sites[1].start_as(&log, config(1))];
    for handle in &handles {
        served(handle).await;
    }
    let before: Vec<_> = handles.iter().map(|handle| handle.status().generation).collect();
    for text in
        ["CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}", SCHEMA[2]]
    {
        // The table is of a type that is left out here.
        ddl(&handles[0], &text.replace(", ud u", "")).await;
    }
    let mut direct = Direct::to(&sites[0].cql).await;
    let rows = direct.rows("SELECT id FROM system_schema.tables WHERE keyspace_name = 'ks' AND table_name = 't'").await;
    let id = Uuid::from_slice(rows[0][0].as_ref().unwrap()).unwrap();
    let again = format!("CREATE TABLE ks.again (k int PRIMARY KEY) WITH ID = {id}");
    let answer = handles[0].propose(request(RequestKind::Truncate, vec![(&again, vec![])]));
    let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap();
    let answer = answer.unwrap_or_else(|error| panic!("{error}: {:?}", handles[0].status().conditions));
    let error = parse_error(&answer.body).unwrap();
    assert!(answer.opcode == 0 && error.message.contains("skipped by the verdict of all replicas"), "{error:?}");
    assert!(error.message.contains("(Server)"), "with Cassandra's words, and the code: {error:?}");
    for handle in &handles {
        served(handle).await;
    }
    done(&handles[0], request(RequestKind::Dml, vec![("INSERT INTO t (k, v) VALUES (2, 2)", vec![])])).await;
    agree(&handles[1], &handles[0]).await;
    for (handle, before) in handles.iter().zip(before) {
        let status = handle.status();
        assert!(status.generation > before && status.conditions.is_empty(), "it was rewound: {status:?}");
    }
}
