//! Replicas that share one Cassandra: what one of them goes through is nothing to the others, and what Cassandra goes
//! through costs none of them an acknowledged write.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use replicateddb_local::{Ended, Member, Running, Target};
use scylla::{client::session::Session, statement::Consistency};

use super::{
    Local, READY_LIMIT, REPLICAS, conditions, emptied,
    faults::{SOME, WRITES_LIMIT, replay, wait_generation},
    load::Load,
    number, refused, session_at, statements,
};
use crate::scenario::Scenario;

type Step = fn(&mut Local) -> Result<()>;

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![Scenario {
        name: "shared-cassandra",
        proves: "replicas that share a Cassandra build their data anew when they must, then only, and lose nothing",
        run: |local| {
            let steps: [(&str, Step); 8] = [
                ("statements through each replica", statements::statements),
                ("conditional writes through all replicas", conditions::conditions),
                ("clients are confined to the keyspace", confined),
                ("a replica killed under load", replica_killed),
                ("a replica stopped gracefully", replica_stopped),
                ("the Cassandra killed under load", cassandra_killed),
                ("tables emptied while all replicas are dead", emptied::emptied),
                ("a keyspace of somebody else's", foreign_keyspace),
            ];
            for (what, step) in steps {
                println!("  - {what}");
                step(local).with_context(|| what.to_owned())?;
            }
            Ok(())
        },
    }]
}

fn confined(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let session = local.session(1, Consistency::Quorum).await?;
        for text in [
            "CREATE KEYSPACE IF NOT EXISTS replica_1 WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
            "CREATE TABLE replica_1.kept (id int PRIMARY KEY, v text)",
            "INSERT INTO replica_1.kept (id, v) VALUES (1, 'x')",
        ] {
            session.query_unpaged(text, ()).await.with_context(|| text.to_owned())?;
        }
        for text in [
            "SELECT * FROM replica_0.kept",
            "INSERT INTO replica_0.kept (id) VALUES (2)",
            "CREATE TABLE replica_0.more (id int PRIMARY KEY)",
            "CREATE KEYSPACE more WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
            "DROP KEYSPACE replica_1",
            "TRUNCATE replicateddb_state",
        ] {
            let reason = refused(&session, text).await?;
            ensure!(reason.contains("replica"), "{text}: {reason}");
        }
        let other = local.session(2, Consistency::Quorum).await?;
        ensure!(number(&other, "SELECT count(*) FROM kept").await? == 1, "replica-2 does not have the row");
        anyhow::Ok(())
    })?;
    local.verify()
}

/// Fails unless replica `i` has built its data anew.
async fn built_anew(local: &Local, i: u8) -> Result<()> {
    let replay = replay(local, i).await?;
    ensure!(replay["rewound"] == true, "replica-{i} did not build its data anew: {replay}");
    Ok(())
}

fn replica_killed(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "shared_replica_killed").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        local.stack.kill(Member::Replica(1), Target::Whole).await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        local.stack.start(Member::Replica(1)).await?;
        local.wait_ready().await?;
        built_anew(local, 1).await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}

fn replica_stopped(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "shared_replica_stopped").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        let ended = local.stack.stop(Member::Replica(2)).await?;
        ensure!(ended == Ended::Gracefully, "replica-2 had to be killed");
        load.wait_for(SOME, WRITES_LIMIT).await?;
        local.stack.start(Member::Replica(2)).await?;
        local.wait_ready().await?;
        let replay = replay(local, 2).await?;
        ensure!(replay["rewound"] == false && replay["records"].as_u64() > Some(0), "{replay}");
        load.finish(local).await
    })?;
    local.verify()
}

fn cassandra_killed(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "shared_cassandra_killed").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        let before = local.status(0).await?["generation"].as_u64();
        local.stack.kill(Member::Cassandra(0), Target::Jvm).await?;
        for i in 0..REPLICAS {
            wait_generation(local, i, before).await?;
        }
        local.wait_ready().await?;
        for i in 0..REPLICAS {
            built_anew(local, i).await?;
        }
        load.wait_for(SOME, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}

/// Somebody else's data under the name of a replica's keyspace: the replica leaves them alone, and serves nobody.
fn foreign_keyspace(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let cassandra = session_at(local.stack.settings().cassandra_cql(0), Consistency::One).await?;
        let run =
            async |statement: &str| cassandra.query_unpaged(statement, ()).await.with_context(|| statement.to_owned());
        local.stack.stop(Member::Replica(2)).await?;
        run("DROP KEYSPACE replica_2").await?;
        run("CREATE KEYSPACE replica_2 WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}")
            .await?;
        run("CREATE TABLE replica_2.precious (id int PRIMARY KEY)").await?;
        run("INSERT INTO replica_2.precious (id) VALUES (1)").await?;
        local.stack.start(Member::Replica(2)).await?;
        println!("    replica-2: {}", refusal(local, "replica_2").await?);
        ensure!(rows(&cassandra).await? == 1, "replica-2 changed what is not its own");
        // Without it, the replica is as new.
        local.stack.stop(Member::Replica(2)).await?;
        run("DROP KEYSPACE replica_2").await?;
        local.stack.start(Member::Replica(2)).await?;
        local.wait_ready().await?;
        built_anew(local, 2).await
    })?;
    local.verify()
}

async fn rows(cassandra: &Session) -> Result<i64> {
    number(cassandra, "SELECT count(*) FROM replica_2.precious").await
}

/// Waits until replica 2 says, or has said with its last words, what is wrong with that keyspace.
async fn refusal(local: &Local, keyspace: &str) -> Result<String> {
    let start = Instant::now();
    loop {
        let status = local.stack.status(Member::Replica(2)).await;
        ensure!(!status.answer.ready, "replica-2 took the keyspace {keyspace} for its own");
        if status.answer.detail.contains(keyspace) {
            return Ok(status.answer.detail);
        }
        if status.running == Running::Died {
            let log = std::fs::read_to_string(local.stack.log(Member::Replica(2)))?;
            let last = log.lines().rev().find(|line| line.contains(keyspace));
            return last.map(str::to_owned).with_context(|| format!("replica-2 ended without naming {keyspace}"));
        }
        ensure!(start.elapsed() < READY_LIMIT, "replica-2 says nothing of {keyspace}: {}", status.answer.detail);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
