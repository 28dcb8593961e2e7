//! Checkpoints for others, over HTTP. What is copied is checked like any other before it is used.
//!
//! A checkpoint is all data of the replica. Where replica and agent share a token, whoever asks must show it, as the agent has it;
//! replicas that share a Cassandra have none, and whoever reaches them may read.
//!
//! | | |
//! |---|---|
//! | `POST /checkpoint` | makes one now and says which |
//! | `GET /checkpoints` | those that there are, oldest first |
//! | `GET /checkpoints/{id}/{file}` | a file of one: `manifest.json` first, which names the others |

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path as Segments, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use replicateddb_store::api::RestorePoint;
use replicateddb_store::client::StoreError;
use replicateddb_store::internal::{CallError, Internal};
use replicateddb_store::{bearer, bounded};
use reqwest::RequestBuilder;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

use super::folder::{MANIFEST, MAX_MANIFEST, Manifest, begin, complete, parse_manifest, verify};
use super::points::{Points, on_disk};
use crate::ReplicaHandle;

/// Longest wait for a connection, and for the next bytes of an answer.
const SILENCE: Duration = Duration::from_secs(20);

/// Attempts at making one: one that was being made when it was asked for has no documents.
const ATTEMPTS: usize = 3;

/// The routes of a replica. `asked`: where to say that a restore point is to have documents, if not each has. `token`: what whoever
/// asks must show.
pub fn router(points: Points, replica: ReplicaHandle, asked: Option<Arc<AtomicBool>>, token: Option<&str>) -> Router {
    let made = points.clone();
    let make = post(async move || make(made, replica, asked).await);
    let router = Router::new().route("/checkpoint", make).merge(reading(points));
    let Some(token) = token else { return router };
    let token: Arc<str> = token.into();
    router.layer(from_fn(move |request: Request, next: Next| {
        let shown = bearer::is_shown(request.headers(), &token);
        async move { if shown { next.run(request).await } else { unshown() } }
    }))
}

fn unshown() -> Response {
    let text = "a checkpoint is all data of the replica, for whoever shows the token of replica and agent: give its file by \
                --agent-token-file (RDB_AGENT_TOKEN_FILE), or the token itself by the header 'Authorization: Bearer TOKEN'\n";
    (StatusCode::UNAUTHORIZED, text).into_response()
}

/// The routes of a replica that has no folder for checkpoints: they say so.
pub fn none() -> Router {
    const REASON: &str = "this replica makes no checkpoints: it has no folder for them (--checkpoint-dir)\n";
    let refused = async || (StatusCode::NOT_FOUND, REASON);
    Router::new().route("/checkpoint", post(refused)).route("/checkpoints", get(refused))
}

/// Those of the routes that make none.
pub fn reading(points: Points) -> Router {
    Router::new().route("/checkpoints", get(list)).route("/checkpoints/{id}/{file}", get(file)).with_state(points)
}

async fn make(points: Points, replica: ReplicaHandle, asked: Option<Arc<AtomicBool>>) -> Response {
    let mut reason = "its documents could not be written: see the replica's log".to_owned();
    for _ in 0..ATTEMPTS {
        if let Some(asked) = &asked {
            asked.store(true, Ordering::SeqCst);
        }
        let index = match replica.restore_point().await {
            Ok(index) => index,
            Err(error) => {
                reason = error;
                break;
            }
        };
        let points = points.clone();
        match on_disk(move || points.list()).await {
            Ok(known) => {
                if let Some(found) = known.into_iter().find(|known| known.point.mark.index == index) {
                    return Json(restore_point(found.point)).into_response();
                }
            }
            Err(error) => reason = error.to_string(),
        }
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("no checkpoint: {reason}\n")).into_response()
}

async fn list(State(points): State<Points>) -> Response {
    match on_disk(move || points.list()).await {
        Ok(known) => {
            Json(known.into_iter().rev().map(|known| restore_point(known.point)).collect::<Vec<_>>()).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn file(State(points): State<Points>, Segments((id, file)): Segments<(String, String)>) -> Response {
    let path = on_disk(move || points.file(&id, &file)).await;
    match path {
        Ok(Some(path)) => match tokio::fs::File::open(&path).await {
            Ok(file) => Body::from_stream(ReaderStream::new(file)).into_response(),
            Err(error) => (StatusCode::NOT_FOUND, format!("{error}\n")).into_response(),
        },
        Ok(None) => (StatusCode::NOT_FOUND, "there is no such checkpoint, or no such file in it\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// What others see of a checkpoint first.
pub fn restore_point(point: replicateddb_store::api::Manifest) -> RestorePoint {
    let replicateddb_store::api::Manifest { id, sequence, mark, created_ms, files, .. } = point;
    RestorePoint { id, sequence, index: mark.index, created_ms, files }
}

fn unreachable(error: impl std::error::Error) -> StoreError {
    StoreError::Unreachable(error.to_string())
}

fn unread(error: bounded::Unread) -> StoreError {
    StoreError::Unreachable(error.to_string())
}

/// Reads another replica's checkpoints.
#[derive(Clone, Default)]
pub struct Peer {
    client: reqwest::Client,
    token: Option<String>,
    internal: Internal,
}

impl Peer {
    /// One that shows this token.
    pub fn showing(token: Option<String>) -> Self {
        Self { token, ..Self::default() }
    }

    /// Over TLS, where the processes of the database use it.
    #[must_use]
    pub fn over(self, internal: Internal) -> Self {
        Self { internal, ..self }
    }

    async fn ask(&self, request: RequestBuilder) -> Result<reqwest::Response, CallError> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        self.internal.send(request).await
    }

    async fn get(&self, url: String) -> Result<reqwest::Response, StoreError> {
        let asked = tokio::time::timeout(SILENCE, self.ask(self.client.get(&url))).await;
        let response = asked.map_err(|_| StoreError::Unreachable(format!("{url}: no answer within {SILENCE:?}")))?;
        response.map_err(unreachable)?.error_for_status().map_err(unreachable)
    }

    /// The checkpoints at `source`, oldest first.
    ///
    /// # Errors
    /// It can't be reached.
    pub async fn list(&self, source: &str) -> Result<Vec<RestorePoint>, StoreError> {
        bounded::json(self.get(format!("{source}/checkpoints")).await?).await.map_err(unread)
    }

    /// Has the replica at `source` make one.
    ///
    /// # Errors
    /// It can't be reached, or why it can't.
    pub async fn make(&self, source: &str) -> Result<RestorePoint, StoreError> {
        let response = self.ask(self.client.post(format!("{source}/checkpoint"))).await.map_err(unreachable)?;
        if response.status().is_success() {
            return bounded::json(response).await.map_err(unread);
        }
        let (status, text) = (response.status(), bounded::text(response).await);
        Err(StoreError::Unreachable(format!("{source}: {status}: {text}")))
    }

    /// The manifest of one.
    ///
    /// # Errors
    /// It can't be reached, or the manifest is damaged.
    pub async fn manifest(&self, source: &str, id: &str) -> Result<Manifest, StoreError> {
        let url = format!("{source}/checkpoints/{id}/{MANIFEST}");
        let mut response = self.get(url.clone()).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk(&mut response).await? {
            if bytes.len() + chunk.len() > MAX_MANIFEST {
                return Err(StoreError::Unreachable(format!("{url}: over {MAX_MANIFEST} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(parse_manifest(Path::new(&url), &bytes)?)
    }

    async fn chunk(&self, response: &mut reqwest::Response) -> Result<Option<bytes::Bytes>, StoreError> {
        let chunk = tokio::time::timeout(SILENCE, response.chunk()).await;
        let silent = |_| StoreError::Unreachable("it fell silent in the middle of a file".to_owned());
        chunk.map_err(silent)?.map_err(unreachable)
    }

    async fn copy(&self, source: &str, id: &str, file: &str, folder: &Path) -> Result<(), StoreError> {
        let mut response = self.get(format!("{source}/checkpoints/{id}/{file}")).await?;
        let path = folder.join(file);
        let disk = |error: std::io::Error| StoreError::Keyspace(format!("{}: {error}", path.display()));
        let mut out = tokio::fs::File::create(&path).await.map_err(disk)?;
        while let Some(bytes) = self.chunk(&mut response).await? {
            out.write_all(&bytes).await.map_err(disk)?;
        }
        out.flush().await.map_err(disk)
    }

    /// Copies a checkpoint into a folder that is not there yet; it is one there when this has succeeded, numbered `sequence`.
    ///
    /// # Errors
    /// It can't be reached, is damaged, or the disk.
    pub async fn install(
        &self,
        source: &str,
        id: &str,
        folder: PathBuf,
        sequence: u64,
    ) -> Result<Manifest, StoreError> {
        let mut manifest = self.manifest(source, id).await?;
        let made = folder.clone();
        on_disk(move || Ok(begin(&made)?)).await?;
        for document in &manifest.documents {
            self.copy(source, id, &document.file, &folder).await?;
        }
        on_disk(move || {
            verify(&folder, &manifest)?;
            manifest.point.sequence = sequence;
            complete(&folder, &manifest)?;
            Ok(manifest)
        })
        .await
    }
}
