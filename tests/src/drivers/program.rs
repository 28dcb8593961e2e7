//! A driver's program as a child process: its lines, and the deaths of replicas that it asks for.
//!
//! It prints `ok NAME: ...` or `FAILED NAME: ...` for each check. A line `KILL ADDRESS` asks for the death of the replica
//! with that address, `START ADDRESS` for its return; the program reads `done` when that has happened.

use std::{
    fs::File,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{Instant, timeout_at},
};

use super::{Local, SUITE, ensure_all};
use crate::{cluster::project, scenario::failure_dir};

/// From a program's start to its end. It takes half a minute to a minute; each of its own waits is a minute at most.
const PROGRAM_LIMIT: Duration = Duration::from_secs(300);

/// The script that runs a program, with what it is to run.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(project().join("tests/drivers/client"));
    command.arg(name).kill_on_drop(true);
    command
}

/// Runs the program of a driver that is told of one replica alone.
///
/// # Errors
/// When a check failed or is missing, or replicas differ afterwards.
pub fn check(local: &mut Local, name: &str, contact: u8) -> Result<()> {
    let outcome = local.runtime.block_on(async {
        let outcome = run(local, name, contact).await;
        let started = local.start_all().await;
        outcome.and(started)
    });
    outcome?;
    local.verify()
}

async fn run(local: &Local, name: &str, contact: u8) -> Result<()> {
    let errors = failure_dir(SUITE, name)?.join("stderr.log");
    let file = File::create(&errors).with_context(|| errors.display().to_string())?;
    let mut command = command(name);
    command.arg(local.address(contact).to_string()).args(local.addresses().iter().map(ToString::to_string));
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file).spawn()?;
    let mut talk = Talk::new(child)?;
    let ended = talk.listen(local).await.with_context(|| format!("what it said last is in {}", errors.display()))?;
    let failed = talk.failed.join("\n");
    ensure!(ended.success() && talk.failed.is_empty(), "{ended}; its errors are in {}\n{failed}", errors.display());
    ensure_all(&talk.well)?;
    // Nothing has failed: there is nothing to look into.
    std::fs::remove_file(&errors).with_context(|| errors.display().to_string())
}

/// What goes on between a program and the suite.
struct Talk {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    answers: ChildStdin,
    /// Names of checks that went well.
    well: Vec<String>,
    /// Lines of the others.
    failed: Vec<String>,
}

impl Talk {
    fn new(mut child: Child) -> Result<Self> {
        let lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let answers = child.stdin.take().context("its input")?;
        Ok(Self { child, lines, answers, well: Vec::new(), failed: Vec::new() })
    }

    /// Hears the program to its end.
    async fn listen(&mut self, local: &Local) -> Result<ExitStatus> {
        let deadline = Instant::now() + PROGRAM_LIMIT;
        loop {
            let line = timeout_at(deadline, self.lines.next_line()).await;
            let Ok(line) = line else { bail!("not done after {} s", PROGRAM_LIMIT.as_secs()) };
            match line? {
                Some(line) => self.hear(local, &line).await?,
                None => return Ok(timeout_at(deadline, self.child.wait()).await.context("it does not end")??),
            }
        }
    }

    async fn hear(&mut self, local: &Local, line: &str) -> Result<()> {
        println!("    {line}");
        match line.split_once(' ') {
            Some(("KILL", address)) => {
                local.kill_replica(address).await?;
                self.answers.write_all(b"done\n").await?;
            }
            Some(("START", address)) => {
                local.start_replica(address).await?;
                self.answers.write_all(b"done\n").await?;
            }
            Some(("ok", rest)) => self.well.push(rest.split(':').next().unwrap_or_default().to_owned()),
            Some(("FAILED", _)) => self.failed.push(line.to_owned()),
            _ => {}
        }
        Ok(())
    }
}
