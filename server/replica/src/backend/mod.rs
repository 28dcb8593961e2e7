//! The local Cassandra over CQL: connections ([`connect`], [`connection`]), statements executed for the applier
//! ([`executor`]) and what the answers mean ([`outcome`]).
//!
//! Every connection reads the generation first (see `replicateddb_store::generation`): one made to another JVM than
//! recovery ended with carries nothing (I5, I6).

mod conditional;
pub mod connection;
pub mod endpoint;
pub mod executor;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod group;
mod nulls;
pub mod outcome;
pub mod pool;
mod prepared;
mod revoked;
pub(crate) mod roles;
pub mod scan;
mod vectors;

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use replicateddb_cql::frame::{Codec, Envelope, Opcode};
use replicateddb_cql::request::{self, Params, Values};
use replicateddb_cql::response::{self, ResultBody};
use replicateddb_cql::statement::Ident;
use replicateddb_cql::{Consistency, ProtocolError, Version};
use replicateddb_store::generation;
use replicateddb_store::internal::CallError;
use replicateddb_store::login::Login;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::stream::Stream;
use crate::tls::client::Client;

pub use endpoint::Endpoint;

/// A connection to Cassandra, or, by another stream than TCP as it is, to a replica.
pub type Framed<S = Stream> = tokio_util::codec::Framed<S, Codec>;

/// Longest wait for a TCP connection, the handshake and the generation together.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest body of a backend's answer, bytes: Cassandra's own frame limit.
pub const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// Why there is no connection to the local Cassandra.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// It can't be reached, closed the connection, or took too long.
    #[error("the local Cassandra at {address} is not reachable: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// For people.
        reason: String,
    },
    /// Another JVM than expected answers: the state in it is not known.
    #[error("the local Cassandra at {address} has generation {found:?}, not {expected}")]
    WrongGeneration {
        /// Where.
        address: String,
        /// What it says; `None` if it is no Cassandra of a store agent's.
        found: Option<u64>,
        /// What was expected.
        expected: u64,
    },
    /// It wants to know who asks, and does not take the answer.
    #[error("the local Cassandra at {address} does not let this replica in: {reason}")]
    NotLoggedIn {
        /// Where.
        address: String,
        /// For people.
        reason: String,
    },
    /// It answers something else than the protocol asks for.
    #[error("the local Cassandra at {address} answers strangely: {reason}")]
    Protocol {
        /// Where.
        address: String,
        /// For people.
        reason: String,
    },
}

/// Opens a connection of protocol version 4, up to READY; with an expected generation, also checks that it is that JVM.
/// Bounded by [`CONNECT_TIMEOUT`].
///
/// # Errors
/// See [`BackendError`]; nothing but the handshake and one read was sent.
pub async fn connect(at: &Endpoint, expected: Option<u64>) -> Result<Framed, BackendError> {
    connect_by(at, expected, Codec::client(MAX_ANSWER_BYTES), None).await
}

/// As [`connect`]; Cassandra is told the name of the application.
///
/// # Errors
/// See [`connect`].
pub(crate) async fn connect_named(at: &Endpoint, expected: Option<u64>, name: &str) -> Result<Framed, BackendError> {
    connect_by(at, expected, Codec::client(MAX_ANSWER_BYTES), Some(name)).await
}

/// As [`connect`], in protocol version 5: its requests say which second it is.
///
/// # Errors
/// See [`connect`].
pub async fn connect_v5(at: &Endpoint, expected: Option<u64>) -> Result<Framed, BackendError> {
    connect_v5_named(at, expected, None).await
}

/// As [`connect_v5`]; Cassandra is told the name of the application, if there is one.
///
/// # Errors
/// See [`connect`].
pub(crate) async fn connect_v5_named(
    at: &Endpoint,
    expected: Option<u64>,
    name: Option<&str>,
) -> Result<Framed, BackendError> {
    connect_by(at, expected, Codec::client_v5(MAX_ANSWER_BYTES), name).await
}

/// Who is on the other side of a fresh connection.
pub(crate) enum Opened<S = Stream> {
    /// Anybody may ask.
    Ready(Framed<S>),
    /// It wants to know who asks, as this AUTHENTICATE says.
    Login(Framed<S>, Envelope),
}

/// Opens a connection in this version up to the answer to STARTUP, for whoever logs in himself. Bounded by [`CONNECT_TIMEOUT`].
///
/// # Errors
/// See [`BackendError`].
pub(crate) async fn open(version: Version, at: &Endpoint) -> Result<Opened, BackendError> {
    let opened = open_by(at, Codec::client_of(version, None, MAX_ANSWER_BYTES), None);
    tokio::time::timeout(CONNECT_TIMEOUT, opened).await.map_err(|_| late(at))?
}

fn late(at: &Endpoint) -> BackendError {
    let reason = format!("no answer within {CONNECT_TIMEOUT:?}");
    BackendError::Unreachable { address: at.address.clone(), reason }
}

/// As [`connect_v5`], under TLS, to a replica.
///
/// # Errors
/// See [`connect`]; or there is no TLS with it.
pub async fn connect_v5_tls(at: &Endpoint, tls: &Client) -> Result<Framed<TlsStream<TcpStream>>, BackendError> {
    let handshake = async {
        let unreachable = |reason| BackendError::Unreachable { address: at.address.clone(), reason };
        let stream = tls.connect(&at.address, dial_plain(&at.address).await?).await.map_err(unreachable)?;
        logged_in(at, start(&at.address, stream, Codec::client_v5(MAX_ANSWER_BYTES), None).await?).await
    };
    tokio::time::timeout(CONNECT_TIMEOUT, handshake).await.map_err(|_| late(at))?
}

/// With TLS or without, as the processes of the database have it.
async fn dial(at: &Endpoint) -> Result<Stream, BackendError> {
    let stream = at.internal.connect(&at.address).await;
    let unreachable = |error: CallError| {
        let reason = error.to_string();
        BackendError::Unreachable { address: at.address.clone(), reason }
    };
    stream.map(Stream::from).map_err(unreachable)
}

async fn dial_plain(address: &str) -> Result<TcpStream, BackendError> {
    let unreachable =
        |error: std::io::Error| BackendError::Unreachable { address: address.to_owned(), reason: error.to_string() };
    let stream = TcpStream::connect(address).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok(stream)
}

async fn open_by(at: &Endpoint, codec: Codec, name: Option<&str>) -> Result<Opened, BackendError> {
    start(&at.address, dial(at).await?, codec, name).await
}

/// STARTUP and its answer.
async fn start<S: AsyncRead + AsyncWrite + Unpin>(
    address: &str,
    stream: S,
    codec: Codec,
    name: Option<&str>,
) -> Result<Opened<S>, BackendError> {
    let mut framed = Framed::new(stream, codec);
    let mut options = vec![("CQL_VERSION", "3.0.0"), ("DRIVER_NAME", "replicateddb")];
    options.extend(name.map(|name| ("APPLICATION_NAME", name)));
    let startup = request::startup(&options).map_err(|e| protocol(address, e))?;
    let answer = ask(address, &mut framed, Opcode::Startup, startup).await?;
    match answer.opcode {
        Opcode::Ready => Ok(Opened::Ready(framed)),
        Opcode::Authenticate => Ok(Opened::Login(framed, answer)),
        Opcode::Error => Err(protocol(address, said(&answer))),
        other => Err(protocol(address, format!("{other:?} to STARTUP"))),
    }
}

async fn connect_by(
    at: &Endpoint,
    expected: Option<u64>,
    codec: Codec,
    name: Option<&str>,
) -> Result<Framed, BackendError> {
    let handshake = async {
        let mut framed = logged_in(at, open_by(at, codec, name).await?).await?;
        if let Some(expected) = expected {
            check_generation(&at.address, &mut framed, expected).await?;
        }
        Ok(framed)
    };
    tokio::time::timeout(CONNECT_TIMEOUT, handshake).await.map_err(|_| late(at))?
}

/// Logs in, if it is asked for.
async fn logged_in<S: AsyncRead + AsyncWrite + Unpin>(
    at: &Endpoint,
    opened: Opened<S>,
) -> Result<Framed<S>, BackendError> {
    match opened {
        Opened::Ready(framed) => Ok(framed),
        Opened::Login(framed, _) => log_in(at, framed).await,
    }
}

/// Logs in at a Cassandra that asks who this is.
///
/// # Errors
/// See [`BackendError`].
async fn log_in<S: AsyncRead + AsyncWrite + Unpin>(
    at: &Endpoint,
    mut framed: Framed<S>,
) -> Result<Framed<S>, BackendError> {
    let refused = |reason: String| BackendError::NotLoggedIn { address: at.address.clone(), reason };
    let Some(Login { user, .. }) = &at.login else {
        return Err(refused("it asks for a user and a password, and there are none to give".to_owned()));
    };
    let token = at.login.as_ref().map(Login::plain).unwrap_or_default();
    let response = request::auth_response(&token).map_err(|e| protocol(&at.address, e))?;
    let answer = ask(&at.address, &mut framed, Opcode::AuthResponse, response).await?;
    match answer.opcode {
        Opcode::AuthSuccess => Ok(framed),
        Opcode::Error => Err(refused(format!("{} (user {user})", said(&answer)))),
        other => Err(protocol(&at.address, format!("{other:?} to the login"))),
    }
}

/// The message of an ERROR.
fn said(answer: &Envelope) -> String {
    let message = answer.message().and_then(|message| response::parse_error(&message));
    message.map_or_else(|error| error.to_string(), |error| error.message)
}

/// As [`log_in`], within [`CONNECT_TIMEOUT`].
///
/// # Errors
/// See [`BackendError`].
pub(crate) async fn log_in_in_time(at: &Endpoint, framed: Framed) -> Result<Framed, BackendError> {
    tokio::time::timeout(CONNECT_TIMEOUT, log_in(at, framed)).await.map_err(|_| late(at))?
}

/// Checks that a connection is to the JVM of this generation, within [`CONNECT_TIMEOUT`].
///
/// # Errors
/// See [`BackendError`].
pub(crate) async fn of_generation(at: &Endpoint, mut framed: Framed, expected: u64) -> Result<Framed, BackendError> {
    let checked = check_generation(&at.address, &mut framed, expected);
    tokio::time::timeout(CONNECT_TIMEOUT, checked).await.map_err(|_| late(at))??;
    Ok(framed)
}

/// Has a connection use a keyspace, within [`CONNECT_TIMEOUT`].
///
/// # Errors
/// See [`BackendError`].
pub async fn in_keyspace(at: &Endpoint, mut framed: Framed, keyspace: &str) -> Result<Framed, BackendError> {
    let address = at.address.as_str();
    let text = format!("USE {}", Ident::new(keyspace).to_cql());
    let query = query(&framed, &text).map_err(|e| protocol(address, e))?;
    let used = tokio::time::timeout(CONNECT_TIMEOUT, ask(address, &mut framed, Opcode::Query, query)).await;
    let late = |_| BackendError::Unreachable { address: address.to_owned(), reason: format!("no answer to {text}") };
    match used.map_err(late)??.opcode {
        Opcode::Result => Ok(framed),
        other => Err(protocol(address, format!("{other:?} to {text}"))),
    }
}

async fn check_generation(address: &str, framed: &mut Framed, expected: u64) -> Result<(), BackendError> {
    let query = query(framed, generation::QUERY).map_err(|e| protocol(address, e))?;
    let answer = ask(address, framed, Opcode::Query, query).await?;
    let message = answer.message().map_err(|e| protocol(address, e))?;
    let found = match answer.opcode {
        Opcode::Result => match response::parse_result(&message).map_err(|e| protocol(address, e))? {
            ResultBody::Rows(rows) => {
                rows.rows.first().and_then(|row| row.first()?.as_deref().and_then(generation::parse))
            }
            _ => None,
        },
        _ => return Err(protocol(address, "no answer to the question for its generation")),
    };
    match found == Some(expected) {
        true => Ok(()),
        false => Err(BackendError::WrongGeneration { address: address.to_owned(), found, expected }),
    }
}

/// The body of QUERY in the version of a connection.
fn query(framed: &Framed, text: &str) -> Result<bytes::Bytes, ProtocolError> {
    let params = Params::new(Consistency::One, Values::none());
    match framed.codec().version() {
        Version::V5 => request::v5::query(text, &params, None),
        Version::V3 | Version::V4 => request::query(text, &params),
    }
}

fn protocol(address: &str, reason: impl ToString) -> BackendError {
    BackendError::Protocol { address: address.to_owned(), reason: reason.to_string() }
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    address: &str,
    framed: &mut Framed<S>,
    opcode: Opcode,
    body: bytes::Bytes,
) -> Result<Envelope, BackendError> {
    let unreachable = |reason: String| BackendError::Unreachable { address: address.to_owned(), reason };
    framed.send(Envelope::request(0, opcode, body)).await.map_err(|e| unreachable(e.to_string()))?;
    match framed.next().await {
        Some(Ok(envelope)) => Ok(envelope),
        Some(Err(error)) => Err(unreachable(error.to_string())),
        None => Err(unreachable("it closed the connection".to_owned())),
    }
}
