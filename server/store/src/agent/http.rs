//! The agent's HTTP side: who may call, and what comes back.

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::io::ReaderStream;

use super::exchange;
use super::layout::Layout;
use super::plan::Caller;
use super::supervisor::{Agent, blocking, failed};
use crate::api::{Code, INCARNATION_HEADER, LOG_HEADER, MAX_REQUEST_BODY, Refusal};
use crate::bearer;

/// Bytes of a file that are read at once.
const FILE_CHUNK: usize = 128 << 10;

/// Paths that are everybody's.
pub const OPEN: &[&str] = &["/livez", "/readyz"];

/// All routes. `/livez` and `/readyz` are for probes and need no token; they tell nothing but yes or no.
pub fn router(agent: Agent) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/v1/status", get(status))
        .route("/v1/claim", post(|State(a), h, b| call(a, h, b, Agent::claim)))
        .route("/v1/start", post(|State(a), h, b| call(a, h, b, Agent::call_start)))
        .route("/v1/distrust", post(|State(a), h, b| call(a, h, b, Agent::distrust)))
        .route("/v1/rewind", post(|State(a), h, b| call(a, h, b, Agent::call_rewind)))
        .route("/v1/flush", post(|State(a), h, b| call(a, h, b, Agent::flush)))
        .route("/v1/snapshot", post(|State(a), h, b| call(a, h, b, Agent::snapshot)))
        .route("/v1/commit", post(|State(a), h, b| call(a, h, b, Agent::commit)))
        .route("/v1/restore-points/{id}", get(manifest))
        .route("/v1/restore-points/{id}/files", get(files))
        .route("/v1/restore-points/{id}/files/{*path}", get(file))
        .route("/v1/install", post(|State(a), h, b| call(a, h, b, Agent::install)))
        .route("/v1/abort", post(|State(a), h, b| call(a, h, b, Agent::abort)))
        .route("/v1/mark-clean", post(|State(a), h, b| call(a, h, b, Agent::mark_clean)))
        .route("/v1/clear-clean", post(|State(a), h, b| call(a, h, b, Agent::clear_clean)))
        .route("/v1/autocompaction", post(|State(a), h, b| call(a, h, b, Agent::autocompaction)))
        .route("/v1/cassandra-now", post(|State(a), h, b| call(a, h, b, Agent::cassandra_now)))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BODY))
        .with_state(agent)
}

/// Whether Cassandra answers CQL: asks it, for a JVM that runs may still be deaf.
async fn ready(State(agent): State<Agent>) -> Response {
    match agent.setup.answers().await {
        Ok(()) => "ok".into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}")).into_response(),
    }
}

async fn status(State(agent): State<Agent>, headers: HeaderMap) -> Response {
    reply(authorize(&agent, &headers).map(|()| {
        let status = agent.status();
        if owns(&agent, &headers) {
            agent.hear();
        }
        status
    }))
}

/// Whether the present incarnation of the agent's own replica asks.
fn owns(agent: &Agent, headers: &HeaderMap) -> bool {
    let status = agent.status();
    let owner = status.log_id.zip(status.highest_incarnation);
    owner.is_some() && owner == caller(headers).ok().map(|caller| (caller.log, caller.incarnation))
}

async fn manifest(State(agent): State<Agent>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    reply(read(&agent, &headers, &id, exchange::manifest).await)
}

async fn files(State(agent): State<Agent>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    reply(read(&agent, &headers, &id, exchange::files).await)
}

/// Streams a file of a restore point.
async fn file(State(agent): State<Agent>, Path((id, path)): Path<(String, PathBuf)>, headers: HeaderMap) -> Response {
    let found = read(&agent, &headers, &id, move |layout, id| {
        let path = exchange::file(layout, id, &path)?;
        std::fs::File::open(&path).with_context(|| format!("can't open {}", path.display()))
    });
    match found.await {
        Ok(file) => {
            Body::from_stream(ReaderStream::with_capacity(tokio::fs::File::from_std(file), FILE_CHUNK)).into_response()
        }
        Err(refusal) => reply(Err::<(), _>(refusal)),
    }
}

/// Reads of a restore point for another agent, who shows the token alone; it is kept for a while from now on.
async fn read<T: Send + 'static>(
    agent: &Agent,
    headers: &HeaderMap,
    id: &str,
    look: impl FnOnce(&Layout, &str) -> anyhow::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    authorize(agent, headers)?;
    if !agent.status().restore_points.iter().any(|point| point.id == id) {
        return Err(Refusal { code: Code::UnknownRestorePoint, message: format!("there is no restore point {id}") });
    }
    // Its own replica is no other agent, and just looks.
    if !owns(agent, headers) {
        agent.leases.renew(id);
    }
    let (layout, id) = (agent.setup.layout.clone(), id.to_owned());
    blocking(move || look(&layout, &id)).await.map_err(|e| failed(&e))
}

/// Carries out a call, to its end even if the caller goes away.
async fn call<T, R, F>(agent: Agent, headers: HeaderMap, body: Bytes, work: fn(Agent, Caller, T) -> F) -> Response
where
    T: DeserializeOwned,
    R: Serialize + Send + 'static,
    F: Future<Output = Result<R, Refusal>> + Send + 'static,
{
    let admitted = authorize(&agent, &headers).and_then(|()| refuse_shared(agent.setup.args.shared));
    let request = admitted.and_then(|()| Ok((caller(&headers)?, parse(&body)?)));
    let result = match request {
        Ok((caller, request)) => match tokio::spawn(work(agent, caller, request)).await {
            Ok(result) => result,
            Err(error) => Err(Refusal { code: Code::Failed, message: format!("the call broke off: {error}") }),
        },
        Err(refusal) => Err(refusal),
    };
    reply(result)
}

fn authorize(agent: &Agent, headers: &HeaderMap) -> Result<(), Refusal> {
    if bearer::is_shown(headers, &agent.setup.token) {
        return Ok(());
    }
    Err(Refusal { code: Code::Unauthorized, message: "no token, or a wrong one".to_owned() })
}

/// Every call speaks for one replica, and would do to all what that one asks for.
fn refuse_shared(shared: bool) -> Result<(), Refusal> {
    if !shared {
        return Ok(());
    }
    let message = "the agent runs in shared mode (--shared): its Cassandra belongs to several replicas, each with a keyspace \
                   of its own, so that none can claim, rewind, snapshot or mark it; start the replica with --keyspace, \
                   without --agent";
    Err(Refusal { code: Code::SharedMode, message: message.to_owned() })
}

fn caller(headers: &HeaderMap) -> Result<Caller, Refusal> {
    Ok(Caller { log: said(headers, LOG_HEADER)?, incarnation: said(headers, INCARNATION_HEADER)? })
}

fn said<T: FromStr>(headers: &HeaderMap, name: &str) -> Result<T, Refusal> {
    let text = headers.get(name).and_then(|value| value.to_str().ok());
    let value = text.and_then(|text| text.parse().ok());
    value.ok_or_else(|| Refusal { code: Code::BadRequest, message: format!("no {name} header") })
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|e| Refusal { code: Code::BadRequest, message: e.to_string() })
}

fn reply(result: Result<impl Serialize, Refusal>) -> Response {
    match result {
        Ok(value) => axum::Json(value).into_response(),
        Err(refusal) => (status_of(refusal.code), axum::Json(refusal)).into_response(),
    }
}

fn status_of(code: Code) -> StatusCode {
    match code {
        Code::Unauthorized => StatusCode::UNAUTHORIZED,
        Code::BadRequest => StatusCode::BAD_REQUEST,
        Code::UnknownRestorePoint => StatusCode::NOT_FOUND,
        Code::StaleIncarnation
        | Code::OtherLog
        | Code::SharedMode
        | Code::Dirty
        | Code::Distrusted
        | Code::WrongState
        | Code::WrongGeneration
        | Code::MemtableSwitched
        | Code::Damaged => StatusCode::CONFLICT,
        Code::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        Code::Timeout => StatusCode::GATEWAY_TIMEOUT,
        Code::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
