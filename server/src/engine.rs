//! The engines, as the replica's process uses them.

use std::{future::Future, sync::Arc, time::Duration};

use anyhow::bail;
use axum::Router;
use prometheus_client::registry::Registry;
use replicateddb_ordering::{
    Incarnation, OrderedLog,
    znode_log::{self, OpenError, ZnodeLog},
    zookeeper_leader::{self, ZooKeeperLeader},
};
use replicateddb_store::internal::Internal;

use crate::{
    args::{Engine, ReplicaArgs},
    forward,
};

/// Pause before the ordered log is tried again at start.
const OPEN_RETRY: Duration = Duration::from_secs(1);

/// A log in ZooKeeper, and what else the process does for it.
pub trait Ordering: OrderedLog {
    /// The log that members are listed in, and by which entries are pushed.
    fn znodes(&self) -> &ZnodeLog;
    /// What it answers other replicas over HTTP, besides what all engines do.
    fn router(&self) -> Router {
        Router::new()
    }
    /// Registers what it counts.
    fn register(&self, _registry: &mut Registry) {}
    /// The process is about to stop: what it does for others passes to one of them. It may go on appending.
    fn hand_over(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

impl Ordering for ZnodeLog {
    fn znodes(&self) -> &ZnodeLog {
        self
    }
}

impl Ordering for ZooKeeperLeader {
    fn znodes(&self) -> &ZnodeLog {
        ZooKeeperLeader::znodes(self)
    }

    fn router(&self) -> Router {
        forward::router(self.clone())
    }

    fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(forward::Counted(self.clone())));
    }

    async fn hand_over(&self) {
        ZooKeeperLeader::hand_over(self).await;
    }
}

/// An open log, by its engine.
pub enum Opened {
    /// Without a leader.
    ZnodeLog(ZnodeLog),
    /// With one.
    ZooKeeperLeader(ZooKeeperLeader),
}

/// Opens the log, for as long as ZooKeeper can't be reached.
///
/// # Errors
/// The settings are wrong, or what is in ZooKeeper is no log of this engine.
pub async fn open(args: &ReplicaArgs, id: u32, internal: &Internal) -> anyhow::Result<Opened> {
    loop {
        match try_open(args, id, internal).await {
            Ok(opened) => return Ok(opened),
            Err(Failed::Open(error @ OpenError::Unavailable { .. })) => tracing::warn!(%error, "trying again"),
            Err(Failed::Open(error)) => bail!(error),
            Err(Failed::Other(error)) => return Err(error),
        }
        tokio::time::sleep(OPEN_RETRY).await;
    }
}

enum Failed {
    Open(OpenError),
    Other(anyhow::Error),
}

async fn try_open(args: &ReplicaArgs, id: u32, internal: &Internal) -> Result<Opened, Failed> {
    let opened = |log: &dyn std::fmt::Display, incarnation: Incarnation| {
        tracing::info!(id, %incarnation, %log, engine = args.engine.name(), "the ordered log is open");
    };
    match args.engine {
        Engine::ZnodeLog => {
            let (log, incarnation) =
                ZnodeLog::open(log_config(args, id).map_err(Failed::Other)?).await.map_err(Failed::Open)?;
            opened(&log.log_id(), incarnation);
            Ok(Opened::ZnodeLog(log))
        }
        Engine::ZooKeeperLeader => {
            let config = leader_config(args, id, internal).map_err(Failed::Other)?;
            let (log, incarnation) = ZooKeeperLeader::open(config).await.map_err(Failed::Open)?;
            opened(&log.log_id(), incarnation);
            Ok(Opened::ZooKeeperLeader(log))
        }
    }
}

fn log_config(args: &ReplicaArgs, id: u32) -> anyhow::Result<znode_log::Config> {
    Ok(znode_log::Config {
        batches_in_flight: args.batches_in_flight,
        segment_entries: args.log_segment_entries,
        state_log: args.state_log.config(id),
        ..args.order.config(id)?
    })
}

fn leader_config(args: &ReplicaArgs, id: u32, internal: &Internal) -> anyhow::Result<zookeeper_leader::Config> {
    let address = std::net::SocketAddr::new(args.advertised()?, args.admin_listen.port());
    let messenger = Arc::new(forward::Http::new(internal.clone())?);
    Ok(zookeeper_leader::Config {
        election: args.leader.election_path.clone(),
        leader: args.leader.leader_path.clone(),
        ..zookeeper_leader::Config::new(log_config(args, id)?, address.to_string(), messenger)
    })
}
