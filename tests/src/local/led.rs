//! Replicas whose writes are ordered by one of them: it is stopped, killed and frozen, and the others go on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use replicateddb_local::{Ended, Member, Target};

use super::{
    Local, REPLICAS,
    faults::{SOME, SOME_EACH, WRITES_LIMIT},
    load::Load,
    statements,
};
use crate::scenario::Scenario;

/// Twice the time after which ZooKeeper gives up a silent replica.
const FROZEN: Duration = Duration::from_secs(12);
/// From the moment that a replica is asked to stop until another one leads: far less than that time.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(3);
/// Pause between two looks at who leads.
const LOOK: Duration = Duration::from_millis(20);

type Step = fn(&mut Local) -> Result<()>;

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![Scenario {
        name: "leader",
        proves: "replicas that are led by one of them lose nothing and wait for no session when it stops, and go on when it dies",
        run: |local| {
            let steps: [(&str, Step); 4] = [
                ("statements through each replica", statements::statements),
                ("the one that leads is stopped under load", stopped),
                ("the one that leads is killed under load", killed),
                ("the one that leads is frozen until another one does", frozen),
            ];
            for (what, step) in steps {
                println!("  - {what}");
                step(local).with_context(|| what.to_owned())?;
            }
            Ok(())
        },
    }]
}

/// Who leads, and in which epoch, as replica `i` says; `None` while it does not know.
async fn leader_at(local: &Local, i: u8) -> Option<(u8, i64)> {
    let leader = local.status(i).await.ok()?["leader"].clone();
    Some((u8::try_from(leader["replica"].as_u64()?).ok()?, leader["epoch"].as_i64()?))
}

/// Who leads, and in which epoch; all that serve agree on it.
async fn leader(local: &Local) -> Result<(u8, i64)> {
    let mut said = Vec::new();
    let deadline = Instant::now() + WRITES_LIMIT;
    while Instant::now() < deadline {
        said.clear();
        for i in 0..REPLICAS {
            said.push(leader_at(local, i).await);
        }
        if let Some(leader) = said[0].filter(|_| said.iter().all(|other| *other == said[0])) {
            return Ok(leader);
        }
        tokio::time::sleep(LOOK).await;
    }
    anyhow::bail!("the replicas do not agree on who leads: {said:?}")
}

/// Waits until another one than `old` leads, as `witness` says; how long that took.
async fn succeeded(local: &Local, old: (u8, i64), witness: u8) -> Result<Duration> {
    let since = Instant::now();
    while since.elapsed() < WRITES_LIMIT {
        if leader_at(local, witness).await.is_some_and(|(replica, epoch)| replica != old.0 && epoch > old.1) {
            return Ok(since.elapsed());
        }
        tokio::time::sleep(LOOK).await;
    }
    anyhow::bail!("no other replica leads after replica-{}", old.0)
}

fn stopped(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "leader_stopped").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        let old = leader(local).await?;
        let (ended, took) =
            tokio::join!(local.stack.stop(Member::Replica(old.0)), succeeded(local, old, (old.0 + 1) % REPLICAS));
        ensure!(ended? == Ended::Gracefully, "replica-{} had to be killed", old.0);
        let took = took?;
        println!("    replica-{} has handed over {:.2} s after it was asked to stop", old.0, took.as_secs_f64());
        ensure!(took < HAND_OVER_LIMIT, "that takes no longer than {HAND_OVER_LIMIT:?}");
        load.wait_for(SOME, WRITES_LIMIT).await?;
        local.stack.start(Member::Replica(old.0)).await?;
        local.wait_ready().await?;
        let (new, _) = leader(local).await?;
        ensure!(new != old.0, "one that comes back is no reason for a change");
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}

fn killed(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "leader_killed").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        let old = leader(local).await?;
        local.stack.kill(Member::Replica(old.0), Target::Whole).await?;
        let took = succeeded(local, old, (old.0 + 1) % REPLICAS).await?;
        println!("    another one leads {:.2} s after replica-{} was killed", took.as_secs_f64(), old.0);
        load.wait_for(SOME, WRITES_LIMIT).await?;
        local.stack.start(Member::Replica(old.0)).await?;
        local.wait_ready().await?;
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}

fn frozen(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "leader_frozen").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        let old = leader(local).await?;
        local.stack.freeze(Member::Replica(old.0), Target::Whole).await?;
        // Not for something to happen: standing still for this long is what is tried.
        let (_, others) = tokio::join!(tokio::time::sleep(FROZEN), load.wait_for(SOME, WRITES_LIMIT));
        local.stack.thaw(Member::Replica(old.0), Target::Whole).await?;
        others.context("the others, while the one that led is frozen")?;
        local.wait_ready().await?;
        let (new, epoch) = leader(local).await?;
        ensure!(new != old.0 && epoch > old.1, "replica-{} leads again", old.0);
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}
