//! Entries of the log, pushed from each replica to each other one: connections over the admin ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
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
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use replicateddb_ordering::{
    members::Member,
    znode_log::{PushError, ZnodeLog},
};
use replicateddb_store::internal::Internal;
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

/// What a connection from another replica is for.
#[derive(Debug)]
pub(crate) struct Protocol {
    /// Where it is asked for.
    pub(crate) path: &'static str,
    /// What it is upgraded to.
    pub(crate) name: &'static str,
    /// What anybody else is told.
    pub(crate) told: &'static str,
}

/// See `replicateddb_ordering::znode_log`.
const PUSH: Protocol = Protocol {
    path: "/push",
    name: "replicateddb-push",
    told: "this is for other replicas, which push what they append to the log\n",
};
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
    Router::new().route(PUSH.path, get(take)).with_state(taking)
}

async fn take(State(Taking { log, room }): State<Taking>, request: Request) -> Response {
    accept(&PUSH, room, request, async move |stream| log.take_pushes(TokioIo::new(stream)).await)
}

/// Takes a connection from another replica, if there is room for it, and has it served in the background.
pub(crate) fn accept<F>(
    protocol: &'static Protocol,
    room: Arc<Semaphore>,
    request: Request,
    serve: impl FnOnce(Upgraded) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = Result<(), PushError>> + Send + 'static,
{
    if request.headers().get(UPGRADE).is_none_or(|name| name != protocol.name) {
        return (StatusCode::UPGRADE_REQUIRED, [(UPGRADE, protocol.name)], protocol.told).into_response();
    }
    let Ok(room) = room.try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many connections\n").into_response();
    };
    tokio::spawn(async move {
        let _room = room;
        match hyper::upgrade::on(request).await {
            Ok(stream) => {
                if let Err(error) = serve(stream).await {
                    tracing::debug!(protocol = protocol.name, %error, "a connection of another replica has ended");
                }
            }
            Err(error) => tracing::debug!(%error, "a connection could not be upgraded"),
        }
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(CONNECTION, "upgrade"), (UPGRADE, protocol.name)]).into_response()
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
        let ended = match timeout(CONNECT_LIMIT, connect(&client, &internal, &address.to_string(), &PUSH)).await {
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

/// Connects to another replica.
pub(crate) async fn connect(
    client: &reqwest::Client,
    internal: &Internal,
    address: &str,
    protocol: &Protocol,
) -> anyhow::Result<reqwest::Upgraded> {
    let request = client.get(format!("http://{address}{}", protocol.path));
    let response = internal.send(request.header(CONNECTION, "upgrade").header(UPGRADE, protocol.name)).await?;
    ensure!(response.status() == StatusCode::SWITCHING_PROTOCOLS, "answered with {}", response.status());
    response.upgrade().await.context("upgrading the connection")
}
