//! The admin interface of a replica, over HTTP: probes, state, metrics, digests, restore points.
//!
//! | | |
//! |---|---|
//! | `GET /livez` | 200 while the process works |
//! | `GET /readyz` | 200 only while clients are served (I5), otherwise 503 with the reason |
//! | `GET /status` | [`Status`] as JSON |
//! | `GET /metrics` | OpenMetrics |
//! | `POST /digest` | orders a digest record and gives this replica's [`Digest`]; 429 while one is under way |
//! | `GET /digest/{index}` | this replica's digest of that record; 404 until it has it |
//! | `POST /restore-point` | takes a restore point now and gives its index |
//! | `POST /checkpoint`, `GET /checkpoints...` | with a folder for them: see [`crate::checkpoint::exchange`] |
//! | `POST /rebuild` | gives up what the store holds and builds it anew; the body says why |

use std::{future::Future, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::{
    frontend::Core,
    replica::{Digest, ProposeError, ReplicaHandle, Serving, Status},
};

/// What the admin interface needs of the replica.
pub trait Admin: Core {
    /// Its state.
    fn status(&self) -> Status;
    /// Orders a digest record; gives the digests at its index, of this replica.
    fn digest(&self) -> impl Future<Output = Result<Digest, ProposeError>> + Send;
    /// The digests of the record at `index`, if they are computed and still kept.
    fn digest_at(&self, index: u64) -> Option<Digest>;
    /// Takes a restore point now; gives its index.
    fn restore_point(&self) -> impl Future<Output = Result<u64, String>> + Send;
    /// Builds the store anew, for this reason; returns once no crash can bring back what it holds.
    fn rebuild(&self, reason: &str) -> impl Future<Output = Result<(), String>> + Send;
}

impl Admin for ReplicaHandle {
    fn status(&self) -> Status {
        ReplicaHandle::status(self)
    }

    async fn digest(&self) -> Result<Digest, ProposeError> {
        ReplicaHandle::digest(self).await
    }

    fn digest_at(&self, index: u64) -> Option<Digest> {
        ReplicaHandle::digest_at(self, index)
    }

    async fn restore_point(&self) -> Result<u64, String> {
        ReplicaHandle::restore_point(self).await
    }

    async fn rebuild(&self, reason: &str) -> Result<(), String> {
        ReplicaHandle::rebuild(self, reason).await
    }
}

/// The answer to `POST /restore-point`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePoint {
    /// The state that it holds: every record up to this index.
    pub index: u64,
}

/// Longest reason for building a store anew, bytes.
const MAX_REASON: usize = 4096;

struct Shared<A> {
    replica: A,
    metrics: Registry,
    /// Each of these holds every lane of this replica, a digest those of all replicas: one at a time.
    exclusive: Mutex<()>,
}

/// The routes.
pub fn router<A: Admin>(replica: A, metrics: Registry) -> Router {
    let shared = Arc::new(Shared { replica, metrics, exclusive: Mutex::default() });
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready::<A>))
        .route("/status", get(status::<A>))
        .route("/metrics", get(show_metrics::<A>))
        .route("/digest", post(digest::<A>))
        .route("/digest/{index}", get(digest_at::<A>))
        .route("/restore-point", post(restore_point::<A>))
        .route("/rebuild", post(rebuild::<A>).layer(DefaultBodyLimit::max(MAX_REASON)))
        .with_state(shared)
}

async fn ready<A: Admin>(State(shared): State<Arc<Shared<A>>>) -> Response {
    let serving = shared.replica.serving().borrow().clone();
    match serving {
        Serving::Yes { .. } => (StatusCode::OK, "ok\n").into_response(),
        Serving::No { reason } => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn status<A: Admin>(State(shared): State<Arc<Shared<A>>>) -> Json<Status> {
    Json(shared.replica.status())
}

async fn show_metrics<A: Admin>(State(shared): State<Arc<Shared<A>>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &shared.metrics) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn busy() -> Response {
    let text = "a digest or a restore point asked for before is under way: ask again when it has ended\n";
    (StatusCode::TOO_MANY_REQUESTS, text).into_response()
}

async fn digest<A: Admin>(State(shared): State<Arc<Shared<A>>>) -> Response {
    let Ok(_exclusive) = shared.exclusive.try_lock() else { return busy() };
    match shared.replica.digest().await {
        Ok(digest) => Json(digest).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

async fn digest_at<A: Admin>(State(shared): State<Arc<Shared<A>>>, Path(index): Path<u64>) -> Response {
    match shared.replica.digest_at(index) {
        Some(digest) => Json(digest).into_response(),
        None => (StatusCode::NOT_FOUND, format!("no digest at index {index}\n")).into_response(),
    }
}

async fn restore_point<A: Admin>(State(shared): State<Arc<Shared<A>>>) -> Response {
    let Ok(_exclusive) = shared.exclusive.try_lock() else { return busy() };
    match shared.replica.restore_point().await {
        Ok(index) => Json(RestorePoint { index }).into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn rebuild<A: Admin>(State(shared): State<Arc<Shared<A>>>, reason: String) -> Response {
    match shared.replica.rebuild(reason.trim()).await {
        Ok(()) => (StatusCode::ACCEPTED, "the store is built anew\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}
