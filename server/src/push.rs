//! Entries of the log, pushed from each replica to each other one: connections over the admin ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, ensure};
use axum::{
    Router,
    extract::{Request, State},
    http::{
        StatusCode,
        header::{CONNECTION, UPGRADE},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::rt::TokioIo;
use replicateddb_ordering::{members::Member, znode_log::ZnodeLog};
use replicateddb_store::internal::Internal;
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// What the connection is upgraded to; see `replicateddb_ordering::znode_log`.
const PROTOCOL: &str = "replicateddb-push";
/// Pushing connections from others at once.
const MAX_CONNECTIONS: usize = 64;
/// Longest time to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Pause before another attempt to connect.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

#[derive(Clone)]
struct Taking {
    log: ZnodeLog,
    room: Arc<Semaphore>,
}

/// `GET /push`: where the other replicas push what they append.
pub fn router(log: ZnodeLog) -> Router {
    let taking = Taking { log, room: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
    Router::new().route("/push", get(take)).with_state(taking)
}

async fn take(State(Taking { log, room }): State<Taking>, request: Request) -> Response {
    if request.headers().get(UPGRADE).is_none_or(|protocol| protocol != PROTOCOL) {
        let text = "this is for other replicas, which push what they append to the log\n";
        return (StatusCode::UPGRADE_REQUIRED, [(UPGRADE, PROTOCOL)], text).into_response();
    }
    let Ok(room) = room.try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many connections\n").into_response();
    };
    tokio::spawn(async move {
        let _room = room;
        match hyper::upgrade::on(request).await {
            Ok(stream) => {
                if let Err(error) = log.take_pushes(TokioIo::new(stream)).await {
                    tracing::debug!(%error, "a connection of pushed entries has ended");
                }
            }
            Err(error) => tracing::debug!(%error, "a connection could not be upgraded"),
        }
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(CONNECTION, "upgrade"), (UPGRADE, PROTOCOL)]).into_response()
}

/// Pushes what the replica `own` appends to every other member, and has its tail wait for what they push.
pub async fn keep_pushing(log: ZnodeLog, own: u32, mut members: watch::Receiver<Vec<Member>>, internal: Internal) {
    let client = match reqwest::Client::builder().http1_only().tcp_nodelay(true).build() {
        Ok(client) => (client, internal),
        Err(error) => return tracing::error!(%error, "entries can't be pushed: the others read them in the log"),
    };
    let mut pushing: BTreeMap<u32, (SocketAddr, AbortOnDropHandle<()>)> = BTreeMap::new();
    loop {
        let others: BTreeMap<u32, SocketAddr> = members
            .borrow_and_update()
            .iter()
            .filter(|member| member.id != own)
            .map(|member| (member.id, SocketAddr::new(member.address, member.admin_port)))
            .collect();
        pushing.retain(|id, (address, _)| others.get(id) == Some(address));
        for (&id, &address) in &others {
            pushing.entry(id).or_insert_with(|| {
                (address, AbortOnDropHandle::new(tokio::spawn(push_to(client.clone(), log.clone(), address))))
            });
        }
        log.expect_pushes(others.into_keys().collect::<BTreeSet<u32>>());
        if members.changed().await.is_err() {
            return;
        }
    }
}

/// Connects again and again.
async fn push_to((client, internal): (reqwest::Client, Internal), log: ZnodeLog, address: SocketAddr) {
    loop {
        let ended = match timeout(CONNECT_LIMIT, connect(&client, &internal, address)).await {
            Ok(Ok(stream)) => log.push_to(stream).await.map_err(anyhow::Error::from),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(anyhow::anyhow!("no answer within {CONNECT_LIMIT:?}")),
        };
        if let Err(error) = ended {
            tracing::debug!(%address, error = format!("{error:#}"), "entries are not pushed now");
        }
        sleep(RETRY_PAUSE).await;
    }
}

async fn connect(
    client: &reqwest::Client,
    internal: &Internal,
    address: SocketAddr,
) -> anyhow::Result<reqwest::Upgraded> {
    let request = client.get(format!("http://{address}/push"));
    let response = internal.send(request.header(CONNECTION, "upgrade").header(UPGRADE, PROTOCOL)).await?;
    ensure!(response.status() == StatusCode::SWITCHING_PROTOCOLS, "answered with {}", response.status());
    response.upgrade().await.context("upgrading the connection")
}
