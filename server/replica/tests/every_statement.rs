//! Every kind of DDL and of write, through one replica, is the same on a replica that was rewound and on one that
//! replays all of it later: schema, ids and cells. Needs the jars of `images/artifacts/fetch.sh`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod site;

use bytes::Bytes;
use replicateddb_cql::response::parse_error;
use replicateddb_ordering::memory::MemoryStorage;
use replicateddb_replica::ReplicaHandle;
use replicateddb_replica::replica::RequestKind;
use site::statements::{AFTER, BEFORE, WRITES};
use site::{Direct, Site, agree, ddl, done, request};

/// For a column's type, which is the same everywhere, too.
const INVALID: &str = "UPDATE ks.t SET l[1] = 9, v += 0 WHERE k = 2 AND c = 50554d6e-29bb-11e5-b345-feff819cdc9f";

/// What clients see of a store, and what makes it up.
const SEEN: &[&str] = &[
    "DESCRIBE SCHEMA WITH INTERNALS",
    "SELECT keyspace_name, table_name, id FROM system_schema.tables WHERE keyspace_name IN ('ks', 'other')",
    "SELECT keyspace_name, table_name, column_name, dropped_time FROM system_schema.dropped_columns WHERE keyspace_name = 'ks'",
    "SELECT JSON * FROM ks.t",
    "SELECT JSON * FROM ks.by_x",
    "SELECT JSON * FROM ks.n",
    "SELECT k FROM ks.t WHERE v = 2",
    "SELECT k FROM ks.t WHERE w = 'one'",
    "SELECT k FROM ks.t WHERE m CONTAINS KEY 'b'",
    "SELECT k FROM ks.t ORDER BY ve ANN OF [1, 2, 2] LIMIT 1",
    "SELECT k, ks.twice(k) FROM ks.t",
    "SELECT ks.letters(w) FROM ks.t",
];

async fn written(handle: &ReplicaHandle, texts: &[&str]) {
    for text in texts {
        done(handle, request(RequestKind::Dml, vec![(text, Vec::new())])).await;
    }
}

/// Everything of [`SEEN`], in order.
async fn seen(site: &Site) -> Vec<(&'static str, Vec<Vec<Option<Bytes>>>)> {
    let mut direct = Direct::to(&site.cql).await;
    let mut all = Vec::new();
    for text in SEEN {
        let rows = direct.rows(text).await;
        assert!(!rows.is_empty(), "{text}");
        all.push((*text, rows));
    }
    all
}

fn same(now: &[(&str, Vec<Vec<Option<Bytes>>>)], before: &[(&str, Vec<Vec<Option<Bytes>>>)]) {
    for ((text, now), (_, before)) in now.iter().zip(before) {
        assert_eq!(now.len(), before.len(), "{text}");
        for (now, before) in now.iter().zip(before) {
            assert_eq!(now, before, "{text}");
        }
    }
}

/// I1, I10: of schema and cells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_statement_is_the_same_after_a_rewind_and_on_a_newcomer() {
    let log = MemoryStorage::default();
    let (site, late) = (Site::new(), Site::new());
    let handle = site.serve(&log, 0).await;
    for text in &BEFORE[..BEFORE.len() / 2] {
        ddl(&handle, text).await;
    }
    handle.restore_point().await.unwrap();
    for text in &BEFORE[BEFORE.len() / 2..] {
        ddl(&handle, text).await;
    }
    written(&handle, WRITES).await;
    let outcome = handle.propose(request(RequestKind::Dml, vec![(INVALID, Vec::new())])).await.unwrap();
    assert_eq!(parse_error(&outcome.body).unwrap().code, 0x2200, "{INVALID}");
    for text in AFTER {
        ddl(&handle, text).await;
    }
    let before = seen(&site).await;

    // One that never ends fails its read, and nothing else.
    let mut direct = Direct::to(&site.cql).await;
    let (opcode, body) = direct.statement("SELECT ks.endless(k) FROM ks.t LIMIT 1", &[]).await;
    assert_eq!(opcode, 0, "an endless function");
    assert!(parse_error(&body).unwrap().message.contains("endless"), "{:?}", parse_error(&body));
    same(&seen(&site).await, &before);

    site.kill_and_recover(&handle).await;
    assert!(handle.status().replay.unwrap().rewound);
    same(&seen(&site).await, &before);

    let newcomer = late.serve(&log, 1).await;
    same(&seen(&late).await, &before);
    // What is left of each TTL is a part of it, as of one index.
    agree(&handle, &newcomer).await;
}
