//! A ZooKeeper whose data are gone: what the log was is not made up anew, and what replicas hold stays as it is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use replicateddb_local::{Member, Running, Target};

use super::{
    Local, READY_LIMIT, REPLICAS,
    faults::{SOME, SOME_EACH, WRITES_LIMIT},
    load::Load,
};
use crate::scenario::Scenario;

/// What a replica says of it.
const SAYS: &str = "lost its data";
/// Pause between two looks at the replicas.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![
        Scenario {
            name: "zookeeper-wiped",
            proves: "over a ZooKeeper that lost its data no replica serves or changes its own; with the data back all goes on",
            run: wiped,
        },
        Scenario {
            name: "cassandra-wiped",
            proves: "a Cassandra that comes back without its data under a running replica is never taken for the one before",
            run: cassandra_wiped,
        },
    ]
}

/// The replica lives on, and what it is connected to is another store.
fn cassandra_wiped(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "cassandra_wiped").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        let before = generation(local, 2).await;
        local.stack.kill(Member::Cassandra(2), Target::Whole).await?;
        local.stack.wipe(Member::Cassandra(2)).await?;
        local.stack.start(Member::Cassandra(2)).await?;
        replaced(local, 2, before).await?;
        local.wait_ready().await?;
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}

/// The start of its Cassandra that replica `i` works with.
pub(super) async fn generation(local: &Local, i: u8) -> Option<u64> {
    local.status(i).await.ok()?["generation"].as_u64()
}

/// Waits until replica `i` works with another start of its Cassandra than `before`.
pub(super) async fn replaced(local: &Local, i: u8, before: Option<u64>) -> Result<()> {
    let start = Instant::now();
    loop {
        let now = generation(local, i).await;
        if now.is_some() && now != before {
            return Ok(());
        }
        ensure!(start.elapsed() < WRITES_LIMIT, "replica-{i} did not notice that its Cassandra was replaced");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn wiped(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "zookeeper_wiped").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        let zookeepers: Vec<_> = (0..local.stack.settings().zookeepers).map(Member::Zookeeper).collect();
        swap(local, &zookeepers, |data, aside| std::fs::rename(data, aside)).await?;
        // Some that were in the log may be executed, and acknowledged, after that.
        all_say_so(local, "running").await?;
        let acknowledged = load.acknowledged();
        for replica in 0..REPLICAS {
            local.stack.kill(Member::Replica(replica), Target::Whole).await?;
            local.stack.start(Member::Replica(replica)).await?;
        }
        all_say_so(local, "started again").await?;
        ensure!(load.acknowledged() == acknowledged, "a write was acknowledged that is in no log");
        swap(local, &zookeepers, |data, aside| {
            std::fs::remove_dir_all(data)?;
            std::fs::rename(aside, data)
        })
        .await?;
        restart_ended(local).await?;
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}

async fn all_say_so(local: &Local, life: &str) -> Result<()> {
    for replica in 0..REPLICAS {
        println!("    replica-{replica}, {life}: {}", says_so(local, replica).await?);
    }
    Ok(())
}

/// Stops all ZooKeeper servers at once, changes what is in the place of each one's data, and starts them.
async fn swap(
    local: &Local,
    zookeepers: &[Member],
    change: impl Fn(&std::path::Path, &std::path::Path) -> std::io::Result<()>,
) -> Result<()> {
    for member in zookeepers {
        local.stack.kill(*member, Target::Whole).await?;
    }
    for member in zookeepers {
        let data = local.stack.data(*member);
        change(&data, &data.with_extension("aside")).with_context(|| data.display().to_string())?;
    }
    for member in zookeepers {
        local.stack.start(*member).await?;
    }
    Ok(())
}

/// Waits until the replica says, or has said with its last words, what is wrong; it must not serve.
async fn says_so(local: &Local, replica: u8) -> Result<String> {
    let (start, member) = (Instant::now(), Member::Replica(replica));
    loop {
        let status = local.stack.status(member).await;
        if let Ok(said) = local.status(replica).await
            && let Some(text) = said["conditions"].as_array().and_then(|all| {
                all.iter().filter_map(|text| text.as_str()).find(|text| text.contains(SAYS)).map(str::to_owned)
            })
        {
            ensure!(!status.answer.ready, "{member} serves over another log");
            return Ok(text);
        }
        if status.running == Running::Died {
            let log = std::fs::read_to_string(local.stack.log(member))?;
            let last = log.lines().rev().find(|line| line.contains(SAYS));
            return last.map(str::to_owned).with_context(|| format!("{member} ended without saying why"));
        }
        if start.elapsed() > READY_LIMIT {
            bail!("{member} does not say that the log is another one: {}", status.answer.detail);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Starts replicas that have ended, as the kubelet does, until all serve.
async fn restart_ended(local: &Local) -> Result<()> {
    let start = Instant::now();
    loop {
        let mut ready = 0;
        for member in (0..REPLICAS).map(Member::Replica) {
            let status = local.stack.status(member).await;
            ready += u8::from(status.answer.ready);
            if status.running == Running::Died {
                local.stack.start(member).await?;
            }
        }
        if ready == REPLICAS {
            return local.wait_ready().await;
        }
        ensure!(start.elapsed() < READY_LIMIT, "with the old data back, only {ready} replicas serve");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}
