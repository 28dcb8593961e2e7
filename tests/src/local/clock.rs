//! A replica whose clock is an hour off, and steps while it runs.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use replicateddb_local::{Ended, Member, Target};
use scylla::{client::session::Session, statement::Consistency};

use super::{Local, REPLICAS, number};
use crate::{scenario::Scenario, wait::until};

/// The replica with the wrong clock.
const WRONG: u8 = 1;
/// How far off it is, s: ahead, right, behind, right.
const STEPS: [i64; 4] = [3600, 0, -3600, 0];
/// Writes through each replica, in turn, after each step.
const ROUNDS: i64 = 5;
/// Life of a row that ends by itself: longer than it takes to look at every replica, s.
const TTL: i64 = 5;
/// Longest wait for its end.
const END_LIMIT: Duration = Duration::from_secs(40);
/// How long the shim may take to notice a step; it looks ten times as often.
const STEP_NOTICED: Duration = Duration::from_secs(1);
/// How far write times of an hour may lie from the clock of everybody else, µs.
const NEAR: i64 = 20_000_000;

/// Shifts the wall clock of the process that loads it by the seconds in a file, which it reads again ten times a second.
const SHIM: &str = include_str!("clock_shim.c");

pub fn scenarios() -> Vec<Scenario<Local>> {
    vec![Scenario {
        name: "clock-steps",
        proves: "a replica whose clock steps by an hour, either way, changes neither order nor write times nor expiry",
        run: clock_steps,
    }]
}

/// A clock that can be set for one process.
struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// Compiles the shim; none without a C compiler.
    fn new(dir: &Path) -> Result<Option<Self>> {
        let (source, library, offset) = (dir.join("clock.c"), dir.join("clock.so"), dir.join("clock-offset"));
        std::fs::write(&source, SHIM)?;
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let mut command = Command::new(&compiler);
        command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source);
        match command.output() {
            Err(error) => {
                println!(
                    "    SKIPPED: no C compiler to shift a process's clock with ({}: {error})",
                    compiler.display()
                );
                return Ok(None);
            }
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "{command:?}: {said}");
            }
        }
        let clock = Self { library, offset };
        clock.write(0)?;
        Ok(Some(clock))
    }

    fn write(&self, seconds: i64) -> Result<()> {
        let new = self.offset.with_extension("new");
        std::fs::write(&new, seconds.to_string())?;
        std::fs::rename(&new, &self.offset).context("setting the clock")
    }

    fn variables(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        vec![("LD_PRELOAD".into(), text(&self.library)), ("TEST_CLOCK_OFFSET".into(), text(&self.offset))]
    }
}

fn clock_steps(local: &mut Local) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Some(clock) = Clock::new(dir.path())? else { return Ok(()) };
    let member = Member::Replica(WRONG);
    local.runtime.block_on(async {
        let ended = local.stack.stop(member).await?;
        ensure!(ended == Ended::Gracefully, "{member} had to be killed");
        local.stack.start_with(member, &clock.variables()).await?;
        local.wait_ready().await
    })?;
    let result = steps(local, &clock);
    local.runtime.block_on(async {
        // With the right clock again; killed, so that it also replays what it proposed with the wrong one.
        local.stack.kill(member, Target::Whole).await?;
        local.stack.start(member).await?;
        local.wait_ready().await
    })?;
    result?;
    local.verify()
}

fn steps(local: &Local, clock: &Clock) -> Result<()> {
    let (sessions, table) = local.runtime.block_on(async {
        let mut sessions = Vec::new();
        for replica in 0..REPLICAS {
            sessions.push(local.session(replica, Consistency::Quorum).await?);
        }
        let first = sessions.first().context("no replica")?;
        local.make_keyspace(first, "clocks").await?;
        let table = local.table("clocks", "rows");
        first.query_unpaged(format!("CREATE TABLE {table} (id int PRIMARY KEY, v bigint)"), ()).await?;
        anyhow::Ok((sessions, table))
    })?;
    let (mut value, mut last_time) = (0, 0);
    for (step, offset) in STEPS.into_iter().enumerate() {
        clock.write(offset)?;
        // Not for something to happen: the shim looks at the file by itself.
        std::thread::sleep(STEP_NOTICED);
        local.runtime.block_on(async {
            for _ in 0..ROUNDS {
                for writer in &sessions {
                    value += 1;
                    let write = format!("UPDATE {table} SET v = {value} WHERE id = 1");
                    writer.query_unpaged(write, ()).await?;
                    last_time = shown_everywhere(&sessions, &table, value, last_time).await?;
                }
            }
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_micros() as i64;
            ensure!((now - last_time).abs() < NEAR, "the write time {last_time} is not near {now}: dragged along");
            println!("    {offset:+} s: {value} writes in order on every replica, the last one at {last_time}");
            anyhow::Ok(())
        })?;
        expires(local, &sessions, &table, 100 + step)?;
    }
    Ok(())
}

/// The last write is what every replica shows, at one write time, which is later than the one before.
async fn shown_everywhere(sessions: &[Session], table: &str, value: i64, before: i64) -> Result<i64> {
    let mut time = None;
    for (replica, session) in sessions.iter().enumerate() {
        let query = format!("SELECT v, writetime(v) FROM {table} WHERE id = 1");
        let rows = session.query_unpaged(query, ()).await?.into_rows_result()?;
        let (shown, written) = rows.single_row::<(i64, i64)>()?;
        ensure!(shown == value, "replica-{replica} shows {shown} after {value} was acknowledged");
        ensure!(written > before, "replica-{replica}: written at {written}, not after {before}");
        ensure!(*time.get_or_insert(written) == written, "replica-{replica}: written at {written}, not {time:?}");
    }
    time.context("no replica")
}

/// A row with a TTL, written through the replica with the wrong clock, lives everywhere, and then ends everywhere.
fn expires(local: &Local, sessions: &[Session], table: &str, id: usize) -> Result<()> {
    let count = format!("SELECT count(*) FROM {table} WHERE id = {id}");
    local.runtime.block_on(async {
        let writer = sessions.get(usize::from(WRONG)).context("no such replica")?;
        writer.query_unpaged(format!("INSERT INTO {table} (id, v) VALUES ({id}, 0) USING TTL {TTL}"), ()).await?;
        for (replica, session) in sessions.iter().enumerate() {
            ensure!(number(session, &count).await? == 1, "replica-{replica}: expired at once");
        }
        anyhow::Ok(())
    })?;
    local.verify()?;
    until("the row's end on every replica", END_LIMIT, || {
        local.runtime.block_on(async {
            let mut left = 0;
            for session in sessions {
                left += number(session, &count).await?;
            }
            Ok((left == 0).then_some(()))
        })
    })
}
