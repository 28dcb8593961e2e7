//! What Cassandra does that a replica must not run into, each shown on a real one, and how the replica keeps clear of it.
//! Needs the jars of `images/artifacts/fetch.sh`.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod site;

use bytes::Bytes;
use replicateddb_cql::frame::Opcode;
use replicateddb_cql::request;
use replicateddb_cql::response::{ResultBody, parse_error, parse_result};
use replicateddb_ordering::memory::MemoryStorage;
use replicateddb_replica::ReplicaHandle;
use replicateddb_replica::replica::RequestKind;
use site::{Direct, Site, ddl, done, request as ordered};

async fn cell(direct: &mut Direct, text: &str) -> Option<Bytes> {
    direct.rows(text).await.remove(0).remove(0)
}

/// The positions of the partition key among the markers, as Cassandra says when it prepares.
async fn key_positions(direct: &mut Direct, text: &str) -> Vec<u16> {
    let (_, body) = direct.ask(Opcode::Prepare, request::prepare(text).unwrap()).await;
    match parse_result(&body).unwrap() {
        ResultBody::Prepared(prepared) => prepared.pk_indices,
        other => panic!("{text}: {other:?}"),
    }
}

/// A second copy shows, even at the same write time: so what may be there is rewound, never repeated (I3).
async fn a_second_copy_shows(direct: &mut Direct) {
    for _ in 0..2 {
        direct.done("UPDATE raw.lists USING TIMESTAMP 1000 SET l = l + [1] WHERE k = 1").await;
        direct.done("UPDATE raw.counts SET n = n + 1 WHERE k = 1").await;
        direct.done("UPDATE raw.lists USING TIMESTAMP 1000 SET s = s + {1} WHERE k = 1").await;
    }
    assert_eq!(cell(direct, "SELECT JSON l FROM raw.lists WHERE k = 1").await.unwrap(), r#"{"l": [1, 1]}"#);
    assert_eq!(cell(direct, "SELECT JSON n FROM raw.counts WHERE k = 1").await.unwrap(), r#"{"n": 2}"#);
    assert_eq!(cell(direct, "SELECT JSON s FROM raw.lists WHERE k = 1").await.unwrap(), r#"{"s": [1]}"#);
}

/// Overwriting a list at one write time keeps both: the deletion before it is a microsecond older.
async fn an_overwritten_list_keeps_a_second_copy(direct: &mut Direct) {
    for _ in 0..2 {
        direct.done("INSERT INTO raw.lists (k, l) VALUES (2, [7]) USING TIMESTAMP 2000").await;
    }
    assert_eq!(cell(direct, "SELECT JSON l FROM raw.lists WHERE k = 2").await.unwrap(), r#"{"l": [7, 7]}"#);
}

/// So lanes come from the statement's text, too, and each member of a batch is prepared alone.
async fn the_protocol_says_too_little_of_keys(direct: &mut Direct) {
    let one = key_positions(direct, "UPDATE raw.counts SET n = n + 1 WHERE k = ?").await;
    assert_eq!(one, [0]);
    let several = key_positions(direct, "DELETE FROM raw.lists WHERE k IN (?, ?)").await;
    assert!(several.len() < 2, "two markers are the key: {several:?}");
    let batch = "BEGIN BATCH INSERT INTO raw.lists (k) VALUES (?); INSERT INTO raw.lists (k) VALUES (?); APPLY BATCH";
    let batch = key_positions(direct, batch).await;
    assert!(batch.len() < 2, "two markers are keys: {batch:?}");
}

/// It looks like a failure of the server, which would be tried again for ever: the replica gives ids itself, and refuses
/// a client's.
async fn an_id_that_is_taken_is_no_invalid_statement(direct: &mut Direct, handle: &ReplicaHandle) {
    let id =
        direct.rows("SELECT id FROM system_schema.tables WHERE keyspace_name = 'raw' AND table_name = 'lists'").await;
    let id = uuid::Uuid::from_slice(id[0][0].as_ref().unwrap()).unwrap();
    let again = format!("CREATE TABLE raw.again (k int PRIMARY KEY) WITH ID = {id}");
    let (_, body) = direct.statement(&again, &[]).await;
    assert_eq!(parse_error(&body).unwrap().code, 0, "{:?}", parse_error(&body));
    let outcome = handle.propose(ordered(RequestKind::Ddl, vec![(&again, Vec::new())])).await.unwrap();
    assert_eq!(parse_error(&outcome.body).unwrap().code, 0x2200);
}

/// With a cache, an increment after a deletion would not be what it is without: there is none.
async fn counters_are_not_cached(direct: &mut Direct) {
    let setting = cell(direct, "SELECT value FROM system_views.settings WHERE name = 'counter_cache_size'").await;
    assert!(setting.as_ref().is_some_and(|size| size.starts_with(b"0")), "{setting:?}");
}

/// A write with a client's own old time does not undo what came later in the order, and stands as written.
async fn an_explicit_time_stands(direct: &mut Direct, handle: &ReplicaHandle) {
    for text in [
        "INSERT INTO t (k, v) VALUES (1, 1)",
        "INSERT INTO t (k, v) VALUES (1, 2) USING TIMESTAMP 5",
        "INSERT INTO t (k, v) VALUES (2, 2) USING TIMESTAMP 5",
    ] {
        done(handle, ordered(RequestKind::Dml, vec![(text, Vec::new())])).await;
    }
    assert_eq!(cell(direct, "SELECT JSON v FROM ks.t WHERE k = 1").await.unwrap(), r#"{"v": 1}"#);
    assert_eq!(cell(direct, "SELECT JSON writetime(v) AS t FROM ks.t WHERE k = 2").await.unwrap(), r#"{"t": 5}"#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cassandra_is_as_it_is() {
    let log = MemoryStorage::default();
    let site = Site::new();
    let handle = site.serve(&log, 0).await;
    let mut direct = Direct::to(&site.cql).await;
    let replication = "replication = {'class': 'SimpleStrategy', 'replication_factor': 1}";
    ddl(&handle, &format!("CREATE KEYSPACE ks WITH {replication}")).await;
    ddl(&handle, "CREATE TABLE t (k int PRIMARY KEY, v int)").await;
    direct.done(&format!("CREATE KEYSPACE raw WITH {replication}")).await;
    direct.done("CREATE TABLE raw.lists (k int PRIMARY KEY, l list<int>, s set<int>)").await;
    direct.done("CREATE TABLE raw.counts (k int PRIMARY KEY, n counter)").await;
    a_second_copy_shows(&mut direct).await;
    an_overwritten_list_keeps_a_second_copy(&mut direct).await;
    the_protocol_says_too_little_of_keys(&mut direct).await;
    an_id_that_is_taken_is_no_invalid_statement(&mut direct, &handle).await;
    counters_are_not_cached(&mut direct).await;
    an_explicit_time_stands(&mut direct, &handle).await;
}
