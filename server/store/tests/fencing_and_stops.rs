//! Who may do what, and what a stop, clean or not, leaves behind.

#![allow(clippy::unwrap_used)] // a test that can't go on fails

mod common;

use std::time::{Duration, Instant};

use common::{Bed, LOG, exists, lines, lives, mark, run};
use nix::sys::signal::Signal::{SIGKILL, SIGSTOP, SIGTERM};
use replicateddb_store::api::{Code, Held, Jvm, Rewind, Table};
use replicateddb_store::client::{Store, StoreError};
use replicateddb_store::generation;

fn code<T: std::fmt::Debug>(result: Result<T, StoreError>) -> Option<Code> {
    result.unwrap_err().code()
}

const KEYSPACE: &str = "CREATE KEYSPACE ks WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}";

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_stop_needs_no_rewind_and_an_unclean_one_does() {
    let mut bed = Bed::new().await;
    bed.start_agent();
    let first = bed.running().await;
    let store = bed.store(10);
    store.clear_clean().await.unwrap();
    let session = bed.cql().await;
    run(&session, &[KEYSPACE, "CREATE TABLE ks.t (k int PRIMARY KEY, l list<int>, v text)"]).await;
    run(&session, &["UPDATE ks.t SET l = l + [1], v = 'a' WHERE k = 1", "UPDATE ks.t SET l = l + [2] WHERE k = 1"])
        .await;
    let expected = lines(&session, "SELECT JSON k, l, v, writetime(v) AS w FROM ks.t").await;

    // The generation is visible on any connection, and no other one can be marked.
    let shown = lines(&session, generation::QUERY).await;
    assert_eq!(generation::parse(shown[0].as_bytes()), Some(first.generation));
    assert_eq!(store.mark_clean(first.generation + 1, mark(7)).await.unwrap_err().code(), Some(Code::WrongGeneration));
    let marked = store.mark_clean(first.generation, mark(7)).await.unwrap();
    let status = store.status().await.unwrap();
    assert!(!status.dirty);
    assert_eq!(status.clean.unwrap().held, Held::Generation { generation: first.generation });

    let start = Instant::now();
    bed.signal_agent(SIGTERM);
    assert!(bed.agent_ended().await.success());
    println!("clean stop: {:?}", start.elapsed());
    assert!(!lives(first.jvm_pid.unwrap()));

    let start = Instant::now();
    bed.start_agent();
    let second = bed.running().await;
    println!("start after a clean stop: {:?}", start.elapsed());
    assert!(second.generation > first.generation);
    let clean = second.clean.unwrap();
    assert_eq!(clean.manifest.unwrap(), marked);
    assert_eq!(clean.held, Held::Generation { generation: second.generation });
    let session = bed.cql().await;
    assert_eq!(lines(&session, "SELECT JSON k, l, v, writetime(v) AS w FROM ks.t").await, expected);
    assert_eq!(store.start().await.unwrap(), second.generation);

    // The mark is off the disk when the call returns; killed after that, the directory is dirty.
    store.clear_clean().await.unwrap();
    assert!(!exists(&bed.path("agent/clean.json")));
    run(&session, &["UPDATE ks.t SET l = l + [3] WHERE k = 1"]).await;
    bed.kill_agent().await;
    let deadline = Instant::now() + Duration::from_secs(10);
    while lives(second.jvm_pid.unwrap()) {
        assert!(Instant::now() < deadline, "Cassandra outlives its agent");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bed.start_agent();
    let third = bed.until("the agent is up", |_| true).await;
    assert!(third.dirty && third.jvm == Jvm::Stopped);
    assert_eq!(store.start().await.unwrap_err().code(), Some(Code::Dirty));
    // No restore point: empty at 0.
    assert_eq!(store.rewind(Rewind::Latest).await.unwrap().manifest, None);
    assert!(
        lines(&bed.cql().await, "SELECT JSON keyspace_name FROM system_schema.keyspaces WHERE keyspace_name = 'ks'")
            .await
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_a_clean_store_past_the_log_voids_its_mark() {
    let mut bed = Bed::new().await;
    bed.start_agent();
    let generation = bed.running().await.generation;
    let store = bed.store(10);
    let session = bed.cql().await;
    let change = |refused: StoreError| match refused.code() {
        Some(Code::Dirty) => refused.to_string(),
        other => panic!("{other:?}: {refused}"),
    };
    // Empty at index 0 is a known state, too.
    run(&session, &[KEYSPACE, "CREATE TABLE ks.t (k int PRIMARY KEY)"]).await;
    assert!(change(store.clear_clean().await.unwrap_err()).contains("ks.t was created"));
    for (done, found) in [
        ("SELECT * FROM ks.t", None),
        ("TRUNCATE ks.t", Some("ks.t was truncated")),
        ("TRUNCATE ks.t", Some("ks.t was truncated")),
        ("ALTER TABLE ks.t ADD v int", Some("schema was changed")),
        ("DROP TABLE ks.t", Some("ks.t was dropped")),
    ] {
        store.mark_clean(generation, mark(1)).await.unwrap();
        run(&session, &[done]).await;
        match (store.clear_clean().await, found) {
            (Ok(_), None) => {}
            (Err(refused), Some(found)) => assert!(change(refused).contains(found), "{done}"),
            (other, _) => panic!("{done}: {other:?}"),
        }
        let status = store.status().await.unwrap();
        assert!(status.dirty && status.clean.is_none());
        // Nothing is left to compare, and it stays dirty.
        store.clear_clean().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_a_mark_of_a_generation_is_dirty_too() {
    let mut bed = Bed::new().await;
    bed.start_agent();
    let status = bed.running().await;
    let store = bed.store(10);
    store.mark_clean(status.generation, mark(3)).await.unwrap();
    common::signal_pid(status.jvm_pid.unwrap(), SIGKILL);
    let status = bed.until("the end is seen", |s| matches!(s.jvm, Jvm::Failed { .. })).await;
    assert!(status.dirty && status.clean.is_none());
    assert!(!exists(&bed.path("agent/clean.json")));
    let rewound = store.rewind(Rewind::Latest).await.unwrap();
    store.mark_clean(rewound.generation, mark(4)).await.unwrap();
    bed.kill_agent().await;
    bed.start_agent();
    let status = bed.until("the agent is up", |_| true).await;
    assert!(status.dirty && status.jvm == Jvm::Stopped && status.clean.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_incarnation_changes_nothing() {
    let mut bed = Bed::new().await;
    bed.start_agent();
    let status = bed.running().await;
    let (old, new) = (bed.store(10), bed.store(11));
    let generation = old.claim().await.unwrap().generation;
    old.snapshot("of-old", generation, None).await.unwrap();
    new.claim().await.unwrap();
    for (call, result) in [
        ("claim", old.claim().await.map(drop)),
        ("start", old.start().await.map(drop)),
        ("flush", old.flush().await.map(drop)),
        ("snapshot", old.snapshot("x", generation, None).await.map(drop)),
        ("commit", old.commit("of-old", mark(1)).await.map(drop)),
        ("abort", old.abort("of-old").await.map(drop)),
        ("rewind", old.rewind(Rewind::Latest).await.map(drop)),
        ("mark", old.mark_clean(generation, mark(1)).await.map(drop)),
        ("clear", old.clear_clean().await.map(drop)),
        ("autocompaction", old.autocompaction(true, None).await.map(drop)),
        ("now", old.cassandra_now().await.map(drop)),
    ] {
        assert_eq!(result.unwrap_err().code(), Some(Code::StaleIncarnation), "{call}");
    }
    // Nor may the new one commit what the old one took.
    assert_eq!(new.commit("of-old", mark(1)).await.unwrap_err().code(), Some(Code::UnknownRestorePoint));
    assert_eq!(bed.store(0).status().await.unwrap().generation, status.generation);
    // Another log's numbers are smaller, and mean nothing. With nothing kept here, the store just becomes that log's.
    let (other, again) = (bed.store_of(uuid::Uuid::from_u128(4), 2), bed.store(12));
    other.claim().await.unwrap();
    again.claim().await.unwrap();
    again.snapshot("kept", generation, None).await.unwrap();
    again.commit("kept", mark(1)).await.unwrap();
    for (call, result) in [
        ("claim", other.claim().await.map(drop)),
        ("start", other.start().await.map(drop)),
        ("rewind", other.rewind(Rewind::Latest).await.map(drop)),
        ("mark", other.mark_clean(generation, mark(1)).await.map(drop)),
    ] {
        let error = result.unwrap_err();
        let text = error.to_string();
        let (ours, theirs) = (LOG.to_string(), uuid::Uuid::from_u128(4).to_string());
        assert!(error.is_of_another_log() && text.contains(&ours) && text.contains(&theirs), "{call}: {text}");
    }
    assert!(old.claim().await.unwrap_err().is_stale());
    // Remembered beyond the agent's life.
    bed.kill_agent().await;
    bed.start_agent();
    bed.until("the agent is up", |s| s.highest_incarnation == Some(12) && s.log_id == Some(LOG)).await;
    assert!(old.claim().await.unwrap_err().is_stale());
    assert!(!exists(&bed.path("agent/restore-points/of-old")), "uncommitted trees are deleted at start");

    let plain = reqwest::Client::new();
    for path in ["/v1/status", "/v1/rewind"] {
        let get = plain.get(bed.url(path)).send().await.unwrap().status();
        let post = plain.post(bed.url(path)).bearer_auth("wrong").json(&Rewind::Latest).send().await.unwrap().status();
        assert!(!get.is_success() && !post.is_success(), "{path}: {get} {post}");
    }
    assert!(plain.get(bed.url("/livez")).send().await.unwrap().status().is_success());
    assert!(!plain.get(bed.url("/readyz")).send().await.unwrap().status().is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_labelled_once_and_old_restore_points_go() {
    let mut bed = Bed::new().await;
    bed.start_agent();
    let generation = bed.running().await.generation;
    let store = bed.store(10);
    assert!(reqwest::get(bed.url("/readyz")).await.unwrap().status().is_success());
    // An abort that overtakes its snapshot wins.
    store.abort("late").await.unwrap();
    assert_eq!(code(store.snapshot("late", generation, None).await), Some(Code::UnknownRestorePoint));
    assert_eq!(code(store.snapshot("../x", generation, None).await), Some(Code::BadRequest));
    assert_eq!(code(store.snapshot("a", generation + 1, None).await), Some(Code::WrongGeneration));
    store.snapshot("a", generation, None).await.unwrap();
    store.abort("a").await.unwrap();
    assert!(!exists(&bed.path("agent/restore-points/a")));
    assert_eq!(store.commit("a", mark(1)).await.unwrap_err().code(), Some(Code::UnknownRestorePoint));
    // A second snapshot replaces the first.
    store.snapshot("b", generation, None).await.unwrap();
    store.snapshot("c", generation, None).await.unwrap();
    assert_eq!(store.commit("b", mark(1)).await.unwrap_err().code(), Some(Code::UnknownRestorePoint));
    for (id, index) in [("c", 1), ("d", 2), ("e", 3)] {
        if id != "c" {
            store.snapshot(id, generation, None).await.unwrap();
        }
        store.commit(id, mark(index)).await.unwrap();
    }
    assert_eq!(code(store.abort("e").await), Some(Code::BadRequest));
    let status = store.status().await.unwrap();
    assert_eq!(status.restore_points.iter().map(|p| p.index).collect::<Vec<_>>(), [2, 3]);
    assert!(!exists(&bed.path("agent/restore-points/c")));

    // Compaction: off at start, switched by table and for all.
    let session = bed.cql().await;
    run(&session, &[KEYSPACE, "CREATE TABLE ks.t (k int PRIMARY KEY)"]).await;
    let table = Table { keyspace: "ks".into(), table: "t".into() };
    store.autocompaction(false, Some(vec![table])).await.unwrap();
    store.autocompaction(true, None).await.unwrap();
    let unknown = Table { keyspace: "ks".into(), table: "nowhere".into() };
    assert_eq!(code(store.autocompaction(false, Some(vec![unknown])).await), Some(Code::Failed));

    // Damage: the older restore point is taken; with both damaged, none, and the data stays as it is.
    let victim = |id: &str| {
        let tree = bed.path(&format!("agent/restore-points/{id}/data/system"));
        std::fs::remove_dir_all(tree).unwrap();
    };
    victim("e");
    let rewound = store.rewind(Rewind::Latest).await.unwrap();
    assert_eq!(rewound.manifest.unwrap().mark.index, 2);
    victim("d");
    assert_eq!(code(store.rewind(Rewind::Latest).await), Some(Code::Damaged));
    assert_eq!(store.status().await.unwrap().jvm, Jvm::Running);
    // For a store of another log.
    assert_eq!(store.rewind(Rewind::Empty).await.unwrap().manifest, None);
    assert!(store.status().await.unwrap().restore_points.is_empty());
}

/// Starts the agent, and makes the restore points `a` and `b`, each with a row more in `ks.t`, at the index of that row's key.
async fn with_restore_points(bed: &mut Bed) -> Store {
    bed.start_agent();
    let generation = bed.running().await.generation;
    let store = bed.store(10);
    store.clear_clean().await.unwrap();
    let session = bed.cql().await;
    run(&session, &[KEYSPACE, "CREATE TABLE ks.t (k int PRIMARY KEY)"]).await;
    for (id, index) in [("a", 1), ("b", 2)] {
        run(&session, &[&format!("INSERT INTO ks.t (k) VALUES ({index})")]).await;
        store.flush().await.unwrap();
        store.snapshot(id, generation, None).await.unwrap();
        store.commit(id, mark(index)).await.unwrap();
    }
    drop(session);
    store
}

/// A file of one restore point that another one does not have.
fn file_of_its_own(one: &std::path::Path, other: &std::path::Path) -> std::path::PathBuf {
    let walk = |folder: std::path::PathBuf| std::fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path());
    let tables = walk(one.join("data/ks"));
    let data = |file: &std::path::PathBuf| file.to_str().is_some_and(|name| name.ends_with("-Data.db"));
    let absent = |file: &std::path::PathBuf| !exists(&other.join(file.strip_prefix(one).unwrap()));
    tables.flat_map(walk).find(|file| data(file) && absent(file)).expect("a data file of its own")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_newest_restore_point_is_named_and_the_older_one_is_put_back() {
    let mut bed = Bed::new().await;
    let store = with_restore_points(&mut bed).await;
    let [a, b] = ["a", "b"].map(|id| bed.path(&format!("agent/restore-points/{id}")));
    let victim = file_of_its_own(&b, &a);
    let mut bytes = std::fs::read(&victim).unwrap();
    bytes[0] ^= 1;
    // In place, as a disk does it: the size stays.
    std::fs::write(&victim, bytes).unwrap();
    let rewound = store.rewind(Rewind::Latest).await.unwrap();
    assert_eq!(rewound.manifest.unwrap().mark.index, 1);
    assert_eq!(lines(&bed.cql().await, "SELECT JSON k FROM ks.t").await, ["{\"k\": 1}"]);
    let damaged = store.status().await.unwrap().damaged;
    let name = victim.file_name().unwrap().to_str().unwrap();
    assert!(damaged.len() == 1 && damaged[0].id == "b" && damaged[0].detail.contains(name), "{damaged:?}");
    assert!(bed.whole_log().contains("restore point b is damaged"));
    // It does not count among the two that are kept.
    store.snapshot("c", rewound.generation, None).await.unwrap();
    store.commit("c", mark(3)).await.unwrap();
    let status = bed.until("the damaged one goes", |status| status.damaged.is_empty()).await;
    assert_eq!(status.restore_points.iter().map(|p| p.index).collect::<Vec<_>>(), [1, 3]);
    assert!(!exists(&b));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_and_a_mark_that_can_not_be_understood_do_not_keep_the_agent_from_starting() {
    let mut bed = Bed::new().await;
    with_restore_points(&mut bed).await;
    bed.kill_agent().await;
    std::fs::write(bed.path("agent/clean.json"), "{").unwrap();
    std::fs::write(bed.path("agent/restore-points/b/manifest.json"), [0; 100]).unwrap();
    bed.start_agent();
    let status = bed.until("it waits for the replica", |status| status.dirty).await;
    assert_eq!(status.restore_points.iter().map(|p| p.id.as_str()).collect::<Vec<_>>(), ["a"]);
    assert!(status.damaged.len() == 1 && status.damaged[0].id == "b", "{status:?}");
    assert!(bed.whole_log().contains("restore point b is damaged: its manifest.json can't be understood"));
    let store = bed.store(11);
    assert_eq!(code(store.rewind(Rewind::RestorePoint { id: "b".into() }).await), Some(Code::Damaged));
    let rewound = store.rewind(Rewind::Latest).await.unwrap();
    assert_eq!(rewound.manifest.unwrap().mark.index, 1);
    assert_eq!(lines(&bed.cql().await, "SELECT JSON k FROM ks.t").await, ["{\"k\": 1}"]);
    store.snapshot("c", rewound.generation, None).await.unwrap();
    store.commit("c", mark(3)).await.unwrap();
    bed.until("what can't be read goes", |status| status.damaged.is_empty()).await;
    assert!(!exists(&bed.path("agent/restore-points/b")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_cassandra_is_ended_and_can_be_rewound() {
    let mut bed = Bed::new().await;
    bed.start_agent_with(&["--hang-limit", "4"]);
    let status = bed.running().await;
    let store = bed.store(10);
    store.clear_clean().await.unwrap();
    let pid = status.jvm_pid.unwrap();
    common::signal_pid(pid, SIGSTOP);
    // A call that waits for the hung JVM holds the lock.
    let flushing = tokio::spawn({
        let store = store.clone();
        async move { store.flush().await }
    });
    let start = Instant::now();
    let status = bed.until("the hang is seen", |s| matches!(s.jvm, Jvm::Failed { .. })).await;
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert!(matches!(&status.jvm, Jvm::Failed { detail } if detail.contains("hangs")), "{status:?}");
    assert!(!lives(pid) && status.dirty);
    assert!(matches!(code(flushing.await.unwrap()), Some(Code::Failed | Code::Timeout)));
    let rewound = store.rewind(Rewind::Latest).await.unwrap();
    assert_eq!(bed.running().await.generation, rewound.generation);
}

/// As a replica that lives does: it sees the stop, drains, marks.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_agent_waits_for_the_mark_of_a_live_replica_and_admits_nothing_else() {
    let mut bed = Bed::new().await;
    bed.start_agent();
    let generation = bed.running().await.generation;
    let (store, old) = (bed.store(10), bed.store(9));
    store.clear_clean().await.unwrap();
    let session = bed.cql().await;
    run(&session, &[KEYSPACE, "CREATE TABLE ks.t (k int PRIMARY KEY)", "INSERT INTO ks.t (k) VALUES (1)"]).await;
    drop(session);
    bed.signal_agent(SIGTERM);
    while !store.status().await.unwrap().stopping {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(code(store.flush().await), Some(Code::Stopping));
    assert_eq!(code(store.clear_clean().await), Some(Code::Stopping));
    assert_eq!(code(store.rewind(Rewind::Latest).await), Some(Code::Stopping));
    assert_eq!(old.mark_clean(generation, mark(1)).await.unwrap_err().code(), Some(Code::StaleIncarnation));
    store.abort("x").await.unwrap();
    store.mark_clean(generation, mark(7)).await.unwrap();
    assert!(bed.agent_ended().await.success());
    bed.start_agent();
    let status = bed.running().await;
    assert_eq!(status.clean.unwrap().manifest.unwrap().mark, mark(7));
    assert_eq!(lines(&bed.cql().await, "SELECT JSON k FROM ks.t").await, ["{\"k\": 1}"]);

    // Nobody who could drain: it does not wait.
    store.clear_clean().await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    let start = Instant::now();
    bed.signal_agent(SIGTERM);
    assert!(bed.agent_ended().await.success());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
