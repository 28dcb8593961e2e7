//! A store agent with a real Cassandra, and what tests ask of a replica over it.
#![allow(dead_code, reason = "each test program uses a part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail as the tests do")]

pub mod clock;
pub mod direct;
pub mod jmx;
pub mod plain;
pub mod statements;
pub mod versions;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use replicateddb_cql::response::parse_error;
use replicateddb_cql::wire::Value;
use replicateddb_ordering::OrderedLog;
use replicateddb_ordering::memory::MemoryStorage;
use replicateddb_replica::ReplicaHandle;
use replicateddb_replica::backend::Endpoint;
use replicateddb_replica::backend::executor::CassandraConnector;
use replicateddb_replica::config::Config;
use replicateddb_replica::frontend::{self, Core, Frontend, Identity, Peers};
use replicateddb_replica::metrics::Metrics;
use replicateddb_replica::record::Values;
use replicateddb_replica::replica::{Digest, Outcome, Request, RequestKind, Serving, StatementText};
use replicateddb_store::agent::{AgentArgs, run};
use replicateddb_store::api::Jvm;
use replicateddb_store::client::Store;
use replicateddb_store::login::Login;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use direct::Direct;

pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// Longest wait for anything, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(240);

#[derive(Parser)]
pub struct Cli {
    #[command(flatten)]
    args: AgentArgs,
}

/// The agent's command line, for this program started again as an agent; see [`run_agent`].
pub const AGENT_WORDS: &str = "TEST_AGENT_WORDS";

/// A store: an agent in a thread or process of its own, and the Cassandra that it supervises.
pub struct Site {
    dir: tempfile::TempDir,
    words: Vec<String>,
    agent: String,
    /// `host:port` of Cassandra's CQL port.
    pub cql: String,
}

/// An agent as a process, dead with its owner.
pub struct AgentProcess(std::process::Child);

impl AgentProcess {
    pub fn terminate(&self) {
        let sent = std::process::Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    pub async fn ended(mut self) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.0.try_wait().unwrap().is_none() {
            assert!(tokio::time::Instant::now() < deadline, "the agent does not stop");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What [`Site::agent_process`] runs, in this program started again; call it in an ignored test `agent_as_a_process`.
pub async fn run_agent() {
    let words = std::env::var(AGENT_WORDS).unwrap();
    run(Cli::parse_from(words.split('\n')).args).await.unwrap();
}

pub fn cassandra_lib() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("a home folder")).join(".cache/replicateddb");
    let lib = std::env::var_os("REPLICATEDDB_CACHE").map_or_else(home, PathBuf::from);
    let lib = lib.join("artifacts/cassandra-5.0.9/lib");
    assert!(lib.is_dir(), "{} is missing: run images/artifacts/fetch.sh", lib.display());
    lib
}

impl Site {
    pub fn new() -> Self {
        let site = Self::without_agent();
        site.run();
        site
    }

    fn run(&self) {
        let words = self.words.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            // It ends with the test's process, and the JVM with it.
            runtime.block_on(run(Cli::parse_from(words).args)).unwrap();
        });
    }

    pub fn agent_process(&self) -> AgentProcess {
        self.agent_process_with(&[])
    }

    /// With these variables in its environment, and in that of the JVM.
    pub fn agent_process_with(&self, variables: &[(String, String)]) -> AgentProcess {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["agent_as_a_process", "--exact", "--ignored", "--nocapture"]);
        command.env(AGENT_WORDS, self.words.join("\n")).stdout(std::process::Stdio::null());
        command.envs(variables.iter().cloned());
        AgentProcess(command.spawn().unwrap())
    }

    /// With a Cassandra that several replicas share.
    pub fn shared() -> Self {
        let site = Self::shared_without_agent();
        site.run();
        site
    }

    /// With a Cassandra whose clients log in.
    pub fn with_logins() -> Self {
        let mut site = Self::without_agent();
        site.words.push("--authentication".to_owned());
        site.run();
        site
    }

    /// Its CQL port, for the replica's role.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::new(self.cql.as_str(), Some(Login::of_token(TOKEN)))
    }

    pub fn shared_without_agent() -> Self {
        let mut site = Self::without_agent();
        site.words.push("--shared".to_owned());
        site
    }

    /// The folder of the rendered configuration of the JVM.
    pub fn conf(&self) -> PathBuf {
        self.dir.path().join("data/agent/conf")
    }

    pub fn without_agent() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let token = dir.path().join("token");
        std::fs::write(&token, TOKEN).unwrap();
        let [agent, cql, storage, jolokia] = replicateddb_ports::reserve();
        let mut words: Vec<String> = vec!["agent".into(), "--data-dir".into()];
        words.push(dir.path().join("data").display().to_string());
        words.extend(["--token-file".into(), token.display().to_string()]);
        words.extend(["--cassandra-lib".into(), cassandra_lib().display().to_string()]);
        words.extend(["--listen".into(), format!("127.0.0.1:{agent}")]);
        words.extend(["--cql-listen-address".into(), "127.0.0.1".into(), "--cql-port".into(), cql.to_string()]);
        words.extend(["--storage-port".into(), storage.to_string(), "--jolokia-port".into(), jolokia.to_string()]);
        words.extend(["--heap", "256m", "--profile", "small"].map(str::to_owned));
        Self { dir, words, agent: format!("http://127.0.0.1:{agent}"), cql: format!("127.0.0.1:{cql}") }
    }

    /// The agent's client, for an incarnation in a log.
    pub fn store(&self, log: Uuid, incarnation: i64) -> Store {
        Store::new(&self.agent, TOKEN, log, incarnation).unwrap()
    }

    pub fn start(&self, log: &MemoryStorage, replica: u32) -> ReplicaHandle {
        self.start_as(log, Config { replica, ..Config::default() })
    }

    /// With these settings, but for restore points, which are taken when a test asks for one.
    pub fn start_as(&self, log: &MemoryStorage, config: Config) -> ReplicaHandle {
        let (log, incarnation) = log.open(config.replica);
        let store = self.store(log.log_id().0, incarnation.0);
        let config = Config { restore_point_interval: Duration::from_secs(3600), ..config };
        let connector = CassandraConnector { at: self.endpoint() };
        ReplicaHandle::start(config, log, store, connector, Metrics::default())
    }

    /// A replica on this log, serving.
    pub async fn serve(&self, log: &MemoryStorage, replica: u32) -> ReplicaHandle {
        let handle = self.start(log, replica);
        served(&handle).await;
        handle
    }

    /// Kills the JVM under its replica, which serves again afterwards.
    pub async fn kill_and_recover(&self, handle: &ReplicaHandle) {
        self.kill_jvm().await;
        handle.serving().wait_for(|serving| matches!(serving, Serving::No { .. })).await.unwrap();
        served(handle).await;
    }

    /// A statement that no log knows of.
    pub async fn past_the_log(&self, text: &str) {
        Direct::to(&self.cql).await.done(text).await;
    }

    pub async fn kill_jvm(&self) {
        let pid = self.jvm().await.expect("a running JVM").to_string();
        let killed = std::process::Command::new("kill").args(["-9", &pid]).status().unwrap();
        assert!(killed.success());
    }

    /// The process of the JVM, while it runs.
    pub async fn jvm(&self) -> Option<u32> {
        let status = Store::new(&self.agent, TOKEN, Uuid::nil(), 0).unwrap().status().await.ok()?;
        status.jvm_pid.filter(|_| status.jvm == Jvm::Running)
    }
}

/// A front end over a replica; whether its clients log in. Gives its address.
pub fn in_front_of(handle: &ReplicaHandle, superuser: Option<&str>) -> String {
    in_front(handle.clone(), superuser)
}

/// The same, of something that does what a replica does.
pub fn in_front<C: Core>(core: C, superuser: Option<&str>) -> String {
    let [port] = replicateddb_ports::reserve();
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    let identity = Identity {
        id: 0,
        host_id: Uuid::nil(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        cql_port: port,
        data_center: "dc".into(),
        rack: "r".into(),
    };
    let superuser = superuser.map(Into::into);
    let peers = Arc::new(Peers::new(0, watch::Sender::new(Vec::new()).subscribe()));
    let config = frontend::Config { listen, max_clients: 100, identity, superuser, keyspace: None, tls: None };
    let frontend = Frontend::new(core, config, peers, Arc::default());
    tokio::spawn(frontend.run(CancellationToken::new()));
    listen.to_string()
}

/// Looks again and again, at most for [`PATIENCE`], until there is something.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn served(handle: &ReplicaHandle) {
    let mut serving = handle.serving();
    let wait = serving.wait_for(|serving| matches!(serving, Serving::Yes { .. }));
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "not serving: {:?}", handle.status());
}

/// I1: what both hold at one index, which is a new one, is the same.
pub async fn agree(handle: &ReplicaHandle, other: &ReplicaHandle) -> Digest {
    let digest = other.digest().await.unwrap();
    handle.barrier().await.unwrap();
    assert_eq!(handle.digest_at(digest.index).as_ref(), Some(&digest), "I1");
    digest
}

pub fn request(kind: RequestKind, statements: Vec<(&str, Vec<Value>)>) -> Request {
    let statement = |(text, values): (&str, Vec<Value>)| StatementText {
        text: text.to_owned(),
        values: Values::positional(&values).unwrap(),
    };
    let statements = statements.into_iter().map(statement).collect();
    Request { kind, keyspace: Some("ks".into()), statements, flags: 0 }
}

pub fn int(value: i32) -> Value {
    Value::Bytes(Bytes::copy_from_slice(&value.to_be_bytes()))
}

pub fn text(value: &str) -> Value {
    Value::Bytes(Bytes::copy_from_slice(value.as_bytes()))
}

/// A request that must succeed.
pub async fn done(handle: &ReplicaHandle, request: Request) -> Outcome {
    let said = format!("{:?}", request.statements);
    let outcome = handle.propose(request).await.unwrap_or_else(|error| panic!("{said}: {error}"));
    if outcome.opcode != 8 {
        panic!("{said}: {:?}", parse_error(&outcome.body));
    }
    outcome
}

pub async fn ddl(handle: &ReplicaHandle, text: &str) {
    done(handle, request(RequestKind::Ddl, vec![(text, Vec::new())])).await;
}

pub fn long(value: i64) -> Value {
    Value::Bytes(Bytes::copy_from_slice(&value.to_be_bytes()))
}

/// A list of one int.
pub fn list(element: i32) -> Value {
    let parts = [1i32, 4, element].map(i32::to_be_bytes);
    Value::Bytes(parts.concat().into())
}
