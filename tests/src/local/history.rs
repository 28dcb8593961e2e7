//! Clients at every level, through every replica, while things are killed and frozen at random; afterwards what they were
//! told is checked against what the levels promise (see [`crate::history`]).

mod clients;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};
use replicateddb_local::{Member, Target};

use self::clients::Clients;
use super::{
    Local, REPLICAS, SUITE,
    faults::{WRITES_LIMIT, wait_generation},
};
use crate::{
    history::{self, Action, Operation, Outcome},
    scenario::{Scenario, failure_dir},
};

/// Answers from each replica that can give any to wait for between two faults.
const SOME: usize = 300;
/// How long a ZooKeeper server stands still: longer than its peers take to give it up.
const FROZEN: Duration = Duration::from_secs(6);
/// What repeats the same choice of victims and requests.
const SEED_VARIABLE: &str = "HISTORY_SEED";
/// The file of a history that breaks a promise.
const FILE: &str = "history.jsonl";

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![Scenario {
        name: "history",
        proves: "what clients are told agrees with each consistency level, whatever is killed or frozen at random",
        run,
    }]
}

/// Which of each kind is hit.
#[derive(Debug)]
struct Victims {
    replica: u8,
    cassandra: u8,
    zookeeper: u8,
}

fn run(local: &mut Local) -> Result<()> {
    let seed = match std::env::var(SEED_VARIABLE) {
        Ok(text) => text.parse().with_context(|| format!("{SEED_VARIABLE}={text}"))?,
        Err(_) => rand::random::<u64>(),
    };
    let mut random = StdRng::seed_from_u64(seed);
    let zookeepers = local.stack.settings().zookeepers;
    let victims = Victims {
        replica: random.random_range(0..REPLICAS),
        cassandra: random.random_range(0..REPLICAS),
        zookeeper: random.random_range(0..zookeepers),
    };
    println!("    {SEED_VARIABLE}={seed}: {victims:?}");
    let history = local.runtime.block_on(record(local, seed, &victims))?;
    judge(&history)?;
    local.verify()
}

async fn record(local: &Local, seed: u64, victims: &Victims) -> Result<Vec<Operation>> {
    let clients = Clients::start(local, seed).await?;
    let all: Vec<u8> = (0..REPLICAS).collect();
    clients.wait_each(&all, SOME, WRITES_LIMIT).await?;

    let (victim, others) = (Member::Replica(victims.replica), without(victims.replica));
    local.stack.kill(victim, Target::Whole).await?;
    clients.wait_each(&others, SOME, WRITES_LIMIT).await?;
    local.stack.start(victim).await?;
    local.wait_ready().await?;

    let before = local.status(victims.cassandra).await?["generation"].as_u64();
    local.stack.kill(Member::Cassandra(victims.cassandra), Target::Jvm).await?;
    clients.wait_each(&without(victims.cassandra), SOME, WRITES_LIMIT).await?;
    wait_generation(local, victims.cassandra, before).await?;
    local.wait_ready().await?;

    let victim = Member::Zookeeper(victims.zookeeper);
    local.stack.freeze(victim, Target::Whole).await?;
    // Not for something to happen: standing still for this long is what is tried.
    let (_, went_on) = tokio::join!(tokio::time::sleep(FROZEN), clients.wait_each(&all, SOME, WRITES_LIMIT));
    local.stack.thaw(victim, Target::Whole).await?;
    went_on.with_context(|| format!("while {victim} is frozen"))?;
    local.wait_ready().await?;
    clients.wait_each(&all, SOME, WRITES_LIMIT).await?;
    clients.finish().await
}

fn without(replica: u8) -> Vec<u8> {
    (0..REPLICAS).filter(|other| *other != replica).collect()
}

/// Checks the history; one that breaks a promise is kept.
fn judge(history: &[Operation]) -> Result<()> {
    let count = |what: fn(&Operation) -> bool| history.iter().filter(|operation| what(operation)).count();
    let (unknown, failed) = (
        count(|operation| operation.outcome == Outcome::Unknown),
        count(|operation| operation.outcome == Outcome::Failed),
    );
    let lost = count(|operation| matches!(operation.action, Action::Swap { found: Some(_), .. }));
    match history::check(history) {
        Ok(checked) => {
            println!(
                "    {} requests, {unknown} of unknown outcome, {failed} that did nothing, {lost} conditional writes met \
                 another value: {checked:?}",
                history.len()
            );
            ensure!(
                lost > 0 && unknown + failed > 0 && checked.sessions > SOME,
                "too little happened to prove anything"
            );
            Ok(())
        }
        Err(error) => {
            let file = failure_dir(SUITE, "history")?.join(FILE);
            history::save(history, &file)?;
            Err(error.context(format!("check it again: replicateddb-suite check-history {}", file.display())))
        }
    }
}
