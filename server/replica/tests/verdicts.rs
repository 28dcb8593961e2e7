//! Records that Cassandra fails to execute with an error that may be anything's: they are tried for ever until every replica
//! has complained of the same, and then skipped by all. Over a log and stores in memory, in simulated time.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod model;

use std::sync::Arc;
use std::time::Duration;

use model::cluster::{COMPLAIN_AFTER, Cluster, is_skipped};
use replicateddb_replica::record::{Entry, RecordKind, Values, flags};
use replicateddb_replica::replica::{Outcome, Request, RequestKind, Serving, StatementText};
use replicateddb_replica::verdict::Complaint;

const LIMIT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(20);

fn dml(text: &str) -> Request {
    let flags = if text.starts_with("APPEND") { flags::NOT_REPEATABLE } else { 0 };
    let kind = if text.starts_with("CREATE") { RequestKind::Ddl } else { RequestKind::Dml };
    let statements = vec![StatementText { text: text.into(), values: Values::none() }];
    Request { kind, keyspace: None, statements, flags }
}

async fn ask(cluster: &Cluster, replica: u32, text: &str) -> Outcome {
    let handle = cluster.handle(replica).unwrap();
    let answer = tokio::time::timeout(LIMIT, handle.propose(dml(text))).await;
    answer.unwrap_or_else(|_| panic!("{text}: {:?}", handle.status())).unwrap()
}

/// Asked in a task of its own, for it takes long.
fn asked(cluster: &Arc<Cluster>, replica: u32, text: &str) -> tokio::task::JoinHandle<Outcome> {
    let (cluster, text) = (cluster.clone(), text.to_owned());
    tokio::spawn(async move { ask(&cluster, replica, &text).await })
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waited = async {
        while !is() {
            tokio::time::sleep(POLL).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, waited).await.is_ok(), "{what}");
}

/// What stands in the log of complaints: by whom, and whether it takes one back.
fn complaints(cluster: &Cluster) -> Vec<(u32, bool)> {
    let entries = cluster.log.entries().into_iter().map(|committed| Entry::decode(committed.entry).unwrap());
    let of_entry = |entry: Entry| {
        let complaints = entry.records.into_iter().filter(|record| record.kind == RecordKind::Complaint);
        complaints
            .map(move |record| (entry.origin, Complaint::of(&record).unwrap().failure.is_none()))
            .collect::<Vec<_>>()
    };
    entries.flat_map(of_entry).collect()
}

fn conditions(cluster: &Cluster, replica: u32) -> String {
    cluster.handle(replica).unwrap().status().conditions.join("\n")
}

/// Replicas that serve, with a table.
async fn serving(seed: u64) -> Arc<Cluster> {
    let cluster = Arc::new(Cluster::new(seed));
    for n in 0..3 {
        cluster.start(n);
    }
    cluster.settle_on(0..3).await;
    assert_eq!(ask(&cluster, 0, "CREATE t0").await.opcode, 8);
    cluster
}

/// I1: all hold the same, and serve.
async fn all_equal(cluster: &Cluster) {
    cluster.settle_on(0..3).await;
    for n in 1..3 {
        assert_eq!(cluster.stores[n].data(), cluster.stores[0].data(), "I1: replica {n}");
    }
}

fn holds(cluster: &Cluster, replica: usize, value: &str) -> bool {
    let data = cluster.stores[replica].data();
    data.rows.keys().any(|(_, of)| of == value) || data.lists.values().flatten().any(|of| of == value)
}

#[tokio::test(start_paused = true)]
async fn what_every_replica_fails_to_execute_is_skipped_by_all() {
    for text in ["PUT t0 0 poison-1", "APPEND l0 poison-1"] {
        let cluster = serving(11).await;
        let started = tokio::time::Instant::now();
        let skipped = ask(&cluster, 1, text).await;
        assert!(skipped.opcode == 0 && is_skipped(&skipped), "{skipped:?}");
        assert!(started.elapsed() >= COMPLAIN_AFTER, "{:?}", started.elapsed());
        // Whoever has answered has rewound; the others may be at it.
        all_equal(&cluster).await;
        assert_eq!(ask(&cluster, 0, "PUT t0 0 next").await.opcode, 8);
        all_equal(&cluster).await;
        assert!(!holds(&cluster, 0, "poison-1") && holds(&cluster, 0, "next"), "{text}");
        assert!(!conditions(&cluster, 0).contains("fails"), "{}", conditions(&cluster, 0));
        // A replica that replays it finds the verdict again, wherever it has to begin, and knowing nothing.
        for volume in [false, true] {
            cluster.handles[2].lock().unwrap().take();
            if volume {
                cluster.stores[2].lose_volume()
            } else {
                cluster.stores[2].kill_jvm()
            }
            cluster.start(2);
            all_equal(&cluster).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_replica_that_fails_waits_for_all_and_takes_its_complaint_back() {
    let cluster = serving(12).await;
    cluster.stores[0].refuse("x", true);
    // Its own client waits; the others have it.
    let answer = asked(&cluster, 0, "PUT t0 0 x");
    until("the others have it", || holds(&cluster, 1, "x") && holds(&cluster, 2, "x")).await;
    until("it complains", || complaints(&cluster) == [(0, false)]).await;
    let text = "waiting for the same failure on replicas 1, 2 before it is skipped";
    until("it says so", || conditions(&cluster, 0).contains(text)).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(ask(&cluster, 1, "PUT t0 1 y").await.opcode, 8, "the others go on");
    assert!(!answer.is_finished());
    cluster.stores[0].refuse("x", false);
    assert_eq!(answer.await.unwrap().opcode, 8);
    assert_eq!(complaints(&cluster), [(0, false), (0, true)]);
    all_equal(&cluster).await;
    assert!(holds(&cluster, 0, "x"));
    assert!(!conditions(&cluster, 0).contains("fails"), "{}", conditions(&cluster, 0));
}

/// It has executed the record, and its restore points are behind it: it takes over another one's, or builds all anew.
#[tokio::test(start_paused = true)]
async fn a_replica_that_was_away_and_has_executed_it_is_built_anew() {
    for records in [0, 600] {
        let cluster = serving(13).await;
        for n in 0..records {
            assert_eq!(ask(&cluster, 2, &format!("PUT t0 1 {n}")).await.opcode, 8);
        }
        for n in 0..2 {
            cluster.stores[n].refuse("x", true);
        }
        let answer = asked(&cluster, 0, "PUT t0 0 x");
        until("the third has it", || holds(&cluster, 2, "x")).await;
        cluster.handle(2).unwrap().restore_point().await.unwrap();
        cluster.handles[2].lock().unwrap().take();
        let gone = tokio::time::Instant::now();
        until("two complain", || complaints(&cluster).len() >= 2).await;
        let skipped = answer.await.unwrap();
        assert!(is_skipped(&skipped), "{skipped:?}");
        assert!(gone.elapsed() > Duration::from_secs(15), "it was waited for: {:?}", gone.elapsed());
        cluster.start(2);
        all_equal(&cluster).await;
        assert!(!holds(&cluster, 2, "x"));
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_decides_alone() {
    let cluster = serving(14).await;
    for n in 1..3 {
        cluster.handles[n].lock().unwrap().take();
    }
    let answer = asked(&cluster, 0, "PUT t0 0 poison-1");
    let text = "waiting for the same failure on more than half of all replicas";
    until("the others are excused", || conditions(&cluster, 0).contains(text)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!answer.is_finished());
    cluster.start(1);
    assert!(is_skipped(&answer.await.unwrap()));
    cluster.start(2);
    all_equal(&cluster).await;
}

/// A replica that was away meets three records in a row that all the others have skipped by then: it tries the first, and one
/// rewind does for all.
#[tokio::test(start_paused = true)]
async fn one_rewind_does_for_all_verdicts_there_are() {
    let cluster = serving(15).await;
    cluster.handles[2].lock().unwrap().take();
    for answer in [1, 2, 3].map(|n| asked(&cluster, 0, &format!("PUT t0 0 poison-{n}"))) {
        assert!(is_skipped(&answer.await.unwrap()));
    }
    let before = cluster.stores[2].rewinds();
    cluster.start(2);
    all_equal(&cluster).await;
    assert_eq!(cluster.stores[2].rewinds() - before, 2, "one at its start, one for the verdicts");
}

/// The same for one that has executed them, and was away for so long that the others went on without it.
#[tokio::test(start_paused = true)]
async fn one_rewind_does_for_all_verdicts_on_what_was_executed() {
    let cluster = serving(16).await;
    // No restore point of it comes to be behind them.
    cluster.stores[2].set_commit_ms(u32::MAX);
    for n in 0..2 {
        for value in ["x", "y", "z"] {
            cluster.stores[n].refuse(value, true);
        }
    }
    let answers = ["x", "y", "z"].map(|value| asked(&cluster, 0, &format!("PUT t0 0 {value}")));
    until("the third has them", || ["x", "y", "z"].iter().all(|value| holds(&cluster, 2, value))).await;
    let before = cluster.stores[2].rewinds();
    cluster.handles[2].lock().unwrap().take();
    for answer in answers {
        assert!(is_skipped(&answer.await.unwrap()));
    }
    cluster.stores[2].set_commit_ms(100);
    cluster.start(2);
    all_equal(&cluster).await;
    assert!(!holds(&cluster, 2, "x") && !holds(&cluster, 2, "z"));
    assert_eq!(cluster.stores[2].rewinds() - before, 2, "one at its start, one for the verdicts");
}

/// I2: a client was told that it is written. The others can't, and when the one that could is put back to before it, it fails
/// there, too: all wait, for that is not skipped, whether that replica's process has lived on or not.
#[tokio::test(start_paused = true)]
async fn what_a_client_was_told_is_never_skipped() {
    for dies in [false, true] {
        let cluster = serving(17).await;
        for n in 1..3 {
            cluster.stores[n].refuse("x", true);
        }
        // No restore point of it comes to be behind that.
        cluster.stores[0].set_commit_ms(u32::MAX);
        assert_eq!(ask(&cluster, 0, "PUT t0 0 x").await.opcode, 8);
        // It has made known what it has executed since.
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.stores[0].refuse("x", true);
        cluster.stores[0].kill_jvm();
        if dies {
            cluster.handles[0].lock().unwrap().take();
            cluster.start(0);
        }
        let text = "this replica has executed it before";
        until("it says why it waits", || conditions(&cluster, 0).contains(text)).await;
        tokio::time::sleep(COMPLAIN_AFTER * 10).await;
        assert!(complaints(&cluster).iter().all(|(of, _)| *of != 0), "dies: {dies}");
        assert!(conditions(&cluster, 1).contains("replicas 0 before it is skipped"), "{}", conditions(&cluster, 1));
        for store in &cluster.stores {
            store.refuse("x", false);
        }
        all_equal(&cluster).await;
        assert!(holds(&cluster, 0, "x"), "I2, dies: {dies}");
    }
}

/// I10: whenever one of them dies, with or without what its Cassandra held, all come to the same.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_time_changes_nothing() {
    const STEP: Duration = Duration::from_millis(200);
    for step in 0..60 {
        let cluster = serving(u64::from(step)).await;
        let kind = if step % 2 == 0 { "PUT t0 0" } else { "APPEND l0" };
        let answer = asked(&cluster, 0, &format!("{kind} poison-1"));
        let victim = step % 3;
        tokio::time::sleep(COMPLAIN_AFTER / 2 + STEP * step).await;
        match step % 4 {
            0 => cluster.stores[victim as usize].kill_jvm(),
            1 if victim != 0 => {
                cluster.handles[victim as usize].lock().unwrap().take();
                cluster.stores[victim as usize].lose_volume();
                cluster.start(victim);
            }
            _ if victim != 0 => {
                cluster.handles[victim as usize].lock().unwrap().take();
                cluster.start(victim);
            }
            _ => cluster.stores[victim as usize].restart_agent().await,
        }
        let skipped = answer.await.unwrap();
        assert!(is_skipped(&skipped), "step {step}: {skipped:?}");
        all_equal(&cluster).await;
        assert!(!holds(&cluster, 0, "poison-1"), "step {step}");
        let serving = cluster.handle(victim).unwrap().serving();
        assert!(matches!(*serving.borrow(), Serving::Yes { .. }));
    }
}
