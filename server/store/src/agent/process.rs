//! The JVM as a child process: spawned by a thread that never ends, reaped, signalled without hitting a stranger.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tokio::sync::{oneshot, watch};

use super::spawn::tie_to_parent;

/// Longest wait for a killed process to be gone.
const KILL_WAIT: Duration = Duration::from_secs(30);

/// The one thread that spawns: children die with it (see [`tie_to_parent`]), so it must outlive them all.
#[derive(Debug, Clone)]
pub struct Spawner {
    jobs: Sender<Job>,
}

struct Job {
    command: Command,
    reply: oneshot::Sender<std::io::Result<Process>>,
}

/// A child, running or ended.
#[derive(Debug, Clone)]
pub struct Process {
    pid: u32,
    /// False once it is reaped: from then on its pid may be another's.
    alive: Arc<Mutex<bool>>,
    exit: watch::Receiver<Option<String>>,
}

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new() -> Result<Self> {
        let (jobs, receiver) = channel();
        std::thread::Builder::new()
            .name("jvm-parent".to_owned())
            .spawn(move || work(&receiver))
            .context("can't start a thread")?;
        Ok(Self { jobs })
    }

    /// Spawns a child, once the last one has ended.
    ///
    /// # Errors
    /// If it can't be spawned, for instance because there is no such program.
    pub async fn spawn(&self, command: Command) -> Result<Process> {
        let program = command.get_program().to_string_lossy().into_owned();
        let (reply, result) = oneshot::channel();
        self.jobs.send(Job { command, reply }).map_err(|_| anyhow!("the spawning thread has ended"))?;
        let process = result.await.context("the spawning thread has ended")?;
        process.with_context(|| format!("can't start {program}"))
    }
}

fn work(jobs: &Receiver<Job>) {
    while let Ok(Job { mut command, reply }) = jobs.recv() {
        tie_to_parent(&mut command);
        // A signal for the agent's group is the agent's to pass on: it drains first.
        command.process_group(0);
        match command.spawn() {
            Ok(child) => {
                let (sender, exit) = watch::channel(None);
                let process = Process { pid: child.id(), alive: Arc::new(Mutex::new(true)), exit };
                // If nobody waits for the reply any more, the child is still reaped, and dies with the agent.
                let _ = reply.send(Ok(process.clone()));
                sender.send_replace(Some(reap(child, &process)));
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
    }
}

/// Waits for the child's end and says how it ended.
fn reap(mut child: Child, process: &Process) -> String {
    // Wait without reaping first: until the flag is down, its pid is certainly its own.
    let waited = waitid(Id::Pid(process.as_pid()), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
    if let Err(error) = waited {
        tracing::warn!(%error, "waiting for the JVM");
    }
    let mut alive = process.alive.lock().unwrap_or_else(PoisonError::into_inner);
    let status = child.wait();
    *alive = false;
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("ended, unknown how: {error}"),
    }
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    fn as_pid(&self) -> Pid {
        Pid::from_raw(self.pid.cast_signed())
    }

    /// Whether it has not been reaped.
    pub fn is_alive(&self) -> bool {
        *self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it has ended, and says how.
    pub async fn ended(&self) -> String {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(text) => text.clone().unwrap_or_default(),
            Err(_) => "ended, unknown how".to_owned(),
        }
    }

    /// Kills it and waits until it is gone.
    ///
    /// # Errors
    /// If it is not gone in time (stuck in the kernel): nothing may be done to its files then.
    pub async fn kill(&self) -> Result<()> {
        {
            let alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
            if *alive {
                kill(self.as_pid(), Signal::SIGKILL).context("can't kill the JVM")?;
            }
        }
        if tokio::time::timeout(KILL_WAIT, self.ended()).await.is_err() {
            bail!("the JVM (pid {}) did not end within {KILL_WAIT:?} of being killed", self.pid);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn says_how_a_child_ended() {
        let spawner = Spawner::new().unwrap();
        let process = spawner.spawn(shell("exit 3")).await.unwrap();
        assert!(process.ended().await.contains('3'));
        assert!(!process.is_alive());
        process.kill().await.unwrap();
        let process = spawner.spawn(shell("sleep 100")).await.unwrap();
        assert!(process.is_alive());
        process.kill().await.unwrap();
        assert!(process.ended().await.contains("signal: 9"));
        let error = spawner.spawn(Command::new("/nowhere/java")).await.unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere/java"));
    }

    #[tokio::test]
    async fn a_child_can_not_pin_memory() {
        let spawner = Spawner::new().unwrap();
        let process = spawner.spawn(shell("test $(ulimit -l) = 64")).await.unwrap();
        assert_eq!(process.ended().await, "exit status: 0");
    }
}
