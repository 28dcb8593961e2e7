//! Starting processes that outlive this one, finding them again, and signalling exactly them.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::procfs::{self, Facts};

/// A log that has grown beyond this is set aside (as `.1`, replacing the last one) when its process starts again.
const LOG_LIMIT_BYTES: u64 = 64 << 20;
/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(50);

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Variables added to the environment.
    pub env: Vec<(String, String)>,
    /// Its working directory.
    pub dir: PathBuf,
    /// The file that gets its output, appended.
    pub log: PathBuf,
}

/// A process as remembered in its pid file. The start time and the machine's boot id guard against a reused id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Process id.
    pub pid: i32,
    started: u64,
    boot: String,
}

impl Launch {
    /// Starts it detached: its own process group, no terminal, output to the log. It outlives the caller.
    pub fn spawn(&self) -> Result<Recorded> {
        let log = open_log(&self.log).with_context(|| format!("opening {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().cloned()).current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().with_context(|| format!("starting {}", self.program.display()))?;
        let pid = i32::try_from(child.id()).context("process id out of range")?;
        match Facts::of(pid) {
            Some(facts) => Ok(Recorded { pid, started: facts.started, boot: procfs::boot_id() }),
            None => {
                collect(pid);
                bail!("{} ended at once; see {}", self.program.display(), self.log.display())
            }
        }
    }
}

impl Recorded {
    /// Reads a pid file; `None` if there is none. A damaged file counts as none: its process is then found by its
    /// environment or by its ports.
    pub fn load(file: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(file).ok()?).ok()
    }

    /// Writes the pid file.
    pub fn save(&self, file: &Path) -> Result<()> {
        write_whole(file, &serde_json::to_vec(self)?).with_context(|| format!("writing {}", file.display()))
    }

    /// The facts of the process while it lives; `None` once it is gone, even if its id is in use again.
    #[must_use]
    pub fn alive(&self) -> Option<Facts> {
        let facts = Facts::of(self.pid);
        if facts.is_none() {
            collect(self.pid);
        }
        facts.filter(|facts| facts.started == self.started && procfs::boot_id() == self.boot)
    }

    /// CPU time it has used so far, seconds; `None` once it is gone.
    #[must_use]
    pub fn cpu_seconds(&self) -> Option<f64> {
        self.alive().map(|facts| facts.cpu_seconds())
    }
}

impl From<Facts> for Recorded {
    fn from(facts: Facts) -> Self {
        Self { pid: facts.pid, started: facts.started, boot: procfs::boot_id() }
    }
}

/// Sends `signal` to the process, unless it is gone.
pub fn send(process: &Recorded, signal: Signal) -> Result<()> {
    if process.alive().is_none() {
        return Ok(());
    }
    match signal::kill(Pid::from_raw(process.pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("sending {signal} to process {}", process.pid)),
    }
}

/// Waits until all of `processes` are gone; `false` if some are left when `limit` has passed.
pub async fn gone(processes: &[Recorded], limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if processes.iter().all(|process| process.alive().is_none()) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Collects `pid` if it is a dead child of ours, so that a long-lived caller keeps no zombies.
fn collect(pid: i32) {
    // Not our child, or still running: nothing to do in either case.
    let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
}

fn open_log(path: &Path) -> Result<File> {
    if std::fs::metadata(path).is_ok_and(|meta| meta.len() > LOG_LIMIT_BYTES) {
        std::fs::rename(path, path.with_extension("log.1"))?;
    }
    Ok(OpenOptions::new().create(true).append(true).open(path)?)
}

/// Replaces `file` by `bytes`, whole or not at all, also when the machine stops in the middle.
pub fn write_whole(file: &Path, bytes: &[u8]) -> Result<()> {
    let part = file.with_extension("part");
    let mut out = File::create(&part)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    std::fs::rename(&part, file)?;
    Ok(())
}

/// The last non-empty lines of a log, at most `lines`, each cut to a bearable length, for error messages.
#[must_use]
pub fn last_lines(log: &Path, lines: usize) -> String {
    const TAIL_BYTES: usize = 64 << 10;
    const LINE_CHARS: usize = 400;
    let bytes = std::fs::read(log).unwrap_or_default();
    let tail = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]).into_owned();
    let all: Vec<&str> = tail.lines().filter(|line| !line.trim().is_empty()).collect();
    let cut = all[all.len().saturating_sub(lines)..].iter().map(|line| line.chars().take(LINE_CHARS).collect());
    cut.collect::<Vec<String>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path) -> Launch {
        Launch {
            program: "sleep".into(),
            args: vec!["600".into()],
            env: vec![("REPLICATEDDB_LOCAL_TEST".into(), dir.display().to_string())],
            dir: dir.to_owned(),
            log: dir.join("sleep.log"),
        }
    }

    #[tokio::test]
    async fn a_process_is_found_frozen_thawed_and_killed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid.json");
        sleeper(dir.path()).spawn().unwrap().save(&file).unwrap();
        let process = Recorded::load(&file).unwrap();
        assert!(!process.alive().unwrap().frozen());
        let variable = format!("REPLICATEDDB_LOCAL_TEST={}", dir.path().display());
        let found = procfs::with_environment(&[variable]);
        assert_eq!(found.iter().map(|facts| facts.pid).collect::<Vec<_>>(), [process.pid]);

        send(&process, Signal::SIGSTOP).unwrap();
        while !process.alive().unwrap().frozen() {
            tokio::time::sleep(POLL).await;
        }
        assert!(!gone(std::slice::from_ref(&process), POLL).await);
        send(&process, Signal::SIGKILL).unwrap();
        assert!(gone(std::slice::from_ref(&process), Duration::from_secs(5)).await);
        assert!(send(&process, Signal::SIGTERM).is_ok(), "a signal to a process that is gone is no error");
    }

    #[test]
    fn a_reused_id_is_not_the_recorded_process() {
        let me = Recorded::from(Facts::of(i32::try_from(std::process::id()).unwrap()).unwrap());
        assert!(me.alive().is_some());
        assert!(Recorded { started: me.started + 1, ..me.clone() }.alive().is_none());
        assert!(Recorded { boot: "another".into(), ..me }.alive().is_none());
    }

    #[test]
    fn a_missing_program_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let launch = Launch { program: "/no/such/program".into(), ..sleeper(dir.path()) };
        assert!(launch.spawn().unwrap_err().to_string().contains("/no/such/program"));
    }

    #[test]
    fn the_end_of_a_log_is_cut_to_what_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        std::fs::write(&log, format!("first\n\nsecond\n{}\n", "ä".repeat(100_000))).unwrap();
        let end = last_lines(&log, 2);
        assert_eq!(end.chars().count(), 400);
        std::fs::write(&log, "first\n\nsecond\nthird\n").unwrap();
        assert_eq!(last_lines(&log, 2), "second\nthird");
        assert_eq!(last_lines(&dir.path().join("missing"), 2), "");
    }

    #[test]
    fn a_log_that_has_grown_too_large_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("x.log");
        File::create(&log).unwrap().set_len(LOG_LIMIT_BYTES + 1).unwrap();
        assert_eq!(open_log(&log).unwrap().metadata().unwrap().len(), 0);
        assert!(dir.path().join("x.log.1").exists());
    }
}
