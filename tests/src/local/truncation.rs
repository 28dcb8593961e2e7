//! The beginning of the log is given up behind restore points; who comes back too late, or with nothing, takes over a restore
//! point of another replica.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use replicateddb_local::{Member, Target};
use scylla::statement::Consistency;

use super::{
    Local,
    faults::{SOME, SOME_EACH, WRITES_LIMIT, replay, wait_generation},
    load::Load,
};
use crate::scenario::Scenario;

/// Longest wait for two restore points and the truncation behind them.
const TRUNCATION_LIMIT: Duration = Duration::from_secs(150);
/// Records that a replica may be behind before the log goes on without it, in this suite's stacks.
pub(super) const BEHIND_RECORDS: usize = 4000;
/// Bytes of the log that it may be behind.
pub(super) const BEHIND_BYTES: usize = 4 << 20;
/// Bytes that the log may hold.
pub(super) const MAX_BYTES: usize = 32 << 20;
/// Bytes of a large row.
const ROW_BYTES: usize = 8 << 10;
/// Large rows written at once.
const ROWS_AT_ONCE: usize = 32;
/// Pause between such, so that restore points come before there are as many records as one may be behind.
const ROWS_PAUSE: Duration = Duration::from_millis(500);

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![
        Scenario {
            name: "truncation",
            proves: "the log loses its beginning under load, and a replica that was away for longer comes back whole",
            run: truncation,
        },
        Scenario {
            name: "truncation-by-bytes",
            proves: "large rows leave a stopped replica behind long before their number does, and it comes back whole",
            run: truncation_by_bytes,
        },
        Scenario {
            name: "lost-volume",
            proves: "a replica whose Cassandra lost its volume takes over a restore point of another one",
            run: lost_volume,
        },
        Scenario {
            name: "damaged-restore-points",
            proves: "with all its restore points damaged a replica says so and takes over one of another",
            run: damaged,
        },
        Scenario {
            name: "diverged",
            proves: "a replica that differs from the others is named, serves nobody, and is built anew",
            run: diverged,
        },
    ]
}

/// A position in the log as a status shows it.
fn position(status: &serde_json::Value, field: &str) -> Option<(u32, u32)> {
    let (segment, sequence) = status[field].as_str()?.split_once('/')?;
    Some((segment.parse().ok()?, sequence.parse().ok()?))
}

/// Where the log starts.
pub(super) async fn first(local: &Local) -> Result<(u32, u32)> {
    Ok(position(&local.status(0).await?, "log_first").unwrap_or_default())
}

/// Waits until the log starts after `past`.
pub(super) async fn truncated(local: &Local, past: (u32, u32)) -> Result<()> {
    let start = Instant::now();
    loop {
        let first = position(&local.status(0).await?, "log_first");
        if first > Some(past) {
            println!("    the log starts at {first:?} after {:.1} s", start.elapsed().as_secs_f64());
            return Ok(());
        }
        ensure!(start.elapsed() < TRUNCATION_LIMIT, "the log starts at {first:?}, still not after {past:?}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// A position after all that is in the log now. A replica makes known what the older of its restore points needs: the first
/// change after this moment may be one that was made before it, the second one that was being made.
async fn later_restore_point(local: &Local) -> Result<(u32, u32)> {
    let (start, mut changes, mut last) = (Instant::now(), 0, position(&local.status(0).await?, "log_needs"));
    while changes < 3 {
        ensure!(start.elapsed() < TRUNCATION_LIMIT, "replica-0 makes no restore points: {last:?}");
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = position(&local.status(0).await?, "log_needs");
        if now != last {
            (changes, last) = (changes + 1, now);
        }
    }
    last.context("replica-0 has made nothing known")
}

/// A metric of replica `i`.
async fn metric(local: &Local, i: u8, name: &str) -> Result<u64> {
    let text = local.http.get(format!("http://{}/metrics", local.stack.admin(i))).send().await?.text().await?;
    let mut values = text.lines().filter_map(|line| line.strip_prefix("replicateddb_")?.strip_prefix(name));
    let value = values.find_map(|rest| rest.strip_prefix(' ')).with_context(|| format!("no metric {name}"))?;
    Ok(value.trim().parse()?)
}

/// Restore points that the process of replica `i` has taken over from others.
async fn taken_over(local: &Local, i: u8) -> Result<u64> {
    metric(local, i, "restore_points_taken_over_total").await
}

async fn took_over(local: &Local, i: u8) -> Result<()> {
    let (replay, taken) = (replay(local, i).await?, taken_over(local, i).await?);
    ensure!(taken > 0, "replica-{i} has taken over nothing: {replay}");
    ensure!(replay["from"].as_u64() > Some(0) && replay["rewound"] == true, "replica-{i}: {replay}");
    Ok(())
}

fn truncation(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "truncation").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        truncated(local, (0, 0)).await?;
        local.stack.stop(Member::Replica(1)).await?;
        // Beyond all that was there when it was stopped: its restore points and its clean mark are of no use.
        truncated(local, later_restore_point(local).await?).await?;
        local.stack.start(Member::Replica(1)).await?;
        local.wait_ready().await?;
        took_over(local, 1).await?;
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}

/// Writes large rows through replica 0 until the log begins after all that is in it now; gives how many there were.
async fn write_large(local: &Local, table: &str) -> Result<usize> {
    let session = local.session(0, Consistency::One).await?;
    let insert = session.prepare(format!("INSERT INTO {table} (id, value) VALUES (?, ?)")).await?;
    let (start, value, mut rows) = (Instant::now(), "x".repeat(ROW_BYTES), 0usize);
    // As in `later_restore_point`.
    let (mut changes, mut last) = (0, position(&local.status(0).await?, "log_needs"));
    loop {
        let ids = i64::try_from(rows)?..i64::try_from(rows + ROWS_AT_ONCE)?;
        futures::future::try_join_all(ids.map(|id| session.execute_unpaged(&insert, (id, &value)))).await?;
        rows += ROWS_AT_ONCE;
        let held = metric(local, 0, "log_held_bytes").await?;
        ensure!(held > 0 && held < MAX_BYTES as u64, "the log holds {held} bytes after {rows} rows");
        let (first, needs) = (first(local).await?, position(&local.status(0).await?, "log_needs"));
        if changes < 3 && needs != last {
            (changes, last) = (changes + 1, needs);
        }
        if changes == 3 && Some(first) >= last {
            println!("    the log starts at {first:?} after {rows} rows, and holds {held} bytes");
            return Ok(rows);
        }
        let still =
            format!("after {rows} rows the log starts at {first:?}; {changes} restore points of replica-0: {last:?}");
        ensure!(rows < BEHIND_RECORDS && start.elapsed() < TRUNCATION_LIMIT, "{still}");
        tokio::time::sleep(ROWS_PAUSE).await;
    }
}

fn truncation_by_bytes(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let table = local.table("load", "large");
        let session = local.session(0, Consistency::Quorum).await?;
        local.make_keyspace(&session, "load").await?;
        session.query_unpaged(format!("CREATE TABLE {table} (id bigint PRIMARY KEY, value text)"), ()).await?;
        local.stack.stop(Member::Replica(1)).await?;
        let stopped = local.status(0).await?["applied_index"].as_u64().context("no index")?;
        // Beyond all that was there when it was stopped: its restore points and its clean mark are of no use.
        let rows = write_large(local, &table).await?;
        ensure!(rows * ROW_BYTES > BEHIND_BYTES, "only {rows} rows, and replica-1 was left behind");
        let written = local.status(0).await?["applied_index"].as_u64().context("no index")? - stopped;
        ensure!(written < BEHIND_RECORDS as u64, "{written} records: their number may have decided");
        local.stack.start(Member::Replica(1)).await?;
        local.wait_ready().await?;
        took_over(local, 1).await?;
        let (held, limit) = (metric(local, 1, "log_held_bytes").await?, metric(local, 1, "log_limit_bytes").await?);
        ensure!(held < limit && limit == MAX_BYTES as u64, "replica-1: {held} of {limit} bytes");
        anyhow::Ok(())
    })?;
    local.verify()
}

fn lost_volume(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "lost_volume").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        truncated(local, (0, 0)).await?;
        local.stack.kill(Member::Cassandra(2), Target::Whole).await?;
        local.stack.kill(Member::Replica(2), Target::Whole).await?;
        local.stack.wipe(Member::Cassandra(2)).await?;
        local.stack.start(Member::Cassandra(2)).await?;
        local.stack.start(Member::Replica(2)).await?;
        local.wait_ready().await?;
        took_over(local, 2).await?;
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    local.verify()
}

fn damaged(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "damaged").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        truncated(local, (0, 0)).await?;
        let before = local.status(0).await?["generation"].as_u64();
        let taken = taken_over(local, 0).await?;
        // Killed first: a restore point that is made meanwhile would be whole.
        local.stack.freeze(Member::Replica(0), Target::Whole).await?;
        local.stack.kill(Member::Cassandra(0), Target::Jvm).await?;
        let files = restore_point_files(&local.stack.dir().join("cassandra-0"))?;
        ensure!(!files.is_empty(), "no restore point of cassandra-0 has a file");
        for file in &files {
            damage(file)?;
        }
        local.stack.thaw(Member::Replica(0), Target::Whole).await?;
        wait_generation(local, 0, before).await?;
        local.wait_ready().await?;
        ensure!(taken_over(local, 0).await? > taken, "replica-0 has taken over nothing");
        replay(local, 0).await?;
        load.wait_each(SOME_EACH, WRITES_LIMIT).await?;
        load.finish(local).await
    })?;
    let log = std::fs::read_to_string(local.stack.log(Member::Cassandra(0)))?;
    ensure!(log.contains("is damaged: "), "the agent of cassandra-0 did not say what is damaged");
    local.verify()
}

/// Somebody writes to a Cassandra past the log.
fn diverged(local: &mut Local) -> Result<()> {
    local.runtime.block_on(async {
        let load = Load::start(local, "diverged").await?;
        load.wait_for(SOME, WRITES_LIMIT).await?;
        load.finish(local).await?;
        let past = super::session_at(local.stack.settings().cassandra_cql(1), Consistency::One).await?;
        past.query_unpaged("INSERT INTO load.diverged (client, seq, value) VALUES ('nobody', 1, 'x')", ()).await?;
        anyhow::Ok(())
    })?;
    let name = local.stack.admin(1).to_string();
    let report = local.compare(&["--report-only"])?;
    ensure!(!report.equal && report.text.contains(&format!("DIVERGED   {name} differs")), "{}", report.text);
    let before = local.runtime.block_on(local.status(1))?["generation"].as_u64();
    // By the endpoint of another replica this time.
    let (status, answer) = local.runtime.block_on(async {
        let response = local.http.post(format!("http://{}/verify", local.stack.admin(0))).send().await?;
        anyhow::Ok((response.status(), response.json::<serde_json::Value>().await?))
    })?;
    ensure!(status.as_u16() == 409 && answer["diverged"][&name][0] == "load.diverged", "{status} {answer}");
    local.runtime.block_on(async {
        wait_generation(local, 1, before).await?;
        local.wait_ready().await
    })?;
    local.verify()
}

/// One file with rows of each restore point.
fn restore_point_files(member: &Path) -> Result<Vec<PathBuf>> {
    let points = member.join("data/agent/restore-points");
    let mut files = Vec::new();
    for point in std::fs::read_dir(&points).with_context(|| points.display().to_string())? {
        files.extend(with_rows(&point?.path().join("data/load"))?);
    }
    Ok(files)
}

fn with_rows(folder: &Path) -> Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = with_rows(&path)? {
                return Ok(Some(found));
            }
        } else if path.to_string_lossy().ends_with("-Data.db") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Changes a byte of a file, in a copy that takes its place: it is a link of Cassandra's own.
fn damage(path: &Path) -> Result<()> {
    let mut content = std::fs::read(path)?;
    let middle = content.len() / 2;
    *content.get_mut(middle).context("an empty file")? ^= 1;
    std::fs::remove_file(path)?;
    Ok(std::fs::write(path, content)?)
}
