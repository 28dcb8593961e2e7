//! Two replicas as processes, each with its store agent and Cassandra, over one ZooKeeper server.

use std::{
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use replicateddb_ordering::fixture::ZooKeeper;
use replicateddb_replica::replica::{Digest, Status};
use replicateddb_store::{api, client::Store};
use scylla::{
    client::{execution_profile::ExecutionProfile, session::Session, session_builder::SessionBuilder},
    policies::{host_filter::AllowListHostFilter, retry::FallthroughRetryPolicy},
    statement::Consistency,
};

/// Longest wait for anything, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(10);
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Waits for something to be there.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(POLL).await;
    }
}

pub struct Bed {
    /// The first is the one that is crashed.
    pub sites: [Site; 2],
    pub zookeeper: ZooKeeper,
    _dir: tempfile::TempDir,
}

/// A replica with its store agent and Cassandra.
pub struct Site {
    id: usize,
    dir: PathBuf,
    zookeeper: String,
    /// Of the agent, Cassandra, its storage, Jolokia, clients, and the replica's admin interface.
    ports: [u16; 6],
    agent: Option<Child>,
    replica: Option<Child>,
}

/// What the replica's process is started with.
#[derive(Default)]
pub struct Armed {
    /// `NAME`: the point at which the process ends.
    pub fault: Option<&'static str>,
    /// `NAME`: the point that the process tells of.
    pub told: Option<&'static str>,
    /// Whether passings count from the start, or only from [`Site::fire`] on.
    pub at_once: bool,
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("a home folder")).join(".cache/replicateddb");
    std::env::var_os("REPLICATEDDB_CACHE").map_or_else(home, PathBuf::from)
}

fn cassandra_lib() -> PathBuf {
    let lib = cache().join("artifacts/cassandra-5.0.9/lib");
    assert!(lib.is_dir(), "{} is missing: run images/artifacts/fetch.sh", lib.display());
    lib
}

fn program(log: &Path) -> Command {
    let log = File::options().create(true).append(true).open(log).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_replicateddb-server"));
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command
}

fn signal(pid: u32, signal: Signal) {
    // It may have ended by itself.
    kill(Pid::from_raw(pid.cast_signed()), signal).ok();
}

impl Bed {
    /// Everything runs, and both replicas serve.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let zookeeper = ZooKeeper::start().unwrap();
        let sites = [0, 1].map(|id| Site::new(id, dir.path(), zookeeper.connect()));
        let mut bed = Self { _dir: dir, zookeeper, sites };
        for site in &mut bed.sites {
            site.start_agent(None);
            site.start_replica(&Armed::default());
        }
        for site in &mut bed.sites {
            site.ready().await;
        }
        bed
    }
}

impl Site {
    fn new(id: usize, dir: &Path, zookeeper: String) -> Self {
        let dir = dir.join(id.to_string());
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("token"), TOKEN).unwrap();
        Self { id, dir, zookeeper, ports: replicateddb_ports::reserve(), agent: None, replica: None }
    }

    fn local(&self, port: usize) -> String {
        format!("127.0.0.1:{}", self.ports[port])
    }

    /// Where the replica serves clients: each on an address of its own, by which drivers tell them apart.
    pub fn cql(&self) -> SocketAddr {
        self.own(4)
    }

    fn own(&self, port: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1 + u8::try_from(self.id).unwrap()], self.ports[port]))
    }

    /// Where its Cassandra does, past the log.
    pub fn cassandra(&self) -> SocketAddr {
        self.local(1).parse().unwrap()
    }

    /// Starts the agent, with a fault point of its own.
    pub fn start_agent(&mut self, fault: Option<&str>) {
        assert!(self.agent.is_none());
        let mut command = program(&self.dir.join("agent.log"));
        command
            .args(["agent", "--cql-listen-address", "127.0.0.1", "--heap", "256m", "--profile", "small"])
            .arg("--data-dir")
            .arg(self.dir.join("data"))
            .arg("--token-file")
            .arg(self.dir.join("token"))
            .arg("--cassandra-lib")
            .arg(cassandra_lib())
            .args(["--listen", &self.local(0), "--cql-port", &self.ports[1].to_string()])
            .args(["--storage-port", &self.ports[2].to_string(), "--jolokia-port", &self.ports[3].to_string()]);
        command.envs(fault.map(|fault| ("REPLICATEDDB_FAULT", fault)));
        self.agent = Some(command.spawn().unwrap());
    }

    /// Ends the agent as a crash does, and its Cassandra with it.
    pub fn kill_agent(&mut self) {
        let mut agent = self.agent.take().expect("it runs");
        agent.kill().ok();
        agent.wait().unwrap();
    }

    /// Waits until the agent has ended by itself.
    pub async fn agent_ended(&mut self) {
        let agent = self.agent.as_mut().expect("it runs");
        until("the agent's end", async || agent.try_wait().unwrap()).await;
        self.agent = None;
    }

    pub async fn agent_status(&self) -> Option<api::Status> {
        Store::new(&format!("http://{}", self.local(0)), TOKEN, uuid::Uuid::nil(), 0).unwrap().status().await.ok()
    }

    /// Ends the JVM as a crash does.
    pub async fn kill_jvm(&self) {
        let status = self.agent_status().await.expect("the agent answers");
        signal(status.jvm_pid.expect("a JVM runs"), Signal::SIGKILL);
    }

    fn trigger(&self) -> PathBuf {
        self.dir.join("fire")
    }

    /// Passings of the fault point count from now on.
    pub fn fire(&self) {
        std::fs::write(self.trigger(), "").unwrap();
    }

    pub fn start_replica(&mut self, armed: &Armed) {
        assert!(self.replica.is_none());
        std::fs::remove_file(self.trigger()).ok();
        if armed.at_once {
            self.fire();
        }
        // The one that is crashed makes positions known and gives the log's beginning up.
        let keep = ["200ms", "400ms"][self.id];
        let mut command = program(&self.dir.join("replica.log"));
        command
            .args(["replica", "--id", &self.id.to_string(), "--zookeeper", &self.zookeeper])
            .args(["--cassandra", &self.local(1), "--agent", &format!("http://{}", self.local(0))])
            .arg("--agent-token-file")
            .arg(self.dir.join("token"))
            .args(["--listen", &self.cql().to_string(), "--admin-listen", &self.own(5).to_string()])
            .args(["--log-segment-entries", "60", "--log-step-entries", "10", "--log-keep-interval", keep])
            .args(["--restore-point-interval", "1h", "--restore-point-records", "150"])
            .env("REPLICATEDDB_FAULT_FILE", self.trigger());
        command.envs(armed.fault.map(|fault| ("REPLICATEDDB_FAULT", fault)));
        command.envs(armed.told.map(|fault| ("REPLICATEDDB_FAULT_TOLD", fault)));
        self.replica = Some(command.spawn().unwrap());
    }

    pub fn is_running(&mut self) -> bool {
        self.replica.as_mut().is_some_and(|replica| replica.try_wait().unwrap().is_none())
    }

    pub fn signal_replica(&self, sent: Signal) {
        signal(self.replica.as_ref().expect("it runs").id(), sent);
    }

    /// Waits until the replica's process has ended, and gives its exit status.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let replica = self.replica.as_mut().expect("it runs");
        let status = until("the replica's end", async || replica.try_wait().unwrap()).await;
        self.replica = None;
        status
    }

    /// Waits until the replica serves clients.
    pub async fn ready(&mut self) {
        let url = self.admin("readyz");
        until("a replica that is ready", async || {
            assert!(self.is_running(), "the replica has ended");
            reqwest::get(&url).await.ok().filter(|answer| answer.status().is_success())
        })
        .await;
    }

    fn admin(&self, path: &str) -> String {
        format!("http://{}/{path}", self.own(5))
    }

    pub async fn status(&self) -> Option<Status> {
        reqwest::get(self.admin("status")).await.ok()?.json().await.ok()
    }

    /// Asks the admin interface for something that may come to nothing.
    pub async fn post(&self, path: &str, body: &'static str) -> Option<reqwest::Response> {
        let answer = reqwest::Client::new().post(self.admin(path)).body(body).send().await;
        answer.ok().filter(|answer| answer.status().is_success())
    }

    /// Orders a digest.
    pub async fn digest(&self) -> Digest {
        self.post("digest", "").await.expect("a replica that serves has a digest").json().await.unwrap()
    }

    /// The digest of this index.
    pub async fn digest_at(&self, index: u64) -> Digest {
        let url = self.admin(&format!("digest/{index}"));
        until("the digest", async || reqwest::get(&url).await.ok()?.json().await.ok()).await
    }

    /// How often the replica's processes have said that they pass this point.
    pub fn passings(&self, fault: &str) -> usize {
        let log = std::fs::read(self.dir.join("replica.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).matches(&format!("fault point {fault} is passed")).count()
    }

    /// Keeps what the processes logged.
    fn keep_logs(&self) -> std::io::Result<()> {
        let thread = std::thread::current();
        let folder = cache().join("failures/faults").join(thread.name().unwrap_or("test")).join(self.id.to_string());
        std::fs::create_dir_all(&folder)?;
        for name in ["replica.log", "agent.log"] {
            std::fs::copy(self.dir.join(name), folder.join(name))?;
        }
        eprintln!("logs of replica {} and its agent: {}", self.id, folder.display());
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_logs().ok();
        }
        for child in self.replica.iter_mut().chain(&mut self.agent) {
            // Both fail only if it has ended. The JVM dies with its agent.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// A session with this server alone, which repeats nothing by itself.
pub async fn session(server: SocketAddr) -> Session {
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::One)
        .serial_consistency(None)
        .request_timeout(Some(Duration::from_secs(60)))
        .retry_policy(Arc::new(FallthroughRetryPolicy::new()));
    SessionBuilder::new()
        .known_node_addr(server)
        .host_filter(Arc::new(AllowListHostFilter::new([server]).unwrap()))
        .default_execution_profile_handle(profile.build().into_handle())
        // A server that is gone would be waited for.
        .auto_await_schema_agreement(false)
        .build()
        .await
        .unwrap()
}
