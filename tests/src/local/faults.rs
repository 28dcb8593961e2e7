//! Bad days: what is killed, frozen or wiped under load, and how the stack comes out of it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use replicateddb_local::{Ended, Member, Target};
use scylla::statement::Consistency;

use super::{
    Local, REPLICAS,
    load::{Load, kind},
};
use crate::scenario::Scenario;

/// How long some hundred writes may take on two busy cores.
pub(super) const WRITES_LIMIT: Duration = Duration::from_secs(90);
/// Writes that are to be acknowledged before and after each fault.
pub(super) const SOME: usize = 300;
/// Writes that each replica is to acknowledge once all serve again.
pub(super) const SOME_EACH: usize = 50;
/// How long a client may wait for the error while ZooKeeper is away.
const AWAY_LIMIT: Duration = Duration::from_secs(25);
/// Errors by which every driver knows whether a write may be tried elsewhere or may have happened.
const UNDERSTOOD: [&str; 4] = ["WriteTimeout", "Unavailable", "Overloaded", "IsBootstrapping"];

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![
        Scenario {
            name: "kill-replica",
            proves: "a replica killed under load replays exactly and loses nothing",
            run: kill_replica,
        },
        Scenario {
            name: "kill-cassandra",
            proves: "a Cassandra killed under a live replica is rewound and replayed",
            run: kill_cassandra,
        },
        Scenario {
            name: "kill-agent",
            proves: "an agent killed with its Cassandra comes back by a rewind",
            run: kill_agent,
        },
        Scenario {
            name: "clean-stop",
            proves: "a replica that was stopped gracefully needs no rewind",
            run: clean_stop,
        },
        Scenario {
            name: "zookeeper-away",
            proves: "clients get an error in bounded time while ZooKeeper is away, and lose nothing",
            run: zookeeper_away,
        },
        Scenario {
            name: "all-killed",
            proves: "every process killed at once: nothing acknowledged is lost",
            run: all_killed,
        },
    ]
}

/// The last replay of replica `i`, which must have rewound and executed records that came meanwhile.
async fn exact_replay(local: &Local, i: u8) -> Result<serde_json::Value> {
    let replay = replay(local, i).await?;
    ensure!(replay["rewound"] == true, "replica-{i} did not rewind although nothing was drained: {replay}");
    ensure!(replay["records"].as_u64() > Some(0), "replica-{i} missed writes and replayed none: {replay}");
    Ok(replay)
}

/// What replica `i` says of its last replay.
pub(super) async fn replay(local: &Local, i: u8) -> Result<serde_json::Value> {
    let status = local.status(i).await?;
    println!("    replica-{i}: {}", status["replay"]);
    Ok(status["replay"].clone())
}

fn kill_replica(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "kill_replica").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        local.stack.kill(Member::Replica(1), Target::Whole).await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        local.stack.start(Member::Replica(1)).await?;
        local.wait_ready().await?;
        exact_replay(local, 1).await?;
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}

fn kill_cassandra(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "kill_cassandra").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        let before = local.status(0).await?["generation"].as_u64();
        local.stack.kill(Member::Cassandra(0), Target::Jvm).await?;
        wait_generation(local, 0, before).await?;
        local.wait_ready().await?;
        exact_replay(local, 0).await?;
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}

/// Waits until replica `i` works with another start of its Cassandra than `before`.
pub(super) async fn wait_generation(local: &Local, i: u8, before: Option<u64>) -> Result<()> {
    let start = Instant::now();
    while local.status(i).await.ok().and_then(|status| status["generation"].as_u64()) <= before {
        ensure!(start.elapsed() < WRITES_LIMIT, "replica-{i} did not notice that its Cassandra died");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

fn kill_agent(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "kill_agent").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        let before = local.status(2).await?["generation"].as_u64();
        local.stack.kill(Member::Cassandra(2), Target::Whole).await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        local.stack.start(Member::Cassandra(2)).await?;
        wait_generation(local, 2, before).await?;
        local.wait_ready().await?;
        exact_replay(local, 2).await?;
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}

fn clean_stop(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "clean_stop").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        let ended = local.stack.stop(Member::Replica(2)).await?;
        ensure!(ended == Ended::Gracefully, "replica-2 had to be killed");
        load.wait_for(SOME, WRITES_LIMIT).await?;
        local.stack.start(Member::Replica(2)).await?;
        local.wait_ready().await?;
        let replay = replay(local, 2).await?;
        ensure!(replay["rewound"] == false && replay["records"].as_u64() > Some(0), "{replay}");
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}

fn zookeeper_away(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "zookeeper_away").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        let zookeepers: Vec<_> = (0..local.stack.settings().zookeepers).map(Member::Zookeeper).collect();
        for member in &zookeepers {
            local.stack.kill(*member, Target::Whole).await?;
        }
        let session = local.session(0, Consistency::One).await?;
        let begin = Instant::now();
        let answer = session
            .query_unpaged("INSERT INTO load.zookeeper_away (client, seq, value) VALUES ('0-0', -1, '0-0:-1')", ())
            .await;
        let took = begin.elapsed();
        let Err(error) = answer else { bail!("acknowledged without ZooKeeper") };
        println!("    without ZooKeeper a client hears after {:.1} s: {error}", took.as_secs_f64());
        ensure!(took < AWAY_LIMIT, "the error took {took:?}");
        let kind = kind(&error);
        ensure!(UNDERSTOOD.contains(&kind), "no error that drivers act on, but {kind}: {error}");
        session.query_unpaged("SELECT count(*) FROM load.zookeeper_away", ()).await?;
        for member in &zookeepers {
            local.stack.start(*member).await?;
        }
        local.wait_ready().await?;
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        session.query_unpaged("DELETE FROM load.zookeeper_away WHERE client = '0-0' AND seq = -1", ()).await?;
        load.finish(local).await
    })?;
    local.verify()
}

fn all_killed(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "all_killed").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        for member in local.members() {
            local.stack.kill(member, Target::Whole).await?;
        }
        local.stack.up(super::UP_LIMIT, &mut |_, _| ()).await?;
        for i in 0..REPLICAS {
            let replay = replay(local, i).await?;
            ensure!(replay["rewound"] == true, "replica-{i} did not rewind although nothing was drained: {replay}");
        }
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}
