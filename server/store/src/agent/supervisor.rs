//! Starting, watching, stopping and rewinding the JVM.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use uuid::Uuid;

use super::args::AgentArgs;
use super::exchange::Leases;
use super::faults::Faults;
use super::java::{self, Agents, JOLOKIA_FILE, Launch, jolokia_properties};
use super::jolokia::Jolokia;
use super::layout::Layout;
use super::memory::Memory;
use super::plan::{self, AtStart, Intent};
use super::process::Spawner;
use super::state::{Running, State};
use super::{config, disk, points, rewind};
use crate::api::{Clean, Code, Damaged, Held, Installing, Jvm, Manifest, Refusal, Rewind, Rewound, Status};
use crate::internal::{self, Internal, Keystore};

/// Longest time from spawning a JVM to its first CQL answer.
const START_TIMEOUT: Duration = Duration::from_secs(600);
/// Pause between two looks at a starting JVM.
const START_POLL: Duration = Duration::from_millis(100);
/// A replica that was heard of so lately is taken for alive; it asks for the status more often.
const HEARD_LATELY: Duration = Duration::from_secs(5);
/// Pause between two looks for the mark of a replica that drains.
const MARK_POLL: Duration = Duration::from_millis(50);
/// Pause between two questions to a running JVM.
const HANG_POLL: Duration = Duration::from_secs(1);
/// Fewest questions without an answer before a JVM is ended: a machine that stood still as a whole proves nothing.
const HANG_PROBES: u32 = 3;
/// What a key begins with that Cassandra can use.
const PKCS8: &str = "-----BEGIN PRIVATE KEY-----";
/// Held by whoever writes the keystore: a start of Cassandra, or who follows the agent's files.
static KEYSTORE: std::sync::Mutex<()> = std::sync::Mutex::new(());
/// The user name for Jolokia.
const JOLOKIA_USER: &str = "agent";

/// What never changes while the agent runs.
#[derive(Debug)]
pub struct Setup {
    /// The command line.
    pub args: AgentArgs,
    /// Where everything lies.
    pub layout: Layout,
    /// The JVM's sizes.
    pub memory: Memory,
    /// The JVM's agents.
    pub agents: Agents,
    /// The text of cassandra.yaml.
    pub yaml: String,
    /// The token that callers show.
    pub token: String,
    /// The way to the other processes of the database, and theirs here.
    pub internal: Internal,
    /// Where tests let it crash.
    pub faults: Faults,
}

/// The agent; a cheap handle.
#[derive(Debug, Clone)]
pub struct Agent {
    pub(super) setup: Arc<Setup>,
    state: Arc<Mutex<State>>,
    pub(super) status: Arc<watch::Sender<Status>>,
    spawner: Spawner,
    /// It is shutting down. Beside the state, for whoever asks to see it at once, whatever holds the lock.
    stopping: Arc<AtomicBool>,
    /// Which restore points other agents are reading.
    pub(super) leases: Leases,
    /// The copy of another store's restore point, while one is made: one at a time.
    pub(super) installing: Arc<Mutex<()>>,
    /// How far that is.
    pub(super) progress: Arc<std::sync::Mutex<Option<Installing>>>,
    /// When the current incarnation of the replica was last heard of.
    heard: Arc<std::sync::Mutex<Option<Instant>>>,
}

/// The state, locked; what `status` says is brought up to date when it is given back.
pub struct Locked {
    guard: OwnedMutexGuard<State>,
    status: Arc<watch::Sender<Status>>,
}

impl std::ops::Deref for Locked {
    type Target = State;
    fn deref(&self) -> &State {
        &self.guard
    }
}

impl std::ops::DerefMut for Locked {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.guard
    }
}

impl Locked {
    /// Brings up to date what `status` says, with the lock still held.
    pub fn publish(&self) {
        self.status.send_replace(self.guard.status());
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.publish();
    }
}

/// Runs file operations off the threads that answer calls.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a file operation broke off")?
}

/// An error of the disk or the JVM as callers see it.
pub fn failed(error: &anyhow::Error) -> Refusal {
    let code = if super::jolokia::is_timeout(error) { Code::Timeout } else { Code::Failed };
    Refusal { code, message: format!("{error:#}") }
}

impl Agent {
    /// An agent with the state found on the disk; starts nothing.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(setup: Setup, state: State) -> Result<Self> {
        let status = Arc::new(watch::channel(state.status()).0);
        let (setup, state) = (Arc::new(setup), Arc::new(Mutex::new(state)));
        Ok(Self {
            setup,
            state,
            status,
            spawner: Spawner::new()?,
            stopping: Arc::default(),
            leases: Leases::default(),
            installing: Arc::default(),
            progress: Arc::default(),
            heard: Arc::default(),
        })
    }

    /// What the agent and its JVM are doing, without waiting for calls under way.
    pub fn status(&self) -> Status {
        let installing = self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Status { stopping: self.is_stopping(), installing, ..self.status.borrow().clone() }
    }

    /// Whether it is shutting down.
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The current incarnation of the replica has called.
    pub(super) fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn heard_lately(&self) -> bool {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.is_some_and(|at| at.elapsed() < HEARD_LATELY)
    }

    /// Waits for the calls before this one.
    pub(super) async fn lock(&self) -> Locked {
        Locked { guard: self.state.clone().lock_owned().await, status: self.status.clone() }
    }

    /// Does what is to be done before the first call: a rewind that was under way, and the start on a clean directory.
    ///
    /// # Errors
    /// If the disk fails or there is no `java`.
    pub async fn first_steps(&self, decision: AtStart) -> Result<()> {
        let mut state = self.lock().await;
        match decision {
            AtStart::WaitForRewind => {
                tracing::info!("the directory is dirty: waiting for the replica to have it rewound");
                return Ok(());
            }
            AtStart::Rewind(intent) => {
                tracing::info!(?intent, "rewinding");
                self.carry_out(&mut state, intent).await?;
            }
            AtStart::Start => tracing::info!("the directory is clean"),
            AtStart::KeepUp => return self.clone().start_shared(state).await,
        }
        self.start_jvm(&mut state, true).await.map(drop).map_err(|refusal| anyhow::anyhow!(refusal))
    }

    async fn carry_out(&self, state: &mut State, intent: Intent) -> Result<()> {
        let setup = self.setup.clone();
        state.clean = None;
        let (clean, found) = blocking(move || {
            let clean = rewind::carry_out(&setup.layout, &intent, &setup.faults)?;
            Ok((clean, points::load(&setup.layout)?))
        })
        .await?;
        (state.clean, state.points, state.unreadable) = (Some(clean), found.points, found.unreadable);
        Ok(())
    }

    /// Looks for damage before a rewind: at the newest restore points, until one is whole.
    async fn check_points(&self, state: &mut State, to: &Rewind) -> Result<(), Refusal> {
        let mut candidates = match to {
            Rewind::Empty => Vec::new(),
            Rewind::Latest => state.points.clone(),
            Rewind::RestorePoint { id } => state.points.iter().filter(|point| point.id == *id).cloned().collect(),
        };
        candidates.sort_by_key(|point| std::cmp::Reverse(point.sequence));
        let (layout, last) = (self.setup.layout.clone(), state.persisted.last_put_back.clone());
        let damaged = blocking(move || {
            let mut damaged = Vec::new();
            for point in candidates {
                let read = plan::read_before(&point, last.as_deref());
                match points::check(&layout, &point.id, read) {
                    Ok(()) => break,
                    Err(error) => damaged.push(Damaged { id: point.id, detail: format!("{error:#}") }),
                }
            }
            Ok(damaged)
        });
        state.damaged = damaged.await.map_err(|e| failed(&e))?;
        for damaged in &state.damaged {
            tracing::error!("{damaged}");
        }
        Ok(())
    }

    /// The call `rewind`.
    ///
    /// # Errors
    /// If there is nothing to rewind to, or the disk fails.
    pub(super) async fn rewind(&self, state: &mut State, to: &Rewind) -> Result<Rewound, Refusal> {
        plan::check_trusted(to, state.persisted.distrusted.as_deref())?;
        self.check_points(state, to).await?;
        let intent = plan::rewind_to(to, &state.points, &state.all_damaged())?;
        tracing::info!(?intent, "rewinding");
        self.stop_jvm(state).await.map_err(|e| failed(&e))?;
        state.persisted.last_put_back = intent.restore_point.clone();
        self.carry_out(state, intent).await.map_err(|e| failed(&e))?;
        if *to == Rewind::Empty {
            self.set_distrusted(state, None).await?;
        }
        let manifest = state.clean.as_ref().and_then(|clean| clean.manifest.clone());
        let generation = self.start_jvm(state, false).await?;
        Ok(Rewound { generation, manifest })
    }

    /// Starts the JVM on a clean directory. With `keep_mark` the mark goes on to hold for the new generation, until
    /// the replica clears it; without, the directory is dirty from here on.
    ///
    /// # Errors
    /// If the directory is not clean, the disk fails, or there is no `java`.
    pub(super) async fn start_jvm(&self, state: &mut State, keep_mark: bool) -> Result<u64, Refusal> {
        let clean = state.clean.clone().filter(|clean| state.running.is_none() && plan::mark_holds(clean, None));
        let Some(clean) = clean else {
            let message = "the directory is neither clean nor just rewound".to_owned();
            return Err(Refusal { code: Code::Dirty, message });
        };
        self.launch(state, keep_mark.then_some(clean.manifest)).await
    }

    /// Starts the JVM on the directory as it is. With a `mark` that goes on to hold for the new generation.
    pub(super) async fn launch(&self, state: &mut State, mark: Option<Option<Manifest>>) -> Result<u64, Refusal> {
        match self.spawn_jvm(state, mark).await {
            Ok(running) => {
                let generation = running.generation;
                tracing::info!(generation, pid = running.process.pid(), "Cassandra is starting");
                state.running = Some(running.clone());
                state.jvm = Jvm::Starting;
                state.leftovers = true;
                tokio::spawn(self.clone().watch(running));
                Ok(generation)
            }
            Err(error) => {
                state.jvm = Jvm::Failed { detail: format!("{error:#}") };
                Err(failed(&error))
            }
        }
    }

    async fn spawn_jvm(&self, state: &mut State, mark: Option<Option<Manifest>>) -> Result<Running> {
        let password = Uuid::new_v4().simple().to_string();
        let mut persisted = state.persisted.clone();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        persisted.generation = persisted.next_generation(now.as_secs());
        let generation = persisted.generation;
        let mark = mark.map(|manifest| Clean { manifest, held: Held::Generation { generation } });
        let (setup, saved, kept) = (self.setup.clone(), persisted.clone(), mark.clone());
        let properties = jolokia_properties(setup.args.jolokia_port, JOLOKIA_USER, &password);
        blocking(move || {
            saved.save(&setup.layout)?;
            render(&setup, &properties)?;
            match kept {
                Some(mark) => disk::write_json(&setup.layout.clean(), &mark),
                None => disk::remove_file(&setup.layout.clean()),
            }
        })
        .await?;
        (state.persisted, state.clean) = (persisted, mark);
        let process = self.spawner.spawn(self.command(generation)).await?;
        let jolokia = Jolokia::new(self.setup.args.jolokia_port, JOLOKIA_USER, &password)?;
        Ok(Running { generation, process, jolokia })
    }

    fn command(&self, generation: u64) -> Command {
        let setup = &self.setup;
        let launch = Launch {
            args: &setup.args,
            layout: &setup.layout,
            memory: setup.memory,
            agents: &setup.agents,
            generation,
        };
        let mut command = Command::new(&setup.args.java);
        command.args(java::arguments(&launch)).current_dir(setup.layout.agent()).stdin(Stdio::null());
        // Settings of Cassandra's or the JVM's in our own environment must not reach it past the agent.
        command.env_remove("JAVA_TOOL_OPTIONS").env_remove("JDK_JAVA_OPTIONS").env_remove("CASSANDRA_CONF");
        command
    }

    /// Follows one JVM from its start to its end.
    async fn watch(self, running: Running) {
        let up = tokio::select! {
            up = tokio::time::timeout(START_TIMEOUT, self.wait_up(&running)) => {
                up.unwrap_or_else(|_| Err(anyhow::anyhow!("no CQL answer within {START_TIMEOUT:?}")))
            }
            end = running.process.ended() => Err(anyhow::anyhow!("ended while starting: {end}")),
        };
        match up {
            Ok(()) => {
                let mut state = self.lock().await;
                if state.running.as_ref().is_some_and(|r| r.generation == running.generation) {
                    tracing::info!(generation = running.generation, "Cassandra is running");
                    state.jvm = Jvm::Running;
                }
                drop(state);
                let detail = tokio::select! {
                    end = running.process.ended() => format!("Cassandra ended by itself: {end}"),
                    detail = self.hung() => detail,
                };
                // At once, and not only when the lock is free: calls that wait for a hung JVM hold it.
                if let Err(error) = running.process.kill().await {
                    tracing::error!("after {detail}: {error:#}");
                }
                self.note_end(running.generation, detail).await;
            }
            Err(error) => self.note_end(running.generation, format!("Cassandra did not start: {error:#}")).await,
        }
    }

    /// Completes when a running JVM has given no CQL answer for so long that only another one will.
    async fn hung(&self) -> String {
        let limit = self.setup.args.hang_limit;
        let (mut answered, mut misses, mut distrusted) = (Instant::now(), 0, false);
        loop {
            tokio::time::sleep(HANG_POLL).await;
            let answer = self.setup.answers().await;
            // With another authority the agent trusts it some minutes before Cassandra shows what it has signed: that is an answer.
            let distrust = answer.as_ref().err().filter(|error| internal::is_distrust(error));
            if let Some(error) = distrust.filter(|_| !distrusted) {
                tracing::warn!("Cassandra answers, but is not trusted, or does not trust the agent: {error:#}");
            }
            distrusted = distrust.is_some();
            // Draining closes the port.
            if self.is_stopping() || answer.is_ok() || distrusted {
                (answered, misses) = (Instant::now(), 0);
                continue;
            }
            misses += 1;
            if misses >= HANG_PROBES && answered.elapsed() >= limit {
                return format!("Cassandra hangs: no CQL answer for {limit:?}");
            }
        }
    }

    async fn wait_up(&self, running: &Running) -> Result<()> {
        // Nothing else may have the port: only this start's own generation counts as an answer.
        let probe = self.setup.probe();
        let mut answers_since = None;
        while !probe.generation().await.is_ok_and(|found| found == running.generation) {
            self.setup.make_role(running.generation, &mut answers_since).await?;
            tokio::time::sleep(START_POLL).await;
        }
        match running.jolokia.counter_cache_capacity().await? {
            0 => Ok(()),
            bytes => bail!("Cassandra has a counter cache of {bytes} bytes: replay would not be exact"),
        }
    }

    /// Notes that a JVM ended, or makes it end, without having been asked to: the directory is dirty. Does nothing if
    /// it was stopped on purpose, for then it is no longer the current one.
    async fn note_end(&self, generation: u64, detail: String) {
        let mut state = self.lock().await;
        if state.running.as_ref().is_none_or(|running| running.generation != generation) {
            return;
        }
        // What Cassandra says of it is in its log alone.
        let detail =
            disk::shortage(self.setup.layout.root()).map_or(detail.clone(), |short| format!("{detail}; {short}"));
        tracing::error!(generation, detail);
        if let Err(error) = self.stop_jvm(&mut state).await {
            tracing::error!("after Cassandra's end: {error:#}");
        }
        state.jvm = Jvm::Failed { detail };
    }

    /// Ends the JVM, if there is one, the quick way: what it held is void, and so is a mark or snapshot of it.
    ///
    /// # Errors
    /// If it does not end, or the disk fails.
    pub(super) async fn stop_jvm(&self, state: &mut State) -> Result<()> {
        let Some(running) = state.running.clone() else { return Ok(()) };
        running.process.kill().await?;
        state.running = None;
        state.jvm = Jvm::Stopped;
        let (layout, pending) = (self.setup.layout.clone(), state.pending.take());
        state.clean = None;
        blocking(move || {
            disk::remove_file(&layout.clean())?;
            pending.map_or(Ok(()), |pending| points::remove(&layout, &pending.id))
        })
        .await
    }

    /// Shuts down: takes no more calls, but for the mark of a replica that is there to drain; drains the JVM if it has
    /// marked, else just ends it. Returns in time whatever happens; the JVM ends with the agent in any case.
    pub async fn shut_down(&self) {
        let timeout = self.setup.args.stop_timeout;
        let stop = async {
            self.stopping.store(true, Ordering::Release);
            self.wait_for_mark(timeout * 3 / 5).await;
            let mut state = self.lock().await;
            if let Err(error) = self.stop_for_good(&mut state).await {
                tracing::warn!("stopping: {error:#}; {}", self.afterwards());
            }
        };
        if tokio::time::timeout(timeout, stop).await.is_err() {
            tracing::warn!(?timeout, "not stopped in time; {}", self.afterwards());
        }
    }

    /// What an unclean stop means for the next start, for the log.
    fn afterwards(&self) -> &'static str {
        if self.setup.args.shared { "the next start reads the commit log" } else { "the next start rewinds" }
    }

    /// A live replica sees in the status that the agent stops, drains and marks: then its next start needs no rewind.
    /// Waits for that, at most for `limit`, and only while there is a replica that could do it.
    async fn wait_for_mark(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let waits = || {
            let status = self.status.borrow();
            status.clean.is_none() && status.jvm == Jvm::Running && self.heard_lately()
        };
        if waits() {
            tracing::info!(?limit, "waiting for the replica to drain");
        }
        while waits() && Instant::now() < deadline {
            tokio::time::sleep(MARK_POLL).await;
        }
    }

    async fn stop_for_good(&self, state: &mut State) -> Result<()> {
        if self.setup.args.shared {
            return self.stop_shared(state).await;
        }
        let (Some(mark), Some(running)) = (state.valid_mark().cloned(), state.running.clone()) else {
            return self.stop_jvm(state).await;
        };
        // Draining hides a flush that fails; flushing tells.
        running.jolokia.flush().await?;
        running.jolokia.drain(self.setup.args.stop_timeout).await?;
        // Drained, it has nothing left to say, and its own end takes seconds.
        running.process.kill().await?;
        (state.running, state.jvm) = (None, Jvm::Stopped);
        let mark = Clean { manifest: mark.manifest, held: Held::Drained };
        let (layout, written) = (self.setup.layout.clone(), mark.clone());
        blocking(move || {
            // Empty after draining; without it the tables alone are the state, as after a rewind.
            disk::remove_tree(&layout.commitlog())?;
            disk::write_json(&layout.clean(), &written)
        })
        .await?;
        state.clean = Some(mark);
        tracing::info!("drained: the next start needs no rewind");
        Ok(())
    }
}

/// Writes the JVM's configuration and empties its temporary folder.
fn render(setup: &Setup, properties: &str) -> Result<()> {
    let (conf, tmp) = (setup.layout.conf(), setup.layout.tmp());
    disk::remove_tree(&tmp)?;
    for folder in [&tmp, &conf] {
        std::fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))?;
    }
    match setup.internal.keystores() {
        Some(mut keystores) => keystore(&setup.layout, &keystores.current())?,
        None => remove_keystore(&setup.layout)?,
    }
    let files =
        [("cassandra.yaml", setup.yaml.as_str()), ("logback.xml", config::LOGBACK_XML), (JOLOKIA_FILE, properties)];
    for (name, text) in files {
        let path = conf.join(name);
        std::fs::write(&path, text).with_context(|| format!("can't write {}", path.display()))?;
    }
    // It holds the password.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(conf.join(JOLOKIA_FILE), mode).context("can't protect Jolokia's settings")
}

/// Writes what Cassandra shows those who connect, and whom it lets in: for the agent's user alone, each file whole at any time.
///
/// # Errors
/// It is none that Cassandra can use, or the disk.
pub(super) fn keystore(layout: &Layout, keystore: &Keystore) -> Result<()> {
    if !String::from_utf8_lossy(&keystore.pair).contains(PKCS8) {
        bail!(
            "--internal-key: Cassandra takes a key in PKCS#8 alone: give it as `openssl pkcs8 -topk8 -nocrypt` writes it"
        );
    }
    let _alone = KEYSTORE.lock().unwrap_or_else(PoisonError::into_inner);
    private(&layout.truststore(), &keystore.authorities)?;
    private(&layout.keystore(), &keystore.pair)
}

/// Leaves no key behind that nobody uses any more.
fn remove_keystore(layout: &Layout) -> Result<()> {
    for path in [layout.keystore(), layout.truststore()] {
        disk::remove_file(&path.with_extension("part"))?;
        disk::remove_file(&path)?;
    }
    Ok(())
}

fn private(path: &Path, pem: &[u8]) -> Result<()> {
    let failed = || format!("can't write {}", path.display());
    let part = path.with_extension("part");
    disk::remove_file(&part)?;
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&part).with_context(failed)?;
    file.write_all(pem).with_context(failed)?;
    std::fs::rename(&part, path).with_context(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keystore_is_private_and_goes_when_nobody_uses_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        std::fs::create_dir_all(layout.conf()).unwrap();
        let pair = format!("{PKCS8}\nx\n").into_bytes();
        let pem = Keystore { pair: pair.clone(), authorities: b"a".to_vec() };
        std::thread::scope(|scope| {
            let writers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| (0..20).try_for_each(|_| keystore(&layout, &pem)))).collect();
            for writer in writers {
                writer.join().unwrap().unwrap();
            }
        });
        assert_eq!(std::fs::read(layout.keystore()).unwrap(), pair);
        assert_eq!(std::fs::metadata(layout.keystore()).unwrap().permissions().mode() & 0o777, 0o600);
        remove_keystore(&layout).unwrap();
        remove_keystore(&layout).unwrap();
        assert_eq!(std::fs::read_dir(layout.conf()).unwrap().count(), 0);
    }
}
