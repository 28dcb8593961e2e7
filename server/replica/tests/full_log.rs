//! A log that is full because of replicas whose stores are dead: how long writes are refused, and what comes afterwards. Over a log
//! and stores in memory, in simulated time.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

mod model;

use std::time::Duration;

use model::cluster::{Cluster, PATIENCE};
use replicateddb_replica::record::Values;
use replicateddb_replica::replica::{Outcome, ProposeError, Request, RequestKind, StatementText};
use tokio::time::{Instant, sleep};

/// Between two writes.
const PAUSE: Duration = Duration::from_millis(50);
/// Ten times the model's `log_away_after`: who is there and stands still for so long is not waited for.
const STILL: Duration = Duration::from_secs(15);

async fn ask(cluster: &Cluster, text: &str) -> Result<Outcome, ProposeError> {
    let kind = if text.starts_with("CREATE") { RequestKind::Ddl } else { RequestKind::Dml };
    let statements = vec![StatementText { text: text.into(), values: Values::none() }];
    cluster.handle(0).unwrap().propose(Request { kind, keyspace: None, statements, flags: 0 }).await
}

async fn serving(seed: u64) -> Cluster {
    let cluster = Cluster::of_small_log(seed);
    for n in 0..3 {
        cluster.start(n);
    }
    cluster.settle_on(0..3).await;
    assert_eq!(ask(&cluster, "CREATE t0").await.unwrap().opcode, 8);
    cluster
}

/// Writes until one is refused because the log is full; how many were acknowledged.
async fn fill(cluster: &Cluster, name: &str) -> u32 {
    let began = Instant::now();
    for n in 0.. {
        match ask(cluster, &format!("PUT t0 0 {name}-{n}")).await {
            Ok(outcome) => assert_eq!(outcome.opcode, 8),
            Err(ProposeError::LogFull { .. }) => return n,
            Err(other) => panic!("{other}"),
        }
        assert!(began.elapsed() < PATIENCE, "the log does not get full");
        sleep(PAUSE).await;
    }
    unreachable!("the loop has no end of its own")
}

/// Tries until a write is taken again; how long that was.
async fn refused_for(cluster: &Cluster, value: &str) -> Duration {
    let began = Instant::now();
    while let Err(error) = ask(cluster, &format!("PUT t0 0 {value}")).await {
        assert!(matches!(error, ProposeError::LogFull { .. }), "{error}");
        assert!(began.elapsed() < PATIENCE, "writes are refused for good: {:?}", cluster.handle(0).unwrap().status());
        sleep(PAUSE).await;
    }
    began.elapsed()
}

fn holds(cluster: &Cluster, n: usize, value: &str) -> bool {
    cluster.stores[n].data().rows.contains_key(&("t0".to_owned(), value.to_owned()))
}

/// I7, I2: two replicas run, and their Cassandras do not. They are waited for, and not for ever; then the one that is whole goes on
/// alone, and whoever comes back has everything.
#[tokio::test(start_paused = true)]
async fn dead_cassandras_of_replicas_that_run_do_not_hold_the_log_for_ever() {
    let cluster = serving(31).await;
    cluster.stores[1].set_down(true);
    cluster.stores[2].set_down(true);
    let written = fill(&cluster, "one").await;
    let conditions = cluster.handle(0).unwrap().status().conditions.join("\n");
    assert!(conditions.contains("writes are refused"), "{conditions}");
    let refused = refused_for(&cluster, "again").await;
    assert!(refused > STILL / 2 && refused < STILL * 4, "{refused:?}");
    // From then on nobody waits for them any more.
    for n in 0..3 * written {
        let outcome = ask(&cluster, &format!("PUT t0 0 alone-{n}")).await.unwrap();
        assert_eq!(outcome.opcode, 8);
        sleep(PAUSE).await;
    }
    assert!(cluster.log.entries()[0].position > replicateddb_ordering::Position::START);
    for n in [1, 2] {
        cluster.stores[n].set_down(false);
    }
    cluster.settle_on(0..3).await;
    for n in 1..3 {
        assert_eq!(cluster.stores[n].data(), cluster.stores[0].data(), "I1: replica {n}");
    }
    assert!(holds(&cluster, 1, "one-0") && holds(&cluster, 2, "again"), "I2");
}

/// I2: as long as one of them comes forward, what is given up is on two volumes.
#[tokio::test(start_paused = true)]
async fn one_that_comes_back_in_time_has_a_second_volume() {
    let cluster = serving(32).await;
    cluster.stores[1].set_down(true);
    cluster.stores[2].set_down(true);
    fill(&cluster, "one").await;
    cluster.stores[1].set_down(false);
    let refused = refused_for(&cluster, "again").await;
    assert!(refused < STILL, "{refused:?}");
    cluster.settle_on(0..2).await;
    let installs: u64 = cluster.stores.iter().map(|store| store.installs()).sum();
    assert_eq!(installs, 0, "the log went back to what it had");
    assert!(holds(&cluster, 1, "one-0") && holds(&cluster, 1, "again"));
}
