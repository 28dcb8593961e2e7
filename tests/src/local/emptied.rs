//! Replicas that share a Cassandra, whose tables are emptied while they are dead: what was acknowledged comes back from
//! checkpoints and what the log has behind them.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use replicateddb_local::{Member, Target};
use scylla::{client::session::Session, statement::Consistency};

use super::{Local, REPLICAS, faults::replay, session_at, tool, truncation};

/// Appends to one list through one server.
const APPENDS: i32 = 2000;
/// Longest time for them: less than a fifth of the speed that is promised, as other suites run beside.
const APPENDS_LIMIT: Duration = Duration::from_secs(100);
/// Of them on their way at once.
const IN_FLIGHT: usize = 8;
/// Appends through each server before that, of all servers at once.
const EACH: i32 = 200;
/// From the start of dead replicas to all serving, with all those appends recovered.
const RECOVERY_LIMIT: Duration = Duration::from_secs(20);

/// Appends these numbers, some at once.
async fn append(session: &Session, numbers: std::ops::Range<i32>) -> Result<()> {
    let append = |n| async move {
        let text = format!("UPDATE emptied SET events = events + [{n}] WHERE id = 1");
        session.query_unpaged(text.as_str(), ()).await.map(drop).with_context(|| text)
    };
    stream::iter(numbers.map(append)).buffer_unordered(IN_FLIGHT).try_collect().await
}

/// The list of every replica, which is the same, and has these numbers once each.
async fn lists(local: &Local, numbers: &BTreeSet<i32>) -> Result<()> {
    let mut first = None;
    for replica in 0..REPLICAS {
        let session = local.session(replica, Consistency::Quorum).await?;
        let rows = session.query_unpaged("SELECT events FROM emptied WHERE id = 1", ()).await?.into_rows_result()?;
        let list = rows.single_row::<(Vec<i32>,)>()?.0;
        let found: BTreeSet<_> = list.iter().copied().collect();
        ensure!(
            list.len() == numbers.len() && found == *numbers,
            "replica-{replica} has {} elements, {} different ones, of {}",
            list.len(),
            found.len(),
            numbers.len()
        );
        ensure!(*first.get_or_insert_with(|| list.clone()) == list, "replica-{replica} has the list in another order");
    }
    Ok(())
}

/// Empties every table of every replica, or drops it, past the log.
async fn empty(local: &Local) -> Result<()> {
    let cassandra = session_at(local.stack.settings().cassandra_cql(0), Consistency::One).await?;
    for replica in 0..REPLICAS {
        let keyspace = format!("replica_{replica}");
        let tables = format!("SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{keyspace}'");
        let rows = cassandra.query_unpaged(tables, ()).await?.into_rows_result()?;
        for row in rows.rows::<(String,)>()? {
            let table = row?.0;
            if table == "replicateddb_state" {
                continue;
            }
            let text = match (replica, table.as_str()) {
                (2, "emptied") => format!("DROP TABLE {keyspace}.\"{table}\""),
                _ => format!("TRUNCATE {keyspace}.\"{table}\""),
            };
            cassandra.query_unpaged(text.as_str(), ()).await.with_context(|| text)?;
        }
    }
    Ok(())
}

async fn kill_and_empty(local: &Local) -> Result<()> {
    for replica in 0..REPLICAS {
        local.stack.kill(Member::Replica(replica), Target::Whole).await?;
    }
    empty(local).await?;
    let started = Instant::now();
    for replica in 0..REPLICAS {
        local.stack.start(Member::Replica(replica)).await?;
    }
    local.wait_ready().await?;
    let recovered = started.elapsed();
    println!("    all replicas serve {:.1} s after their start", recovered.as_secs_f64());
    for replica in 0..REPLICAS {
        let replay = replay(local, replica).await?;
        ensure!(replay["rewound"] == true, "replica-{replica} did not notice: {replay}");
    }
    ensure!(recovered < RECOVERY_LIMIT, "they took {recovered:?}");
    Ok(())
}

/// The tool has a replica make a checkpoint and copies it.
fn exported(local: &Local) -> Result<()> {
    let (admin, output) = (local.stack.admin(1).to_string(), local.stack.dir().join("exported"));
    let folder = output.to_str().context("a folder's name that is no text")?;
    let token = local.stack.token_file();
    let token = token.to_str().context("a file's name that is no text")?;
    let words = ["checkpoint", "--replica", &admin, "--output", folder, "--agent-token-file", token];
    let (done, said) = tool(words)?;
    ensure!(done && said.contains("1 lines") && said.contains("emptied.jsonl.gz"), "{said}");
    for file in ["manifest.json", "emptied.jsonl.gz"] {
        ensure!(output.join(file).is_file(), "{file} is missing: {said}");
    }
    Ok(())
}

pub(super) fn emptied(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let mut sessions = Vec::new();
        for replica in 0..REPLICAS {
            sessions.push(local.session(replica, Consistency::One).await?);
        }
        let (first, before) = (sessions.first().context("no replicas")?, truncation::first(local).await?);
        first.query_unpaged("CREATE TABLE emptied (id int PRIMARY KEY, events list<int>)", ()).await?;
        let shares = sessions.iter().zip(0..).map(|(session, n)| append(session, n * EACH..(n + 1) * EACH));
        futures::future::try_join_all(shares).await?;
        let start = i32::from(REPLICAS) * EACH;
        let mut numbers: BTreeSet<i32> = (0..start).collect();
        lists(local, &numbers).await?;
        // The log loses what the older of two checkpoints has, on each replica.
        for replica in (0..REPLICAS).cycle().take(2 * usize::from(REPLICAS)) {
            let url = format!("http://{}/restore-point", local.stack.admin(replica));
            local.http.post(url).send().await?.error_for_status()?;
        }
        truncation::truncated(local, before).await?;

        let started = Instant::now();
        append(first, start..start + APPENDS).await?;
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "    {APPENDS} appends to one list through one server in {seconds:.1} s: {:.0}/s",
            f64::from(APPENDS) / seconds
        );
        ensure!(started.elapsed() < APPENDS_LIMIT, "they took {seconds} s");
        numbers.extend(start..start + APPENDS);
        drop(sessions);
        kill_and_empty(local).await?;
        lists(local, &numbers).await?;

        // Once more, with nothing written in between but one.
        append(&local.session(1, Consistency::One).await?, -1..0).await?;
        numbers.insert(-1);
        kill_and_empty(local).await?;
        lists(local, &numbers).await
    })?;
    exported(local)?;
    local.verify()
}
