//! The whole core over a log and stores that fail on demand: proposers, state, lanes, recovery, restore points.
//!
//! Goal: whatever crashes, all replicas end equal (I1), every acknowledged write is there (I2) exactly once (I3), and
//! what was refused is not. Time is simulated; `SIMULATION_SEED` repeats a run, `SIMULATION_RUNS` makes more.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod model;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use model::cluster::history::{request, simulate};
use model::cluster::{Cluster, Report};
use rand::SeedableRng;
use rand::rngs::StdRng;
use replicateddb_ordering::{OrderedLog, Position};
use replicateddb_replica::record::{Values, flags};
use replicateddb_replica::replica::{ProposeError, Request, RequestKind, Serving, StatementText};

/// Histories of a run, each of its own seed.
const RUNS: u64 = 10_000;
/// Those that are run twice, to be the same (`SIMULATION_TWICE`).
const TWICE: u64 = 100;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs these seeds on all processors; what happened in all of them.
fn run_all(seeds: std::ops::Range<u64>) -> Report {
    let (next, sum) = (AtomicU64::new(seeds.start), Mutex::new(Report::default()));
    let worker = || {
        let mut own = Report::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let run = std::panic::catch_unwind(|| simulate(seed)).unwrap_or_else(|panic| {
                next.store(seeds.end, Ordering::Relaxed);
                eprintln!(
                    "again: SIMULATION_SEED={seed} cargo test -p replicateddb-replica --test simulation whatever"
                );
                std::panic::resume_unwind(panic)
            });
            own = sum_of(own, run);
        }
        let mut sum = sum.lock().unwrap();
        *sum = sum_of(*sum, own);
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(worker))));
    sum.into_inner().unwrap()
}

fn sum_of(a: Report, b: Report) -> Report {
    Report {
        acknowledged: a.acknowledged + b.acknowledged,
        refused: a.refused + b.refused,
        unknown: a.unknown + b.unknown,
        reads: a.reads + b.reads,
        rewinds: a.rewinds + b.rewinds,
        clean_starts: a.clean_starts + b.clean_starts,
        restore_points: a.restore_points + b.restore_points,
        truncated: a.truncated + b.truncated,
        installs: a.installs + b.installs,
        asked: a.asked + b.asked,
        skipped: a.skipped + b.skipped,
        full: a.full + b.full,
        trace: a.trace ^ b.trace,
    }
}

/// I1, I2, I3, I4, I5, I6, I10.
#[test]
fn whatever_crashes_all_end_equal() {
    let first = number("SIMULATION_SEED");
    let runs = number("SIMULATION_RUNS").unwrap_or(RUNS);
    let seeds = first.map_or(0..runs, |seed| seed..seed + 1);
    let report = run_all(seeds.clone());
    eprintln!("{} histories: {report:?}", seeds.end - seeds.start);
    if first.is_none() {
        // All that is meant to happen does.
        let Report { acknowledged, refused, unknown, reads, rewinds, clean_starts, restore_points, .. } = report;
        for (what, count, at_least) in [
            ("acknowledged", acknowledged, 50),
            ("reads", reads, 5),
            ("rewinds", rewinds, 1),
            ("restore points", restore_points, 1),
        ] {
            assert!(count >= at_least * runs, "only {count} {what} in {runs} histories");
        }
        assert!(refused > 0 && unknown > 0 && clean_starts > 0, "{report:?}");
        assert!(report.skipped > runs / 30 && report.full > runs / 30, "{report:?}");
        assert!(report.truncated > runs / 2 && report.installs > runs / 50, "{report:?}");
    }
}

#[test]
fn a_seed_is_one_history() {
    let differ: Vec<u64> =
        (0..number("SIMULATION_TWICE").unwrap_or(TWICE)).filter(|seed| simulate(*seed) != simulate(*seed)).collect();
    assert!(differ.is_empty(), "these seeds are not the same history again: {differ:?}");
}

/// I1, I5, I10: a store that differs from the others' serves nobody again, whenever its replica dies after it was told.
#[tokio::test(start_paused = true)]
async fn what_is_to_be_built_anew_serves_nobody_after_a_crash() {
    const STEP: Duration = Duration::from_millis(25);
    const LAST: u32 = 120;
    for crash in (0..LAST).step_by(3) {
        let cluster = Cluster::new(u64::from(crash));
        for n in 0..2 {
            cluster.start(n);
        }
        cluster.settle_on(0..2).await;
        let mut random = StdRng::seed_from_u64(u64::from(crash));
        // The log is given up in part in every other round: then another replica's restore point is what is left.
        for n in 0..if crash % 2 == 0 { 20 } else { 600 } {
            let _ = cluster.handle(0).unwrap().propose(request(&mut random, &format!("{n}"))).await;
        }
        cluster.stores[1].corrupt();
        cluster.handle(1).unwrap().rebuild("it differs").await.unwrap();
        tokio::time::sleep(STEP * crash).await;
        // With it goes all that it knew.
        cluster.handles[1].lock().unwrap().take();
        cluster.start(1);
        cluster.settle_on(0..2).await;
        assert_eq!(
            cluster.stores[1].data(),
            cluster.stores[0].data(),
            "I1: killed {:?} after it was told",
            STEP * crash
        );
    }
}

/// I2: what a store holds that is to be built anew is no copy of the log's beginning, and the log says so: at once, and if
/// the replica died before that, when it is there again. Here there is nobody to take anything over from.
#[tokio::test(start_paused = true)]
async fn what_is_to_be_built_anew_is_on_no_volume() {
    const LIMIT: Duration = Duration::from_secs(600);
    const STEP: Duration = Duration::from_millis(10);
    for crash in [false, true] {
        let cluster = Cluster::new(8);
        for n in 0..2 {
            cluster.start(n);
        }
        cluster.settle_on(0..2).await;
        let (log, _) = cluster.log.open(9);
        let published = async || log.published().await.unwrap().into_iter().find(|one| one.replica == 1);
        let mut random = StdRng::seed_from_u64(8);
        let given_up = async {
            for n in 0u32.. {
                if log.first().await.unwrap() > Position::START && published().await.is_some_and(|one| one.durable) {
                    break;
                }
                let _ = cluster.handle(0).unwrap().propose(request(&mut random, &format!("{n}"))).await;
                tokio::time::sleep(STEP).await;
            }
        };
        tokio::time::timeout(LIMIT, given_up).await.expect("the log is given up in part");
        cluster.handles[0].lock().unwrap().take();
        cluster.stores[0].lose_volume();
        cluster.handle(1).unwrap().rebuild("it differs").await.unwrap();
        if crash {
            cluster.handles[1].lock().unwrap().take();
            assert!(published().await.unwrap().durable, "not the case in point");
            cluster.start(1);
        }
        let retracted = async {
            while published().await.unwrap().durable {
                tokio::time::sleep(STEP).await;
            }
        };
        tokio::time::timeout(LIMIT, retracted).await.expect("it is on no volume");
        assert!(published().await.unwrap().needs >= log.first().await.unwrap(), "and the log is kept for it");
    }
}

#[tokio::test(start_paused = true)]
async fn a_graceful_stop_needs_no_rewind() {
    let cluster = Cluster::new(1);
    cluster.start(0);
    let serve = async || {
        let handle = cluster.handle(0).unwrap();
        handle.serving().wait_for(|s| matches!(s, Serving::Yes { .. })).await.unwrap();
        handle
    };
    let ddl = |text: &str| Request {
        kind: RequestKind::Ddl,
        keyspace: None,
        statements: vec![StatementText { text: text.into(), values: Values::none() }],
        flags: 0,
    };
    let handle = serve().await;
    assert_eq!(handle.propose(ddl("CREATE t0")).await.unwrap().opcode, 8);
    assert_eq!(handle.propose(ddl("CREATE t0")).await.unwrap().opcode, 0, "an error is a result, too");
    let (schema, data) = (*handle.schema().borrow(), cluster.stores[0].data());
    cluster.handles[0].lock().unwrap().take();
    assert!(handle.stop().await.starts_with("stopped cleanly"), "a clean stop");
    cluster.start(0);
    let handle = serve().await;
    assert_eq!((cluster.stores[0].rewinds(), cluster.stores[0].starts_without_rewind()), (0, 1));
    assert_eq!((*handle.schema().borrow(), cluster.stores[0].data()), (schema, data));
    assert!(!handle.status().replay.unwrap().rewound);
    // The mark is gone: a crash now rewinds.
    cluster.handles[0].lock().unwrap().take();
    drop(handle);
    cluster.start(0);
    serve().await;
    assert_eq!(cluster.stores[0].rewinds(), 1);
}

/// The snapshot fixes the state: what is applied while it is committed is not in it, and replayed.
#[tokio::test(start_paused = true)]
async fn records_are_applied_while_a_restore_point_is_committed() {
    let cluster = Cluster::new(5);
    let store = &cluster.stores[0];
    store.set_commit_ms(1_500_000);
    cluster.start(0);
    let handle = cluster.handle(0).unwrap();
    handle.serving().wait_for(|s| matches!(s, Serving::Yes { .. })).await.unwrap();
    let write = async |value: &str| {
        let text = format!("APPEND l {value}");
        let statements = vec![StatementText { text, values: Values::none() }];
        let request = Request { kind: RequestKind::Dml, keyspace: None, statements, flags: flags::NOT_REPEATABLE };
        handle.propose(request).await.unwrap().index
    };
    let index = write("before").await;
    let asked = tokio::spawn({
        let handle = handle.clone();
        async move { handle.restore_point().await }
    });
    while store.uncommitted() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let started = tokio::time::Instant::now();
    for n in 0..100 {
        write(&format!("while {n}")).await;
    }
    assert!(started.elapsed() < Duration::from_secs(60) && !asked.is_finished(), "{:?}", started.elapsed());
    let made = asked.await.unwrap().unwrap();
    assert!(made >= index, "{made}");
    let before = store.data();
    store.kill_jvm();
    handle.serving().wait_for(|s| matches!(s, Serving::No { .. })).await.unwrap();
    handle.serving().wait_for(|s| matches!(s, Serving::Yes { .. })).await.unwrap();
    let replay = handle.status().replay.unwrap();
    assert_eq!(replay.restore_point, Some(made));
    assert!(replay.records >= 100, "{replay:?}");
    assert_eq!(store.data(), before);
}

/// A Cassandra pod is deleted, its replica stays.
#[tokio::test(start_paused = true)]
async fn a_graceful_restart_of_the_agent_needs_no_rewind() {
    let cluster = Arc::new(Cluster::new(4));
    cluster.start(0);
    let handle = cluster.handle(0).unwrap();
    let served = async || {
        handle.serving().wait_for(|s| matches!(s, Serving::Yes { .. })).await.unwrap();
    };
    served().await;
    let write = |value: &str| Request {
        kind: RequestKind::Dml,
        keyspace: None,
        statements: vec![StatementText { text: format!("APPEND l {value}"), values: Values::none() }],
        flags: flags::NOT_REPEATABLE,
    };
    for round in 1..=3 {
        assert_eq!(handle.propose(write(&format!("a{round}"))).await.unwrap().opcode, 8);
        // One is on its way: it is answered before the drain, or refused.
        let late = {
            let (handle, request) = (handle.clone(), write(&format!("b{round}")));
            tokio::spawn(async move { handle.propose(request).await })
        };
        cluster.stores[0].restart_agent().await;
        served().await;
        assert_eq!(late.await.unwrap().unwrap().opcode, 8);
        assert_eq!((cluster.stores[0].rewinds(), cluster.stores[0].starts_without_rewind()), (0, round));
        assert!(!handle.status().replay.unwrap().rewound);
    }
    let list = cluster.stores[0].data().lists["l"].clone();
    assert_eq!(list, ["a1", "b1", "a2", "b2", "a3", "b3"]);
}

#[tokio::test(start_paused = true)]
async fn i6_a_fenced_replica_stops_serving_and_says_why() {
    let cluster = Cluster::new(2);
    cluster.start(0);
    let old = cluster.handle(0).unwrap();
    old.serving().wait_for(|s| matches!(s, Serving::Yes { .. })).await.unwrap();
    let (newer, _) = cluster.log.open(0);
    assert!(newer.log_id() == newer.log_id());
    let error = old.propose(request(&mut StdRng::seed_from_u64(0), "v")).await.unwrap_err();
    assert!(matches!(error, ProposeError::NotServing { .. }), "{error:?}");
    assert!(old.finished().await.contains("taken over"));
    assert!(matches!(*old.serving().borrow(), Serving::No { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_away_is_a_bounded_wait_and_nothing_is_written() {
    let cluster = Cluster::new(3);
    cluster.start(0);
    let handle = cluster.handle(0).unwrap();
    handle.serving().wait_for(|s| matches!(s, Serving::Yes { .. })).await.unwrap();
    cluster.log.set_available(false);
    let before = tokio::time::Instant::now();
    let append = |value: &str| Request {
        kind: RequestKind::Dml,
        keyspace: None,
        statements: vec![StatementText { text: format!("APPEND l {value}"), values: Values::none() }],
        flags: flags::NOT_REPEATABLE,
    };
    let error = handle.propose(append("a")).await.unwrap_err();
    assert!(matches!(error, ProposeError::Unavailable { .. }), "{error:?}");
    assert!(before.elapsed() < Duration::from_secs(7));
    // Several may not even be proposed: certainly not written.
    let waiting: Vec<_> = (0..20)
        .map(|n| {
            let (handle, request) = (handle.clone(), append(&format!("b{n}")));
            tokio::spawn(async move { handle.propose(request).await })
        })
        .collect();
    let mut certain = 0;
    for answer in waiting {
        let error = answer.await.unwrap().unwrap_err();
        certain += u32::from(matches!(error, ProposeError::Unavailable { maybe_written: false, .. }));
    }
    assert!(certain > 0);
    cluster.log.set_available(true);
    assert_eq!(handle.propose(append("c")).await.unwrap().opcode, 8);
    let list = cluster.stores[0].data().lists["l"].clone();
    assert_eq!(list.iter().filter(|v| *v == "c").count(), 1);
    assert!(list.len() <= 21 - certain as usize);
}
