//! Members that stand still for a while and then go on, believing that nothing happened.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use replicateddb_local::{Member, Target};

use super::{
    Local,
    faults::{SOME, SOME_EACH, WRITES_LIMIT},
    load::Load,
};
use crate::scenario::Scenario;

/// How long a member stands still: twice the time after which ZooKeeper gives up a silent replica (6 s), and more than
/// ZooKeeper's servers take to give up one of their own.
const FROZEN: Duration = Duration::from_secs(12);

/// How long a slow Cassandra stands still at a time, and runs in between.
const SLOW: Duration = Duration::from_secs(3);
const AWAKE: Duration = Duration::from_millis(300);
/// How often.
const SLOW_ROUNDS: usize = 5;

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![
        Scenario {
            name: "freeze-replica",
            proves: "a replica frozen until its session expired goes on without a gap or a write of its past",
            run: |local| frozen(local, "freeze_replica", Member::Replica(1)),
        },
        Scenario {
            name: "freeze-cassandra",
            proves: "a Cassandra that stood still with its agent is no reason for a difference",
            run: |local| frozen(local, "freeze_cassandra", Member::Cassandra(2)),
        },
        Scenario {
            name: "slow-cassandra",
            proves: "a Cassandra that stands still most of the time holds up its own replica alone, which catches up",
            run: slow,
        },
        Scenario {
            name: "freeze-zookeeper",
            proves: "the ZooKeeper leader frozen: another one leads, nothing acknowledged is lost",
            run: |local| {
                let leader = local.runtime.block_on(local.zookeeper_leader())?;
                frozen(local, "freeze_zookeeper", leader)
            },
        },
    ]
}

/// Freezes `member` under load, sees the others go on, thaws it and sees it serve.
fn frozen(local: &mut Local, table: &str, member: Member) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, table).await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        local.stack.freeze(member, Target::Whole).await?;
        // Not for something to happen: standing still for this long is what is tried.
        let (_, others) = tokio::join!(tokio::time::sleep(FROZEN), load.wait_for(SOME, WRITES_LIMIT));
        local.stack.thaw(member, Target::Whole).await?;
        others.with_context(|| format!("the others, while {member} is frozen"))?;
        local.wait_ready().await?;
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}

/// Has a JVM run for a moment every few seconds, under load; its agent runs all the time.
fn slow(local: &mut Local) -> Result<()> {
    const VICTIM: u8 = 1;
    local.runtime.block_on(async {
        let load = Load::start(local, "slow_cassandra").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        let mut held_up = false;
        for _ in 0..SLOW_ROUNDS {
            local.stack.freeze(Member::Cassandra(VICTIM), Target::Jvm).await?;
            // Not for something to happen: standing still for this long is what is tried.
            let (_, others) = tokio::join!(tokio::time::sleep(SLOW), load.wait_for(SOME, WRITES_LIMIT));
            held_up |= is_held_up(&local.status(VICTIM).await?, &local.status(0).await?);
            local.stack.thaw(Member::Cassandra(VICTIM), Target::Jvm).await?;
            others.context("the others, while a Cassandra is slow")?;
            tokio::time::sleep(AWAKE).await;
        }
        ensure!(held_up, "replica-{VICTIM} did not show that its Cassandra was slow");
        local.wait_ready().await?;
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}

/// Whether a replica does not serve, or is behind `other`.
fn is_held_up(status: &serde_json::Value, other: &serde_json::Value) -> bool {
    let behind = status["applied_index"].as_u64() < other["applied_index"].as_u64();
    println!("    {} at {}, the other one at {}", status["state"], status["applied_index"], other["applied_index"]);
    status["state"] != "serving" || behind
}

impl Local {
    /// The ZooKeeper server that leads.
    async fn zookeeper_leader(&self) -> Result<Member> {
        let mut said = Vec::new();
        for member in (0..self.stack.settings().zookeepers).map(Member::Zookeeper) {
            let status = self.stack.status(member).await;
            if status.answer.detail == "leader" {
                return Ok(member);
            }
            said.push(status.answer.detail);
        }
        bail!("no ZooKeeper server leads: {said:?}")
    }
}
