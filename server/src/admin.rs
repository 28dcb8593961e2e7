//! The admin port of a replica's process: open from the first moment, also while there is no replica behind it yet.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use replicateddb_replica::replica::{Phase, Status};
use replicateddb_store::internal::Internal;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt;

/// What anybody may ask who reaches the port: probes, the operator, a metrics collector.
const OPEN: &[&str] = &["/livez", "/readyz", "/status", "/metrics"];

/// The admin port. Dropping it closes the port.
pub struct AdminPort {
    replica: Arc<OnceLock<Router>>,
    internal: Internal,
    _server: AbortOnDropHandle<()>,
}

impl AdminPort {
    /// Opens the port; until [`AdminPort::serve`], it says that the replica `starting` is.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn open(address: SocketAddr, starting: Status, internal: Internal) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.with_context(|| format!("opening the admin port {address}"))?;
        let replica = Arc::new(OnceLock::new());
        let answered_by = replica.clone();
        let router =
            Router::new().fallback(async move |request: Request| dispatch(&answered_by, &starting, request).await);
        let way = internal.clone();
        let server = tokio::spawn(async move {
            if let Err(error) = way.serve(listener, router, OPEN).await {
                tracing::error!(%error, "the admin port has failed");
            }
        });
        Ok(Self { replica, internal, _server: AbortOnDropHandle::new(server) })
    }

    /// The way of other processes of the database to it, and to theirs.
    pub fn internal(&self) -> Internal {
        self.internal.clone()
    }

    /// From now on the replica answers.
    pub fn serve(&self, router: Router) {
        // A second router would mean a second replica in this process: the first stays.
        let _ = self.replica.set(router);
    }
}

async fn dispatch(replica: &OnceLock<Router>, starting: &Status, request: Request) -> Response {
    if let Some(router) = replica.get() {
        return match router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
    }
    match request.uri().path() {
        "/livez" => "ok\n".into_response(),
        "/status" => Json(starting).into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", starting.detail)).into_response(),
    }
}

/// The state of a replica that has not opened the log.
pub fn starting(id: u32, engine: &str) -> Status {
    Status {
        id,
        incarnation: String::new(),
        state: Phase::Starting,
        detail: "connecting to the ordered log".to_owned(),
        engine: engine.to_owned(),
        leader: None,
        applied_index: 0,
        log_end: None,
        lag: None,
        replay: None,
        generation: None,
        restore_point_index: None,
        log_first: None,
        log_needs: None,
        schema_version: uuid::Uuid::nil(),
        conditions: Vec::new(),
    }
}
