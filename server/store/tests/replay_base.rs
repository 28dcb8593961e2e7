//! Restore points and rewinds on a real Cassandra: the state comes back exactly, whatever was done in between and
//! wherever the agent crashes (I10).

#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod common;

use std::time::Instant;

use common::data::{TABLES, fill, restore_point};
use common::{Bed, dump, lines, lives, mark, resident_mib, run, signal_pid};
use nix::sys::signal::Signal::{SIGKILL, SIGTERM};
use replicateddb_store::agent::faults;
use replicateddb_store::api::{Code, Jvm, Rewind};
use scylla::client::session::Session;

async fn disturb(session: &Session) {
    run(
        session,
        &[
            "INSERT INTO ks.plain (k, c, v) VALUES (1, 1, 'later')",
            "INSERT INTO ks.plain (k, c, v) VALUES (7, 1, 'risen')",
            "UPDATE ks.lists SET l = l + [999], m['b'] = 1 WHERE k = 1",
            "UPDATE ks.counts SET n = n + 1000 WHERE k = 1",
            "TRUNCATE ks2.other",
            "INSERT INTO ks2.other (k, v) VALUES (1000, 'later')",
            "DROP INDEX ks.plain_v",
            // Adding an index to data of the restore point writes over files that are linked there.
            "CREATE INDEX other_v ON ks2.other (v) USING 'sai'",
            "CREATE INDEX plain_sai ON ks.plain (v) USING 'sai'",
            "ALTER TABLE ks.plain ADD extra int",
            "ALTER TABLE ks.lists DROP s",
            "DROP MATERIALIZED VIEW ks.by_v",
            "DROP TABLE ks.gone",
            "CREATE TABLE ks.gone (k int PRIMARY KEY, v text, w text)",
            "CREATE KEYSPACE ks3 WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
            "CREATE TABLE ks3.t (k int PRIMARY KEY)",
            "INSERT INTO ks3.t (k) VALUES (1)",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_point_comes_back_exactly_after_anything() {
    let mut bed = Bed::new().await;
    let start = Instant::now();
    bed.start_agent();
    let status = bed.running().await;
    println!("start on a new volume: {:?}", start.elapsed());
    // Empty at 0 is clean: the replica may begin with the first record.
    assert_eq!(status.clean.unwrap().manifest, None);
    let store = bed.store(10);
    store.clear_clean().await.unwrap();
    assert!(store.status().await.unwrap().dirty);

    let session = bed.cql().await;
    fill(&session).await;
    restore_point(&store, "rp-0", 90).await;
    run(&session, &["UPDATE ks.lists SET l = l + [17] WHERE k = 1", "UPDATE ks.counts SET n = n + 1 WHERE k = 1"])
        .await;
    restore_point(&store, "rp-1", 100).await;
    let expected = dump(&session, &TABLES).await;
    assert!(expected.contains("11111111-2222-3333-4444-555555555555") && expected.contains("plain_v"));

    for round in 0..2 {
        disturb(&bed.cql().await).await;
        assert_eq!(lines(&bed.cql().await, "SELECT JSON k FROM ks3.t").await.len(), 1);
        if round == 1 {
            store.flush().await.unwrap();
        }
        let before = store.status().await.unwrap();
        let pid = before.jvm_pid.unwrap();
        println!("resident: {} MiB", resident_mib(pid));
        signal_pid(pid, SIGKILL);
        let after = bed.until("the end is seen", |s| matches!(s.jvm, Jvm::Failed { .. })).await;
        assert!(after.dirty && after.jvm_pid.is_none());
        assert_eq!(store.start().await.unwrap_err().code(), Some(Code::Dirty));

        let start = Instant::now();
        let rewound = store.rewind(Rewind::Latest).await.unwrap();
        println!("rewind with start: {:?}", start.elapsed());
        let manifest = rewound.manifest.unwrap();
        assert_eq!((manifest.id.as_str(), &manifest.mark), ("rp-1", &mark(100)));
        assert!(rewound.generation > before.generation);
        assert!(store.status().await.unwrap().dirty, "a rewound directory that runs has no clean mark");
        assert_eq!(dump(&bed.cql().await, &TABLES).await, expected, "round {round}");
        let session = bed.cql().await;
        let by_index = lines(&session, "SELECT JSON k FROM ks.plain WHERE v = 'v3'").await;
        assert_eq!(by_index.len(), 1);
        assert!(store.cassandra_now().await.unwrap().now_ms >= manifest.cassandra_now_ms);
    }
}

/// What is written after the flush is in memory alone, as long as no memtable is replaced, which is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_beside_writes_holds_what_was_flushed_or_is_refused() {
    let mut bed = Bed::new().await;
    bed.start_agent();
    bed.running().await;
    let store = bed.store(10);
    store.clear_clean().await.unwrap();
    let session = bed.cql().await;
    fill(&session).await;
    let generation = store.status().await.unwrap().generation;
    let later = [
        "INSERT INTO ks.plain (k, c, v) VALUES (7, 1, 'later') USING TIMESTAMP 9000",
        "DELETE FROM ks.plain USING TIMESTAMP 9000 WHERE k = 3",
        "UPDATE ks.lists SET l = l + [99] WHERE k = 1",
        "UPDATE ks.counts SET n = n + 1 WHERE k = 1",
        "INSERT INTO ks.gone (k, v) VALUES (1, 'later')",
    ];

    // Cassandra may flush by itself when an index is built: then it is refused, and tried again.
    let mut attempts = 0..10;
    let (id, expected) = loop {
        let id = format!("beside-{}", attempts.next().expect("one of them comes to something"));
        let expected = dump(&session, &TABLES).await;
        let flushed = store.flush().await.unwrap();
        run(&session, &later).await;
        match store.snapshot(&id, generation, Some(flushed.memtable_switches)).await {
            Ok(_) if flushed.builds.is_empty() => break (id, expected),
            Ok(_) => {}
            Err(refused) => assert_eq!(refused.code(), Some(Code::MemtableSwitched), "{refused}"),
        }
    };
    store.commit(&id, mark(100)).await.unwrap();

    // Each way in which a memtable is replaced.
    for (n, replace) in ["flush", "TRUNCATE ks2.other", "ALTER TABLE ks.plain ADD b int"].into_iter().enumerate() {
        let flushed = store.flush().await.unwrap().memtable_switches;
        run(&session, &["INSERT INTO ks2.other (k, v) VALUES (1000, 'y')"]).await;
        match replace {
            "flush" => drop(store.flush().await.unwrap()),
            statement => run(&session, &[statement]).await,
        }
        let refused = store.snapshot(&format!("spoilt-{n}"), generation, Some(flushed)).await.unwrap_err();
        assert_eq!(refused.code(), Some(Code::MemtableSwitched), "{replace}: {refused}");
        let gone = store.commit(&format!("spoilt-{n}"), mark(101)).await.unwrap_err();
        assert_eq!(gone.code(), Some(Code::UnknownRestorePoint), "{replace}: {gone}");
    }

    assert_ne!(dump(&session, &TABLES).await, expected);
    let rewound = store.rewind(Rewind::Latest).await.unwrap();
    assert_eq!(rewound.manifest.unwrap().id, id);
    assert_eq!(dump(&bed.cql().await, &TABLES).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_anywhere_in_a_rewind_ends_in_the_same_state() {
    let mut bed = Bed::new().await;
    bed.start_agent();
    bed.running().await;
    let store = bed.store(10);
    store.clear_clean().await.unwrap();
    fill(&bed.cql().await).await;
    restore_point(&store, "rp-1", 100).await;
    let expected = dump(&bed.cql().await, &TABLES).await;
    let mut generations = vec![store.status().await.unwrap().generation];
    disturb(&bed.cql().await).await;

    for fault in faults::REWIND {
        bed.kill_agent().await;
        bed.start_agent_that_crashes_at(fault);
        let status = bed.until("the agent is up", |_| true).await;
        assert!(status.dirty && status.jvm == Jvm::Stopped, "{fault}: {status:?}");
        store.rewind(Rewind::Latest).await.unwrap_err();
        assert!(!bed.agent_ended().await.success(), "{fault}");

        bed.start_agent();
        let status = bed.until("the agent is up", |_| true).await;
        let intended = common::exists(&bed.path("agent/rewind.json"));
        let generation = match status.jvm {
            Jvm::Stopped => {
                assert!(status.dirty && !intended, "{fault}: {status:?}");
                store.rewind(Rewind::Latest).await.unwrap().generation
            }
            _ => {
                let status = bed.running().await;
                let clean = status.clean.unwrap();
                assert_eq!(clean.manifest.unwrap().mark, mark(100), "{fault}");
                store.clear_clean().await.unwrap();
                status.generation
            }
        };
        assert!(generations.iter().all(|earlier| *earlier < generation), "{fault}: {generation} is reused");
        generations.push(generation);
        let session = bed.cql().await;
        assert_eq!(dump(&session, &TABLES).await, expected, "{fault}");
        run(&session, &["UPDATE ks.lists SET l = l + [5] WHERE k = 1", "DROP TABLE ks2.other"]).await;
        store.flush().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_a_commit_leaves_a_whole_restore_point_to_rewind_to() {
    let mut bed = Bed::new().await;
    for (round, fault) in faults::COMMIT.into_iter().enumerate() {
        let (old, new) = (100 * round as u64, 100 * round as u64 + 50);
        bed.start_agent_that_crashes_at(fault);
        let store = bed.store(10);
        if round == 0 {
            bed.running().await;
        } else {
            bed.until("the agent is up", |_| true).await;
            store.rewind(Rewind::Latest).await.unwrap();
        }
        store.clear_clean().await.unwrap();
        let session = bed.cql().await;
        if round == 0 {
            fill(&session).await;
        }
        let generation = store.status().await.unwrap().generation;
        run(&session, &[&format!("INSERT INTO ks2.other (k, v) VALUES (77, '{new}')")]).await;
        store.flush().await.unwrap();
        let id = format!("rp-{new}");
        store.snapshot(&id, generation, None).await.unwrap();
        let reply = store.commit(&id, mark(new)).await;
        assert!(!bed.agent_ended().await.success(), "{fault}");

        bed.start_agent();
        let status = bed.until("the agent is up", |_| true).await;
        assert!(status.dirty);
        let committed = status.restore_points.iter().any(|point| point.index == new);
        assert_eq!(committed, fault != "commit-tree-synced", "{fault}");
        assert!(committed || reply.is_err());
        assert_eq!(common::exists(&bed.path(&format!("agent/restore-points/{id}"))), committed, "{fault}");
        let rewound = store.rewind(Rewind::Latest).await.unwrap();
        let index = rewound.manifest.map_or(0, |manifest| manifest.mark.index);
        assert_eq!(index, if committed { new } else { old }, "{fault}");
        if !committed {
            // Nothing was ever committed: empty at 0, and filled again for the next round.
            let session = bed.cql().await;
            fill(&session).await;
            let generation = store.status().await.unwrap().generation;
            store.flush().await.unwrap();
            store.snapshot("rp-base", generation, None).await.unwrap();
            store.commit("rp-base", mark(1)).await.unwrap();
        }
        bed.signal_agent(SIGTERM);
        assert!(bed.agent_ended().await.success());
    }
    // Three were committed; the two newest are there, and whole.
    bed.start_agent();
    let status = bed.until("the agent is up", |_| true).await;
    let indices: Vec<_> = status.restore_points.iter().map(|point| point.index).collect();
    assert_eq!(indices, [150, 250]);
    assert!(status.jvm_pid.is_none_or(|pid| !lives(pid)));
}
