//! Pods deleted under load: nothing acknowledged is lost, and every replica ends with equal cells.

use anyhow::{Context, Result, ensure};

use super::{NOTICE_LIMIT, RECOVERY_LIMIT, Suite, check_everything};
use crate::{client::Client, database::Database, scenario::Scenario, wait};

/// Writes per second during the deletions: enough that some are always under way.
const RATE: u32 = 100;
/// Writes that are to be acknowledged once everything is Ready again: five seconds of them.
const WRITES_AFTER: usize = 500;

pub fn scenarios() -> Vec<Scenario<Suite>> {
    vec![
        Scenario {
            name: "kill-replica",
            proves: "a replica deleted under load replays what it missed before it is Ready",
            run: kill_replica,
        },
        Scenario {
            name: "kill-cassandra",
            proves: "a Cassandra killed under a live replica is rewound and replayed; one whose pod is deleted comes back too",
            run: kill_cassandra,
        },
        Scenario {
            name: "kill-zookeeper",
            proves: "the ZooKeeper leader deleted under load loses nothing",
            run: kill_zookeeper,
        },
    ]
}

fn kill_replica(suite: &mut Suite) -> Result<()> {
    let (database, client) = suite.main()?;
    let pod = database.pods("replica")?.pop().context("no replica")?;
    kill_under_load(&database, client, &pod)?;
    let replay = database.replica_status(&pod)?["replay"].clone();
    println!("    {pod}: {replay}");
    // It may have had the time to drain, but never to execute what came while it was away.
    ensure!(replay["records"].as_u64() > Some(0), "{pod} missed writes and replayed none: {replay}");
    Ok(())
}

fn kill_cassandra(suite: &mut Suite) -> Result<()> {
    let (database, client) = suite.main()?;
    let pod = database.pods("cassandra")?.into_iter().next().context("no Cassandra")?;
    let replica = pod.replace("-cassandra-", "-replica-");
    let generation = || Ok::<_, anyhow::Error>(database.replica_status(&replica)?["generation"].as_u64());
    // Its processes at once, under its living agent: nothing can have been drained.
    let before = generation()?;
    client.write(&database, RATE)?;
    let start = std::time::Instant::now();
    database.kill_processes(&pod)?;
    wait::until_true(&format!("{replica} serves from the next generation"), RECOVERY_LIMIT, || {
        Ok(generation()? > before && database.pod(&replica)?.ready)
    })?;
    println!("    {pod}: its JVM killed, {replica} Ready again after {:.1} s", start.elapsed().as_secs_f64());
    let status = database.replica_status(&replica)?;
    let replay = &status["replay"];
    println!("    {replica}: {replay}");
    ensure!(replay["rewound"] == true, "{replica} did not rewind: {status}");
    ensure!(replay["records"].as_u64() > Some(0), "{replica} missed writes and replayed none: {status}");
    // The whole pod, which may or may not get to drain.
    let before = generation()?;
    kill_under_load(&database, client, &pod)?;
    let status = database.replica_status(&replica)?;
    ensure!(status["generation"].as_u64() > before, "{replica} serves from the Cassandra of before: {status}");
    Ok(())
}

fn kill_zookeeper(suite: &mut Suite) -> Result<()> {
    let (database, client) = suite.main()?;
    let leader = database.zookeeper_leader()?;
    kill_under_load(&database, client, &leader)
}

fn kill_under_load(database: &Database, client: &Client, pod: &str) -> Result<()> {
    client.write(database, RATE)?;
    let start = std::time::Instant::now();
    database.kill_pod(pod, RECOVERY_LIMIT, |_| ())?;
    println!("    {pod}: Ready again after {:.1} s", start.elapsed().as_secs_f64());
    database.wait_settled(RECOVERY_LIMIT, |message| println!("    {message}"))?;
    client.wait_for(WRITES_AFTER, NOTICE_LIMIT)?;
    check_everything(database, client)
}
