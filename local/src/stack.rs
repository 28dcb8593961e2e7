//! A stack in a folder: its members one by one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::builder::Builder;
use crate::certificates::Authority;
use crate::launch::{self, Layout, Programs, STACK_VARIABLE, SUPERUSER};
use crate::member::Member;
use crate::probe::{self, Answer, Probe};
use crate::process::{self, Recorded};
use crate::procfs::{self, Facts};
use crate::range::RangeClaim;
use crate::settings::Settings;

/// How long a command waits for another one that works on the same stack.
const LOCK_WAIT: Duration = Duration::from_secs(120);
/// How long the processes of a member may take to vanish after SIGKILL, a JVM after its agent's.
const KILL_WAIT: Duration = Duration::from_secs(10);
/// How long a process may take to freeze or to go on; on a machine with more work than processors it can take long.
const SIGNAL_WAIT: Duration = Duration::from_secs(30);
/// How often a wait looks again.
pub(crate) const POLL: Duration = Duration::from_millis(200);

/// How long a member may take to stop by itself before it is killed.
#[must_use]
pub fn stop_limit(member: Member) -> Duration {
    Duration::from_secs(match member {
        Member::Replica(_) => 30,
        Member::Cassandra(_) => 60,
        Member::Zookeeper(_) => 15,
    })
}

/// How a member came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was not running.
    WasNotRunning,
    /// By itself, after being asked.
    Gracefully,
    /// It was killed, having let its time pass.
    Killed,
}

/// Which processes of a member are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// All: of a Cassandra, the agent and its JVM.
    Whole,
    /// Of a Cassandra, its JVM alone.
    Jvm,
}

/// Whether a member's process is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// It runs.
    Yes,
    /// It is there and stopped by `freeze`.
    Frozen,
    /// It was never started, or was stopped or killed by command.
    No,
    /// It was started and is gone without having been told to.
    Died,
}

/// One line of `status`.
#[derive(Clone, Debug)]
pub struct MemberStatus {
    /// The member.
    pub member: Member,
    /// Whether its process is there.
    pub running: Running,
    /// Process id of its main process.
    pub pid: Option<i32>,
    /// Resident memory of all its processes.
    pub memory_bytes: u64,
    /// What it says of itself; empty when it does not run.
    pub answer: Answer,
}

/// Who clients of a stack can log in as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superuser {
    /// The user name.
    pub name: &'static str,
    /// The file with the password and nothing else, which its owner alone can read.
    pub password_file: PathBuf,
}

/// What clients of a stack go by that use TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Whom they trust.
    pub authority: Authority,
    /// The file with the certificate of all replicas.
    pub certificate: PathBuf,
    /// The file with its key.
    pub key: PathBuf,
}

/// A stack: the settings of a folder and the processes that belong to it.
#[derive(Debug)]
pub struct Stack {
    pub(crate) settings: Settings,
    pub(crate) layout: Layout,
    pub(crate) probe: Probe,
    pub(crate) kill_on_drop: bool,
    pub(crate) _claim: Option<RangeClaim>,
}

impl Stack {
    /// Begins to describe a stack.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// The stack in `dir`; `None` if there is none.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        let Some(settings) = Settings::load(dir)? else { return Ok(None) };
        let dir = dir.canonicalize().with_context(|| format!("resolving {}", dir.display()))?;
        Ok(Some(Self { settings, layout: Layout { dir }, probe: Probe::new()?, kill_on_drop: false, _claim: None }))
    }

    /// What the stack is made of.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The folder of the stack.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.layout.dir
    }

    /// The log file of `member`.
    #[must_use]
    pub fn log(&self, member: Member) -> PathBuf {
        self.layout.log(member)
    }

    /// The file with the secret between replicas and store agents.
    #[must_use]
    pub fn token_file(&self) -> PathBuf {
        self.layout.token()
    }

    /// The first superuser; `None` where clients need not log in.
    #[must_use]
    pub fn superuser(&self) -> Option<Superuser> {
        let password_file = self.layout.superuser_password();
        self.settings.authentication.then_some(Superuser { name: SUPERUSER, password_file })
    }

    /// What clients go by that use TLS; `None` where they don't.
    #[must_use]
    pub fn tls(&self) -> Option<Tls> {
        let authority = Authority::at(&self.layout.tls());
        let (certificate, key) = (self.layout.tls_certificate(), self.layout.tls_key());
        self.settings.tls.then_some(Tls { authority, certificate, key })
    }

    /// The folder of all that `member` keeps on disk.
    #[must_use]
    pub fn data(&self, member: Member) -> PathBuf {
        self.layout.data(member)
    }

    /// Where clients of replica `i` connect.
    #[must_use]
    pub fn cql(&self, i: u8) -> SocketAddr {
        self.settings.replica_cql(i)
    }

    /// The admin HTTP server of replica `i`.
    #[must_use]
    pub fn admin(&self, i: u8) -> SocketAddr {
        self.settings.replica_admin(i)
    }

    /// Starts `member` unless it runs already; does not wait for it to be ready. `true` if it was started now.
    pub async fn start(&self, member: Member) -> Result<bool> {
        self.start_with(member, &[]).await
    }

    /// As [`Stack::start`], with these variables in the environment of its processes.
    pub async fn start_with(&self, member: Member, variables: &[(String, String)]) -> Result<bool> {
        self.known(member)?;
        let _lock = self.lock().await?;
        if self.main_process(member).is_some() {
            return Ok(false);
        }
        // An agent that was killed a moment ago may have a JVM that is still on its way out.
        self.end_processes(member).await?;
        for address in self.settings.listens(member) {
            probe::check_free(address).with_context(|| format!("{member} can't start"))?;
        }
        let programs = Programs::find(&self.settings, member)?;
        self.prepare(member)?;
        let mut launch = launch::launch(&self.settings, &self.layout, &programs, member.index());
        launch.env.extend_from_slice(variables);
        let process = launch.spawn()?;
        process.save(&self.layout.pid_file(member))?;
        Ok(true)
    }

    /// Asks `member` to stop, waits as long as [`stop_limit`] says, then kills it.
    pub async fn stop(&self, member: Member) -> Result<Ended> {
        self.known(member)?;
        let _lock = self.lock().await?;
        self.stop_locked(member).await
    }

    pub(crate) async fn stop_locked(&self, member: Member) -> Result<Ended> {
        let Some(process) = self.main_process(member) else {
            self.end_processes(member).await?;
            self.forget(member);
            return Ok(Ended::WasNotRunning);
        };
        process::send(&process, Signal::SIGTERM)?;
        // A frozen process would sleep through the request.
        for part in self.processes(member) {
            process::send(&part, Signal::SIGCONT)?;
        }
        let in_time = process::gone(&[process], stop_limit(member)).await;
        // What an agent leaves behind when it has ended is killed too, and counts as not graceful.
        let left = self.end_processes(member).await?;
        self.forget(member);
        Ok(if in_time && left == 0 { Ended::Gracefully } else { Ended::Killed })
    }

    /// Kills `member` at once (SIGKILL) and waits until it is gone. Fails if it is not running.
    pub async fn kill(&self, member: Member, target: Target) -> Result<()> {
        self.known(member)?;
        let _lock = self.lock().await?;
        let victims = self.targets(member, target)?;
        for victim in &victims {
            process::send(victim, Signal::SIGKILL)?;
        }
        ensure!(process::gone(&victims, KILL_WAIT).await, "{member} is still there after SIGKILL");
        if target == Target::Whole {
            self.end_processes(member).await?;
            self.forget(member);
        }
        Ok(())
    }

    /// Freezes `member` (SIGSTOP): it keeps its connections and does nothing.
    pub async fn freeze(&self, member: Member, target: Target) -> Result<()> {
        self.signal(member, target, Signal::SIGSTOP).await
    }

    /// Lets a frozen `member` go on.
    pub async fn thaw(&self, member: Member, target: Target) -> Result<()> {
        self.signal(member, target, Signal::SIGCONT).await
    }

    /// Sends the signal and waits until it has taken effect: the kernel stops a process some time after the call.
    async fn signal(&self, member: Member, target: Target, signal: Signal) -> Result<()> {
        self.known(member)?;
        let _lock = self.lock().await?;
        let parts = self.targets(member, target)?;
        for part in &parts {
            process::send(part, signal)?;
        }
        let frozen = signal == Signal::SIGSTOP;
        let deadline = Instant::now() + SIGNAL_WAIT;
        while parts.iter().filter_map(Recorded::alive).any(|facts| facts.frozen() != frozen) {
            ensure!(Instant::now() < deadline, "{member} does not react to {signal}");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Removes everything that `member`, which must be stopped, keeps on disk.
    pub async fn wipe(&self, member: Member) -> Result<()> {
        self.known(member)?;
        let _lock = self.lock().await?;
        ensure!(self.processes(member).is_empty(), "{member} is running: 'stop {member}' or 'kill {member}' first");
        remove_tree(&self.layout.data(member))
    }

    /// How `member` is.
    pub async fn status(&self, member: Member) -> MemberStatus {
        let recorded = Recorded::load(&self.layout.pid_file(member));
        let main = self.main_process(member);
        let running = match (main.as_ref().and_then(Recorded::alive), &recorded) {
            (Some(facts), _) if facts.frozen() => Running::Frozen,
            (Some(_), _) => Running::Yes,
            (None, Some(_)) => Running::Died,
            (None, None) => Running::No,
        };
        let answer = match running {
            Running::Yes => self.probe.ask(&self.settings, member).await,
            Running::Frozen | Running::No | Running::Died => Answer { ready: false, detail: String::new() },
        };
        let parts = self.processes(member);
        let memory_bytes = parts.iter().filter_map(|part| procfs::resident_bytes(part.pid)).sum();
        MemberStatus { member, running, pid: main.map(|process| process.pid), memory_bytes, answer }
    }

    /// The process id of `member` (of a Cassandra: of its agent) while it lives.
    #[must_use]
    pub fn pid(&self, member: Member) -> Option<i32> {
        self.main_process(member).map(|process| process.pid)
    }

    /// Process ids of the JVMs of Cassandra `i`: one while it runs.
    #[must_use]
    pub fn jvm_pids(&self, i: u8) -> Vec<i32> {
        self.jvms(Member::Cassandra(i)).iter().map(|process| process.pid).collect()
    }

    /// All live processes of `member`.
    #[must_use]
    pub fn processes(&self, member: Member) -> Vec<Recorded> {
        let marks = self.layout.marks(member);
        let variables: Vec<String> = marks.iter().map(|(name, value)| format!("{name}={value}")).collect();
        procfs::with_environment(&variables).into_iter().map(Recorded::from).collect()
    }

    /// All live processes of the stack, members that its settings no longer name included.
    #[must_use]
    pub fn all_processes(&self) -> Vec<Recorded> {
        let variable = format!("{STACK_VARIABLE}={}", self.layout.dir.display());
        procfs::with_environment(&[variable]).into_iter().map(Recorded::from).collect()
    }

    /// The recorded process of `member`, or, should its pid file be lost, the one that started the others.
    fn main_process(&self, member: Member) -> Option<Recorded> {
        if let Some(process) = Recorded::load(&self.layout.pid_file(member)).filter(|process| process.alive().is_some())
        {
            return Some(process);
        }
        let parts: Vec<Facts> = self.processes(member).iter().filter_map(Recorded::alive).collect();
        let is_top = |facts: &&Facts| parts.iter().all(|other| other.pid != facts.parent);
        // The JVM of an agent that died is no main process: it has nobody to serve.
        let serves = |facts: &&Facts| !matches!(member, Member::Cassandra(_)) || !is_jvm(facts.pid);
        parts.iter().filter(is_top).find(serves).copied().map(Recorded::from)
    }

    fn jvms(&self, member: Member) -> Vec<Recorded> {
        self.processes(member).into_iter().filter(|process| is_jvm(process.pid)).collect()
    }

    fn targets(&self, member: Member, target: Target) -> Result<Vec<Recorded>> {
        let found = match (target, member) {
            (Target::Whole, _) => self.processes(member),
            (Target::Jvm, Member::Cassandra(_)) => self.jvms(member),
            (Target::Jvm, _) => bail!("{member} has no JVM of its own: --jvm is for cassandra-N"),
        };
        let what = if target == Target::Jvm { "the JVM of " } else { "" };
        ensure!(!found.is_empty(), "{what}{member} is not running: 'status' shows what is");
        Ok(found)
    }

    /// Kills whatever is left of `member`; how many processes that were.
    async fn end_processes(&self, member: Member) -> Result<usize> {
        let left = self.processes(member);
        for process in &left {
            process::send(process, Signal::SIGKILL)?;
        }
        ensure!(process::gone(&left, KILL_WAIT).await, "{member} is still there after SIGKILL");
        Ok(left.len())
    }

    fn forget(&self, member: Member) {
        // A file that is not there is just as well forgotten.
        let _ = std::fs::remove_file(self.layout.pid_file(member));
    }

    fn known(&self, member: Member) -> Result<()> {
        let settings = &self.settings;
        ensure!(
            settings.members().contains(&member),
            "this stack has no {member}: {} replica(s), {} Cassandra(s), {} ZooKeeper server(s)",
            settings.replicas,
            settings.cassandras(),
            settings.zookeepers
        );
        Ok(())
    }

    fn prepare(&self, member: Member) -> Result<()> {
        for folder in [self.layout.logs(), self.layout.data(member)] {
            private_dir(&folder)?;
        }
        if let Member::Zookeeper(i) = member {
            for (name, content) in launch::zookeeper_files(&self.settings, &self.layout, i) {
                let file = self.layout.member(member).join(name);
                private_dir(file.parent().unwrap_or(&file))?;
                std::fs::write(&file, content).with_context(|| format!("writing {}", file.display()))?;
            }
        }
        Ok(())
    }

    /// Takes the stack for one command; given back when the file is dropped.
    pub(crate) async fn lock(&self) -> Result<File> {
        let path = self.layout.dir.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        let deadline = Instant::now() + LOCK_WAIT;
        while file.try_lock().is_err() {
            ensure!(Instant::now() < deadline, "another command has been working on {} too long", path.display());
            tokio::time::sleep(POLL).await;
        }
        Ok(file)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if !self.kill_on_drop {
            return;
        }
        for process in self.all_processes() {
            // Nobody is left to be told.
            let _ = process::send(&process, Signal::SIGKILL);
        }
    }
}

fn is_jvm(pid: i32) -> bool {
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    program.file_name().is_some_and(|name| name == "java")
}

pub(crate) fn private_dir(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("making {}", path.display()))
}

pub(crate) fn private_file(path: &Path, content: &str) -> Result<()> {
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(content.as_bytes()).and_then(|()| file.sync_all()));
    written.with_context(|| format!("writing {}", path.display()))
}

pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}
