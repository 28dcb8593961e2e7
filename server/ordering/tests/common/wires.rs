//! A messenger within the process, whose wires can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use replicateddb_ordering::zookeeper_leader::{Config, Duplex, Messenger, Standing, ZooKeeperLeader};
use replicateddb_ordering::{Incarnation, znode_log};
use tokio::task::AbortHandle;

/// Bytes under way in a connection.
const PIPE_BYTES: usize = 1 << 20;

/// Connects handles by their addresses.
#[derive(Clone, Debug, Default)]
pub struct Wires {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    ends: BTreeMap<String, ZooKeeperLeader>,
    cut: BTreeSet<String>,
    carrying: Vec<(String, AbortHandle)>,
}

impl Wires {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Settings of an engine that is reached by these wires.
    pub fn config(&self, log: znode_log::Config) -> Config {
        let count = self.state().ends.len();
        let address = format!("{}-{count}-{}", log.replica, uuid::Uuid::new_v4());
        Config::new(log, address, Arc::new(self.clone()))
    }

    /// Opens a log, and connects it.
    pub async fn open(&self, config: Config) -> (ZooKeeperLeader, Incarnation) {
        let address = config.address.clone();
        let (log, incarnation) = ZooKeeperLeader::open(config).await.unwrap_or_else(|error| panic!("{error}"));
        self.state().ends.insert(address, log.clone());
        (log, incarnation)
    }

    /// Cuts every wire to an address, or lets new ones be laid.
    #[allow(dead_code, reason = "not every test file cuts wires")]
    pub fn set_cut(&self, address: &str, cut: bool) {
        let mut state = self.state();
        match cut {
            true => state.cut.insert(address.to_owned()),
            false => state.cut.remove(address),
        };
        state.carrying.iter().filter(|(to, _)| cut && to == address).for_each(|(_, wire)| wire.abort());
    }
}

impl Messenger for Wires {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
        let (wires, address) = (self.clone(), address.to_owned());
        Box::pin(async move {
            let mut state = wires.state();
            let other = state.ends.get(&address).filter(|_| !state.cut.contains(&address)).cloned();
            let other = other.ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            let (near, far) = tokio::io::duplex(PIPE_BYTES);
            let wire = tokio::spawn(async move { drop(other.take_line(far).await) }).abort_handle();
            state.carrying.push((address, wire));
            Ok(Box::new(near) as Box<dyn Duplex>)
        })
    }
}

/// Waits until a handle sees who leads as it should be.
#[allow(dead_code, reason = "not every test file has elections")]
pub async fn see(log: &ZooKeeperLeader, what: &str, expected: impl FnMut(&Standing) -> bool) -> Standing {
    let mut standing = log.standing();
    let patience = std::time::Duration::from_secs(60);
    match tokio::time::timeout(patience, standing.wait_for(expected)).await {
        Ok(standing) => standing.expect("it is shown while the log is open").clone(),
        Err(_) => panic!("{what}: {:?}", *log.standing().borrow()),
    }
}
