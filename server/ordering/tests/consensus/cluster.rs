//! Nodes in this process, with folders and sockets as they really have, and a wire between each two that can be cut.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use replicateddb_ordering::consensus::{Addresses, Config, ConsensusLog, Node};
use replicateddb_ordering::fixture::Proxy;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long what must happen may take, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// See [`Config::heartbeat`].
pub const HEARTBEAT: Duration = Duration::from_millis(150);
/// See [`Config::election`].
pub const ELECTION: Duration = Duration::from_millis(500);
/// Nodes that there may be.
const MOST: usize = 4;

/// Nodes, of which some may be down.
pub struct Cluster {
    folder: TempDir,
    ports: [u16; MOST],
    wires: BTreeMap<(u32, u32), Proxy>,
    nodes: BTreeMap<u32, Node>,
    first: u32,
    pub segment_entries: u32,
    pub max_body_bytes: usize,
}

impl Cluster {
    /// So many nodes that begin together, all up.
    pub async fn start(first: u32) -> Self {
        let mut cluster = Self::new(first).await;
        for replica in 0..first {
            cluster.up(replica).await;
        }
        cluster
    }

    /// So many nodes that are to begin together, none of them up.
    pub async fn new(first: u32) -> Self {
        let ports = replicateddb_ports::reserve::<MOST>();
        let mut wires = BTreeMap::new();
        for from in 0..MOST as u32 {
            for to in 0..MOST as u32 {
                let target = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[to as usize]));
                wires.insert((from, to), Proxy::start(target).await.expect("a port is free"));
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, ports, wires, nodes: BTreeMap::new(), first, segment_entries: 12, max_body_bytes: 300_000 }
    }

    /// The folder of a node.
    pub fn folder(&self, replica: u32) -> PathBuf {
        self.folder.path().join(format!("replica-{replica}"))
    }

    pub fn config(&self, replica: u32) -> Config {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[replica as usize]));
        let wires = self.wires.iter().filter(|((from, _), _)| *from == replica);
        let addresses = Addresses::Listed(wires.map(|((_, to), wire)| (*to, wire.connect())).collect());
        Config {
            segment_entries: self.segment_entries,
            max_body_bytes: self.max_body_bytes,
            heartbeat: HEARTBEAT,
            election: ELECTION,
            open_timeout: PATIENCE,
            admin_timeout: Duration::from_secs(10),
            ..Config::new(replica, self.folder(replica), listen, addresses, self.first)
        }
    }

    /// Starts a node.
    pub async fn up(&mut self, replica: u32) {
        let node = Node::start(self.config(replica)).await.expect("the node starts");
        self.nodes.insert(replica, node);
    }

    /// Stops a node without warning. Handles that were begun on it stay, and get nowhere.
    pub async fn crash(&mut self, replica: u32) {
        self.nodes.remove(&replica).expect("it is up").halt().await;
    }

    /// Stops a node as it should be.
    pub async fn stop(&mut self, replica: u32) {
        self.nodes.remove(&replica).expect("it is up").stop().await;
    }

    /// Cuts all wires of a node, or mends them.
    pub fn set_cut(&self, replica: u32, cut: bool) {
        for ((from, to), wire) in &self.wires {
            if (*from == replica || *to == replica) && from != to {
                wire.set_cut(cut);
            }
        }
    }

    pub fn node(&self, replica: u32) -> &Node {
        &self.nodes[&replica]
    }

    pub fn up_ones(&self) -> Vec<u32> {
        self.nodes.keys().copied().collect()
    }

    /// Begins a life of a replica on its own node.
    pub async fn open(&self, replica: u32) -> ConsensusLog {
        self.nodes[&replica].begin(replica).await.expect("a life begins").0
    }

    /// The leader, once all nodes that are up agree on it, and it is one of them.
    pub async fn leader(&self) -> u32 {
        let mut leader = None;
        eventually("there is a leader", || {
            let said: Vec<_> = self.nodes.values().map(Node::leader).collect();
            leader = said[0].filter(|leader| self.nodes.contains_key(leader));
            said.iter().all(|one| *one == leader) && leader.is_some()
        })
        .await;
        leader.expect("there is one")
    }
}

/// Waits until something holds.
///
/// # Panics
/// If it does not come to.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
