//! Three plain Cassandra nodes that form one cluster: starting, waiting, stopping exactly them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use replicateddb_local::{Launch, Recorded, check_free, gone, last_lines, send};
use tokio::net::TcpStream;

use crate::template::Template;

/// Nodes, as many as there are replicas.
pub const NODES: u8 = 3;
/// The third number of the nodes' addresses; those of a local stack are lower.
const NET: u8 = 9;
const CQL_PORT: u16 = 9042;
const STORAGE_PORT: u16 = 7000;
/// How long a node may take until it answers clients.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long the nodes may take to end when asked to.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long they may take to vanish when killed.
const KILL_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);
/// How many lines of a dead node's log an error shows.
const LOG_LINES: usize = 8;

/// The nodes that were started. Those that still run are killed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    range: u8,
    nodes: Vec<(Recorded, PathBuf)>,
}

impl Cluster {
    /// A cluster that will lie in `dir` and use 127.`range`.9.x; starts nothing.
    #[must_use]
    pub fn new(dir: &Path, range: u8) -> Self {
        Self { dir: dir.to_owned(), range, nodes: Vec::new() }
    }

    /// Starts the nodes, the first before the others, and waits until each answers clients. `further` are lines of
    /// cassandra.yaml.
    ///
    /// # Errors
    /// When an address is taken, a node ends (with the end of its log), or one does not answer in time.
    pub async fn up(&mut self, template: &Template, further: &[String], note: impl Fn(&str)) -> Result<()> {
        for i in 0..NODES {
            for port in [CQL_PORT, STORAGE_PORT] {
                check_free(SocketAddr::new(self.address(i), port)).with_context(|| format!("node {i} can't start"))?;
            }
        }
        self.start(template, further, 0)?;
        self.wait_all().await?;
        note("plain Cassandra, first node: answers");
        for i in 1..NODES {
            self.start(template, further, i)?;
        }
        self.wait_all().await?;
        note("plain Cassandra, the others: answer");
        Ok(())
    }

    /// Where clients connect.
    #[must_use]
    pub fn cql(&self) -> Vec<SocketAddr> {
        (0..NODES).map(|i| SocketAddr::new(self.address(i), CQL_PORT)).collect()
    }

    /// Every process that was started.
    #[must_use]
    pub fn processes(&self) -> Vec<Recorded> {
        self.nodes.iter().map(|(process, _)| process.clone()).collect()
    }

    /// Asks every node to end, and kills what has not after a while.
    ///
    /// # Errors
    /// When a node is still there after that.
    pub async fn down(&mut self) -> Result<()> {
        let processes = self.processes();
        for (signal, limit) in [(Signal::SIGTERM, STOP_LIMIT), (Signal::SIGKILL, KILL_LIMIT)] {
            for process in &processes {
                send(process, signal)?;
            }
            if gone(&processes, limit).await {
                self.nodes.clear();
                return Ok(());
            }
        }
        bail!("nodes are still there after being killed: {processes:?}")
    }

    fn address(&self, i: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(127, self.range, NET, 1 + i))
    }

    fn start(&mut self, template: &Template, further: &[String], i: u8) -> Result<()> {
        let dir = self.dir.join(format!("node-{i}"));
        for folder in ["agent/conf", "agent/tmp", "cassandra"] {
            let folder = dir.join(folder);
            std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        }
        let yaml = template.settings() + &self.identity(i) + &further.join("\n") + "\n";
        for (name, text) in template.files(yaml)? {
            std::fs::write(dir.join(name), text).with_context(|| format!("writing {name} of node {i}"))?;
        }
        let (program, args, log) = (template.program.clone(), template.args(&dir), dir.join("node.log"));
        let launch = Launch { program, args, env: Vec::new(), dir, log: log.clone() };
        self.nodes.push((launch.spawn()?, log));
        Ok(())
    }

    /// Which node it is: one token each, evenly spread, so that nothing has to move when they come.
    fn identity(&self, i: u8) -> String {
        let token = i64::MIN.wrapping_add_unsigned(u64::MAX / u64::from(NODES) * u64::from(i) + 1);
        let (address, seed) = (self.address(i), self.address(0));
        format!(
            "cluster_name: plain\nnum_tokens: 1\ninitial_token: {token}\nauto_bootstrap: false\n\
             listen_address: {address}\nrpc_address: {address}\n\
             storage_port: {STORAGE_PORT}\nnative_transport_port: {CQL_PORT}\n\
             seed_provider:\n  - class_name: org.apache.cassandra.locator.SimpleSeedProvider\n    \
             parameters: [ {{ seeds: \"{seed}:{STORAGE_PORT}\" }} ]\n"
        )
    }

    async fn wait_all(&self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        for ((process, log), address) in self.nodes.iter().zip(self.cql()) {
            while TcpStream::connect(address).await.is_err() {
                let end = || format!("{}:\n{}", log.display(), last_lines(log, LOG_LINES));
                ensure!(process.alive().is_some(), "a plain Cassandra ended; the end of {}", end());
                ensure!(Instant::now() < deadline, "a plain Cassandra does not answer; the end of {}", end());
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for (process, _) in &self.nodes {
            // Nobody is left to be told.
            let _ = send(process, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_an_address_and_a_token_of_its_own() {
        let cluster = Cluster::new(Path::new("/b"), 100);
        let of = |i| cluster.identity(i);
        assert!(of(0).contains("initial_token: -9223372036854775807\n"));
        assert!(of(1).contains("initial_token: -3074457345618258602\n"));
        assert!(of(2).contains("initial_token: 3074457345618258603\n"));
        assert!(of(2).contains("listen_address: 127.100.9.3\n") && of(2).contains("seeds: \"127.100.9.1:7000\""));
    }
}
