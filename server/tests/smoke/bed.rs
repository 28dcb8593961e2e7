//! The stack as processes: a ZooKeeper server, a store agent with its Cassandra, a replica. Agent, Cassandra and replica speak TLS
//! with each other, and what the replica keeps in ZooKeeper is its own.

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use replicateddb_ordering::fixture::ZooKeeper;
use replicateddb_replica::replica::Status;
use replicateddb_store::internal::NAME;
use scylla::{
    client::{execution_profile::ExecutionProfile, session::Session, session_builder::SessionBuilder},
    statement::Consistency,
};

/// Longest wait for anything, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Everything of one replica.
pub struct Bed {
    dir: tempfile::TempDir,
    engine: &'static str,
    pub zookeeper: ZooKeeper,
    ports: Ports,
    agent: Child,
    replica: Option<Child>,
}

struct Ports {
    agent: u16,
    cassandra: u16,
    storage: u16,
    jolokia: u16,
    cql: u16,
    admin: u16,
}

fn cassandra_lib() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").expect("a home folder")).join(".cache/replicateddb");
    let cache = std::env::var_os("REPLICATEDDB_CACHE").map_or_else(home, PathBuf::from);
    let lib = cache.join("artifacts/cassandra-5.0.9/lib");
    assert!(lib.is_dir(), "{} is missing: run images/artifacts/fetch.sh", lib.display());
    lib
}

/// An authority of the database, and a certificate for all of its processes.
fn certificates(dir: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([NAME.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    for (file, pem) in [
        ("ca.pem", authority.as_ref().pem()),
        ("internal.pem", certificate.pem()),
        ("internal.key", key.serialize_pem()),
    ] {
        std::fs::write(dir.join(file), pem).unwrap();
    }
}

fn internal(dir: &Path) -> Vec<String> {
    [("certificate", "internal.pem"), ("key", "internal.key"), ("ca", "ca.pem")]
        .into_iter()
        .flat_map(|(flag, file)| [format!("--internal-{flag}"), dir.join(file).display().to_string()])
        .collect()
}

fn free_ports() -> Ports {
    let [agent, cassandra, storage, jolokia, cql, admin] = replicateddb_ports::reserve();
    Ports { agent, cassandra, storage, jolokia, cql, admin }
}

impl Bed {
    pub async fn start(engine: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "0123456789abcdef0123456789abcdef").unwrap();
        certificates(dir.path());
        let (zookeeper, ports) = (ZooKeeper::start().unwrap(), free_ports());
        let agent = Self::agent(&dir, &ports).spawn().unwrap();
        let mut bed = Self { dir, engine, zookeeper, ports, agent, replica: None };
        bed.start_replica().await;
        bed
    }

    fn server(dir: &tempfile::TempDir, log: &str) -> Command {
        let log = File::options().create(true).append(true).open(dir.path().join(log)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_replicateddb-server"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }

    fn agent(dir: &tempfile::TempDir, ports: &Ports) -> Command {
        let mut command = Self::server(dir, "agent.log");
        command
            .args(["agent", "--cql-listen-address", "127.0.0.1", "--heap", "256m", "--profile", "small"])
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .arg("--token-file")
            .arg(dir.path().join("token"))
            .arg("--cassandra-lib")
            .arg(cassandra_lib())
            .args(["--listen", &format!("127.0.0.1:{}", ports.agent), "--cql-port", &ports.cassandra.to_string()])
            .args(["--storage-port", &ports.storage.to_string(), "--jolokia-port", &ports.jolokia.to_string()])
            .args(internal(dir.path()));
        command
    }

    /// Starts the replica and waits until it serves clients.
    pub async fn start_replica(&mut self) {
        assert!(self.replica.is_none());
        let mut command = Self::server(&self.dir, "replica.log");
        command
            .args(["replica", "--id", "0", "--engine", self.engine, "--zookeeper", &self.zookeeper.connect()])
            .arg("--state-log")
            .arg(self.dir.path().join("state-log"))
            .args(self.token())
            .args(["--cassandra", &format!("127.0.0.1:{}", self.ports.cassandra)])
            .args(["--agent", &format!("http://127.0.0.1:{}", self.ports.agent)])
            .arg("--agent-token-file")
            .arg(self.dir.path().join("token"))
            .args(["--listen", &self.cql().to_string(), "--admin-listen", &self.admin().to_string()])
            .args(internal(self.dir.path()));
        self.replica = Some(command.spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ready = reqwest::get(format!("http://{}/readyz", self.admin())).await;
            if ready.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            let ended = self.replica.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the replica is not ready ({ended:?})\n{}",
                self.logs()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Stops the replica as an orchestrator does; whether it ended well.
    pub async fn stop_replica(&mut self) -> bool {
        let mut replica = self.replica.take().expect("it runs");
        kill(Pid::from_raw(i32::try_from(replica.id()).unwrap()), Signal::SIGTERM).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = replica.try_wait().unwrap() {
                return status.success();
            }
            assert!(Instant::now() < deadline, "the replica does not stop\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn cql(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.cql))
    }

    pub fn admin(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports.admin))
    }

    pub async fn status(&self) -> Status {
        reqwest::get(format!("http://{}/status", self.admin())).await.unwrap().json().await.unwrap()
    }

    pub async fn session(&self, consistency: Consistency) -> Session {
        let profile = ExecutionProfile::builder()
            .consistency(consistency)
            .serial_consistency(None)
            .request_timeout(Some(Duration::from_secs(90)))
            .build();
        SessionBuilder::new()
            .known_node_addr(self.cql())
            .default_execution_profile_handle(profile.into_handle())
            .build()
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", self.logs()))
    }

    /// The flag by which a tool may read what the replica keeps in ZooKeeper.
    pub fn token(&self) -> [String; 2] {
        ["--zookeeper-token-file".to_owned(), self.dir.path().join("token").display().to_string()]
    }

    /// What Cassandra says to somebody who asks it in plain which options it has: the kind of its answer, if there is one.
    pub fn cassandra_in_plain(&self) -> Option<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.cassandra)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&[4, 0, 0, 0, 5, 0, 0, 0, 0]).unwrap();
        let mut header = [0; 9];
        stream.read_exact(&mut header).ok().map(|()| header[4])
    }

    /// The flags by which a tool belongs to the database.
    pub fn internal(&self) -> Vec<String> {
        internal(self.dir.path())
    }

    /// Runs one of the binary's tools.
    pub fn tool(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_replicateddb-server")).args(args).output().unwrap()
    }

    /// The last of what the processes logged.
    pub fn logs(&self) -> String {
        let tail = |name: &str| {
            let text = std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(60)..].join("\n"))
        };
        tail("replica.log") + &tail("agent.log")
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for child in self.replica.iter_mut().chain([&mut self.agent]) {
            // Both fail only if it has ended. The JVM dies with its agent.
            child.kill().ok();
            child.wait().ok();
        }
    }
}
