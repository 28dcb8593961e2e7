//! An agent as a process, with a real Cassandra under it.
#![allow(dead_code)] // each test binary uses its own part

pub mod data;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use replicateddb_store::api::{Jvm, Mark, Status};
use replicateddb_store::client::Store;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use uuid::Uuid;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
/// The log that stores belong to.
pub const LOG: Uuid = Uuid::from_u128(3);
/// Longest wait for anything, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// One Cassandra at a time: two cores and little memory are enough for the tests of this crate.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A data directory with its ports, and the agent on it, if one runs.
pub struct Bed {
    dir: tempfile::TempDir,
    ports: [u16; 4],
    agent: Option<Child>,
    _turn: Option<tokio::sync::MutexGuard<'static, ()>>,
}

fn cassandra_lib() -> PathBuf {
    let cache = std::env::var_os("REPLICATEDDB_CACHE")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("a home folder")).join(".cache/replicateddb"));
    let lib = cache.join("artifacts/cassandra-5.0.9/lib");
    assert!(lib.is_dir(), "{} is missing: run images/artifacts/fetch.sh", lib.display());
    lib
}

fn agent_program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().unwrap().parent().unwrap().join("examples/agent");
    assert!(program.exists(), "{} is missing: cargo test builds it", program.display());
    program
}

pub fn mark(index: u64) -> Mark {
    Mark { index, replica_state: serde_json::json!({ "position": index, "clock": 17 }) }
}

impl Bed {
    pub async fn new() -> Self {
        let turn = ONE_AT_A_TIME.lock().await;
        let mut bed = Self::beside();
        bed._turn = Some(turn);
        bed
    }

    /// Another one beside one that has the turn.
    pub fn beside() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), TOKEN).unwrap();
        Self { dir, ports: replicateddb_ports::reserve(), agent: None, _turn: None }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.data().join(below)
    }

    fn command(&self) -> Command {
        let [listen, cql, storage, jolokia] = self.ports;
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(agent_program());
        command
            .arg("--data-dir")
            .arg(self.data())
            .arg("--token-file")
            .arg(self.dir.path().join("token"))
            .arg("--cassandra-lib")
            .arg(cassandra_lib())
            .args(["--listen", &format!("127.0.0.1:{listen}"), "--cql-listen-address", "127.0.0.1"])
            .args(["--cql-port", &cql.to_string(), "--storage-port", &storage.to_string()])
            .args(["--jolokia-port", &jolokia.to_string(), "--heap", "256m", "--profile", "small"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command
    }

    pub fn start_agent(&mut self) {
        assert!(self.agent.is_none());
        self.agent = Some(self.command().spawn().unwrap());
    }

    pub fn start_agent_with(&mut self, flags: &[&str]) {
        assert!(self.agent.is_none());
        self.agent = Some(self.command().args(flags).spawn().unwrap());
    }

    pub fn start_agent_that_crashes_at(&mut self, fault: &str) {
        assert!(self.agent.is_none());
        self.agent = Some(self.command().env("AGENT_FAULT", fault).spawn().unwrap());
    }

    pub fn signal_agent(&self, signal: nix::sys::signal::Signal) {
        signal_pid(self.agent.as_ref().unwrap().id(), signal);
    }

    pub async fn agent_ended(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.agent.as_mut().unwrap().try_wait().unwrap() {
                self.agent = None;
                return status;
            }
            assert!(Instant::now() < deadline, "the agent does not end\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The agent's end as by a power cut of its container: and the JVM is gone with it.
    pub async fn kill_agent(&mut self) {
        self.signal_agent(nix::sys::signal::Signal::SIGKILL);
        self.agent_ended().await;
    }

    pub fn store(&self, incarnation: i64) -> Store {
        self.store_of(LOG, incarnation)
    }

    pub fn store_of(&self, log: Uuid, incarnation: i64) -> Store {
        Store::new(&format!("http://127.0.0.1:{}", self.ports[0]), TOKEN, log, incarnation).unwrap()
    }

    pub fn cql_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports[1])
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports[0])
    }

    pub async fn cql(&self) -> Session {
        SessionBuilder::new().known_node(self.cql_address()).build().await.unwrap()
    }

    /// Waits for a status.
    pub async fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let (store, deadline) = (self.store(0), Instant::now() + PATIENCE);
        let mut last = String::new();
        while Instant::now() < deadline {
            match store.status().await {
                Ok(status) if holds(&status) => return status,
                other => last = format!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("waited in vain for: {what}; last: {last}\n{}", self.log());
    }

    pub async fn running(&self) -> Status {
        self.until("Cassandra runs", |status| status.jvm == Jvm::Running).await
    }

    pub fn whole_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn log(&self) -> String {
        let text = self.whole_log();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

pub fn signal_pid(pid: u32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Whether a process lives; a zombie does not.
pub fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

pub fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or_default() / 1024
}

pub async fn run(session: &Session, statements: &[&str]) {
    for statement in statements {
        session.query_unpaged(*statement, ()).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    }
}

pub async fn lines(session: &Session, query: &str) -> Vec<String> {
    let result = session.query_unpaged(query, ()).await.unwrap_or_else(|e| panic!("{query}: {e}"));
    let rows = result.into_rows_result().unwrap();
    rows.rows::<(String,)>().unwrap().map(|row| row.unwrap().0).collect()
}

/// Everything a user can see, as text: schema with ids, rows with write times.
pub async fn dump(session: &Session, tables: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for table in ["keyspaces", "tables", "columns", "indexes", "views", "types"] {
        let query = format!("SELECT JSON * FROM system_schema.{table}");
        let mut rows: Vec<_> = lines(session, &query).await.into_iter().filter(|row| row.contains("\"ks")).collect();
        rows.sort();
        text.push_str(&format!("{table}:\n{}\n", rows.join("\n")));
    }
    for (table, columns) in tables {
        let mut rows = lines(session, &format!("SELECT JSON {columns} FROM {table}")).await;
        rows.sort();
        text.push_str(&format!("{table}:\n{}\n", rows.join("\n")));
    }
    text
}

pub fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}
