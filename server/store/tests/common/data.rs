//! Something of every kind in a Cassandra, and a restore point of it.

use std::time::Instant;

use replicateddb_store::client::Store;
use scylla::client::session::Session;

use super::{mark, run};

/// What is compared: tables, and the columns to select.
pub const TABLES: [(&str, &str); 6] = [
    ("ks.plain", "k, c, v, writetime(v) AS w, ttl(v) AS t"),
    ("ks.lists", "k, l, m, s, maxwritetime(l) AS w"),
    ("ks.counts", "*"),
    ("ks.gone", "*"),
    ("ks.by_v", "*"),
    ("ks2.other", "*"),
];

pub async fn fill(session: &Session) {
    let replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}";
    let keyspaces = ["ks", "ks2"].map(|ks| format!("CREATE KEYSPACE {ks} WITH replication = {replication}"));
    run(session, &[&keyspaces[0], &keyspaces[1]]).await;
    run(
        session,
        &[
            "CREATE TYPE ks.address (street text, number int)",
            "CREATE TABLE ks.plain (k int, c int, v text, a frozen<address>, PRIMARY KEY (k, c)) \
             WITH ID = 11111111-2222-3333-4444-555555555555",
            "CREATE TABLE ks.lists (k int PRIMARY KEY, l list<int>, m map<text, int>, s set<int>)",
            "CREATE TABLE ks.counts (k int PRIMARY KEY, n counter)",
            "CREATE TABLE ks.gone (k int PRIMARY KEY, v text)",
            "CREATE TABLE ks2.other (k int PRIMARY KEY, v text)",
            "CREATE INDEX plain_v ON ks.plain (v)",
            "CREATE INDEX gone_v ON ks.gone (v) USING 'sai'",
            "CREATE MATERIALIZED VIEW ks.by_v AS SELECT * FROM ks.gone WHERE v IS NOT NULL AND k IS NOT NULL \
             PRIMARY KEY (v, k)",
        ],
    )
    .await;
    for k in 0..50 {
        let stamp = 1000 + k;
        run(
            session,
            &[
                &format!("INSERT INTO ks.plain (k, c, v) VALUES ({k}, 1, 'v{k}') USING TIMESTAMP {stamp}"),
                &format!("UPDATE ks.lists SET l = l + [{k}], m['a'] = {k}, s = s + {{{k}}} WHERE k = {}", k % 5),
                &format!("UPDATE ks.counts SET n = n + {k} WHERE k = {}", k % 5),
                &format!("INSERT INTO ks.gone (k, v) VALUES ({k}, 'w{}')", k % 3),
                &format!("INSERT INTO ks2.other (k, v) VALUES ({k}, 'x')"),
            ],
        )
        .await;
    }
    run(session, &["DELETE FROM ks.plain WHERE k = 7", "DELETE v FROM ks.plain WHERE k = 8 AND c = 1"]).await;
}

/// As the replica does it: flush, hold (here: nothing is in flight), flush, snapshot, commit.
pub async fn restore_point(store: &Store, id: &str, index: u64) {
    let generation = store.status().await.unwrap().generation;
    let start = Instant::now();
    while !store.flush().await.unwrap().builds.is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let first = start.elapsed();
    store.flush().await.unwrap();
    let second = start.elapsed();
    store.snapshot(id, generation, None).await.unwrap();
    let snapshot = start.elapsed();
    let manifest = store.commit(id, mark(index)).await.unwrap();
    let files = &manifest.files;
    println!(
        "restore point: flush {first:?}, again {:?}, snapshot {:?}, commit {:?}; {} files, {} bytes",
        second - first,
        snapshot - second,
        start.elapsed() - snapshot,
        files.count,
        files.bytes
    );
    assert!(files.count > 0 && files.bytes > 0 && files.digest.len() == 64);
    assert!(manifest.cassandra_now_ms > 1_700_000_000_000);
}
