//! Entries that replicas hand over to the one that leads: connections over its admin port, opened by the others.

use std::{io, sync::Arc};

use anyhow::Context;
use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::get,
};
use futures::{FutureExt, future::BoxFuture};
use hyper_util::rt::TokioIo;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
};
use replicateddb_ordering::{
    OrderedLog,
    zookeeper_leader::{Backlog, Duplex, Messenger, ZooKeeperLeader},
};
use replicateddb_store::internal::Internal;
use tokio::sync::Semaphore;

use crate::push::{Protocol, accept, connect};

/// See `replicateddb_ordering::zookeeper_leader`.
const FORWARD: Protocol = Protocol {
    path: "/forward",
    name: "replicateddb-forward",
    told: "this is for other replicas, which hand over what they append to the log\n",
};
/// Connections from others at once.
const MAX_CONNECTIONS: usize = 64;

/// Connects to the admin port of another replica.
#[derive(Debug, Clone)]
pub struct Http {
    client: reqwest::Client,
    internal: Internal,
}

impl Http {
    /// # Errors
    /// The client can't be made.
    pub fn new(internal: Internal) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().http1_only().tcp_nodelay(true).build();
        let client = client.context("entries can't be handed over to the replica that leads")?;
        Ok(Self { client, internal })
    }
}

impl Messenger for Http {
    fn connect(&self, address: &str) -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> {
        let (Self { client, internal }, address) = (self.clone(), address.to_owned());
        async move {
            let stream = connect(&client, &internal, &address, &FORWARD).await;
            let stream = stream.map_err(|error| io::Error::other(format!("{error:#}")))?;
            Ok(Box::new(stream) as Box<dyn Duplex>)
        }
        .boxed()
    }
}

#[derive(Clone)]
struct Taking {
    log: ZooKeeperLeader,
    room: Arc<Semaphore>,
}

/// `GET /forward`: where the other replicas hand over what they append, while this one leads.
pub fn router(log: ZooKeeperLeader) -> Router {
    let taking = Taking { log, room: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
    Router::new().route(FORWARD.path, get(take)).with_state(taking)
}

async fn take(State(Taking { log, room }): State<Taking>, request: Request) -> Response {
    accept(&FORWARD, room, request, async move |stream| log.take_line(TokioIo::new(stream)).await)
}

/// What the engine counts, as it is when it is asked for.
#[derive(Debug)]
pub struct Counted(pub ZooKeeperLeader);

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let Backlog { pending, bytes, unacknowledged } = self.0.backlog();
        let epoch = self.0.leadership().map_or(0, |leadership| leadership.epoch);
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        for (name, help, value) in [
            ("replicateddb_leader_epoch", "The epoch of the replica that leads the log; 0 while none does", epoch),
            (
                "replicateddb_leader_leads",
                "Whether this replica leads the log",
                self.0.standing().borrow().leads.into(),
            ),
            ("replicateddb_leader_pending_entries", "Entries on their way to the log", count(pending)),
            ("replicateddb_leader_pending_bytes", "Their bytes", count(bytes)),
            (
                "replicateddb_leader_unacknowledged_entries",
                "Entries that another replica leads into the log and has not acknowledged",
                count(unacknowledged),
            ),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
