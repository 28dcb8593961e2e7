//! Clients that log in: roles and permissions are one thing on all replicas, whatever happens to one of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use replicateddb_local::{Member, Target};
use scylla::client::execution_profile::ExecutionProfile;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::statement::Consistency;

use super::{
    Local, REPLICAS, REQUEST_LIMIT, number, refused, tool,
    wiped::{generation, replaced},
};
use crate::scenario::Scenario;

/// How long a changed password may take to hold: replicas look at the file every ten seconds.
const ROTATED_LIMIT: Duration = Duration::from_secs(40);
/// Pause between two attempts to log in.
const AGAIN: Duration = Duration::from_millis(250);

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![Scenario {
        name: "roles",
        proves: "clients log in; roles and permissions hold on every replica at once, through a crash, a lost disk and a new password",
        run: roles,
    }]
}

fn roles(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let boss = superuser(local, 0).await?;
        for text in [
            "CREATE KEYSPACE own WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 3}",
            "CREATE TABLE own.t (id int PRIMARY KEY, v text)",
            "CREATE ROLE alice WITH PASSWORD = 'first' AND LOGIN = true",
            "CREATE ROLE writers",
            "GRANT MODIFY ON own.t TO writers",
        ] {
            boss.query_unpaged(text, ()).await.with_context(|| text.to_owned())?;
        }
        let write = "INSERT INTO own.t (id, v) VALUES (1, 'x')";
        // What was answered holds on every replica.
        let mut alices = Vec::new();
        for replica in 0..REPLICAS {
            alices.push(log_in(local.stack.cql(replica), "alice", "first").await?);
        }
        for alice in &alices {
            let why = refused(alice, write).await?;
            ensure!(why.contains("User alice has no MODIFY permission on <table own.t>"), "{why}");
            let why = refused(alice, "SELECT * FROM own.t").await?;
            ensure!(why.contains("User alice has no SELECT permission on <table own.t>"), "{why}");
        }
        boss.query_unpaged("GRANT writers TO alice", ()).await?;
        boss.query_unpaged("GRANT SELECT ON own.t TO alice", ()).await?;
        for alice in &alices {
            alice.query_unpaged(write, ()).await.context("what was granted holds at once")?;
            ensure!(number(alice, "SELECT count(*) FROM own.t").await? == 1, "the row is there");
        }
        nobody_else(local).await?;
        survives(local).await
    })?;
    local.verify()?;
    let replica = local.stack.admin(0);
    let (_, text) = tool(["verify", &format!("--replica={replica}")])?;
    ensure!(text.contains("system_auth.role_permissions"), "roles are compared, too:\n{text}");
    local.runtime.block_on(rotated(local))
}

/// A Cassandra killed, and a replica whose disk is lost: the roles are there, and what was revoked meanwhile is not.
async fn survives(local: &Local) -> Result<()> {
    let (killed, wiped) = (generation(local, 1).await, generation(local, 2).await);
    local.stack.kill(Member::Cassandra(1), Target::Jvm).await?;
    local.stack.kill(Member::Cassandra(2), Target::Whole).await?;
    local.stack.wipe(Member::Cassandra(2)).await?;
    let boss = superuser(local, 0).await?;
    boss.query_unpaged("ALTER ROLE alice WITH PASSWORD = 'second'", ()).await?;
    boss.query_unpaged("REVOKE writers FROM alice", ()).await?;
    local.stack.start(Member::Cassandra(2)).await?;
    replaced(local, 1, killed).await?;
    replaced(local, 2, wiped).await?;
    local.wait_ready().await?;
    for replica in 0..REPLICAS {
        let alice = log_in(local.stack.cql(replica), "alice", "second").await?;
        let why = refused(&alice, "INSERT INTO own.t (id, v) VALUES (2, 'y')").await?;
        ensure!(why.contains("MODIFY"), "replica-{replica}: {why}");
        ensure!(number(&alice, "SELECT count(*) FROM own.t").await? == 1, "replica-{replica}: SELECT was not revoked");
        ensure!(
            log_in(local.stack.cql(replica), "alice", "first").await.is_err(),
            "replica-{replica}: the old password"
        );
    }
    Ok(())
}

/// Without a name and password, or by those that everybody knows.
async fn nobody_else(local: &Local) -> Result<()> {
    for replica in 0..REPLICAS {
        let address = local.stack.cql(replica);
        ensure!(local.session(replica, Consistency::One).await.is_err(), "replica-{replica} asks nobody who he is");
        for (user, password) in [("cassandra", "cassandra"), ("alice", "wrong"), ("replicateddb", "replicateddb")] {
            ensure!(log_in(address, user, password).await.is_err(), "replica-{replica} lets in {user}");
        }
    }
    Ok(())
}

/// The superuser's password is the one in the file, some time after that has changed.
async fn rotated(local: &Local) -> Result<()> {
    let superuser = local.stack.superuser().context("a stack whose clients log in")?;
    let old = std::fs::read_to_string(&superuser.password_file)?;
    std::fs::write(&superuser.password_file, "another password\n")?;
    let start = Instant::now();
    for replica in 0..REPLICAS {
        let address = local.stack.cql(replica);
        while log_in(address, superuser.name, "another password").await.is_err() {
            ensure!(start.elapsed() < ROTATED_LIMIT, "replica-{replica} does not know the new password");
            tokio::time::sleep(AGAIN).await;
        }
        ensure!(log_in(address, superuser.name, old.trim()).await.is_err(), "replica-{replica} takes the old one");
    }
    println!("    the new password holds after {:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

async fn superuser(local: &Local, replica: u8) -> Result<Session> {
    let superuser = local.stack.superuser().context("a stack whose clients log in")?;
    let password = std::fs::read_to_string(&superuser.password_file)?;
    let start = Instant::now();
    loop {
        match log_in(local.stack.cql(replica), superuser.name, password.trim()).await {
            Ok(session) => return Ok(session),
            Err(error) if start.elapsed() > ROTATED_LIMIT => bail!("the superuser can't log in: {error:#}"),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// A session that talks to this replica alone.
async fn log_in(address: SocketAddr, user: &str, password: &str) -> Result<Session> {
    let profile =
        ExecutionProfile::builder().consistency(Consistency::Quorum).request_timeout(Some(REQUEST_LIMIT)).build();
    let only = scylla::policies::host_filter::AllowListHostFilter::new([address])?;
    let session = SessionBuilder::new()
        .known_node_addr(address)
        .host_filter(std::sync::Arc::new(only))
        .user(user, password)
        .default_execution_profile_handle(profile.into_handle());
    session.build().await.with_context(|| format!("{user} at {address}"))
}
