//! The beginning of a client's connection: OPTIONS, until STARTUP says how it goes on, and the login, where Cassandra asks for
//! one: it is Cassandra that knows passwords.

use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use replicateddb_cql::{
    Compression, Version,
    frame::{Envelope, FrameError, Opcode},
    request,
    response::ErrorCode,
};

use replicateddb_store::login::{self, Login};
use tokio::sync::Semaphore;

use super::{
    answer,
    session::End,
    socket::{Out, Reader},
};
use crate::backend;

/// Requests that a client may send until it is logged in.
const LOGIN_ATTEMPTS: usize = 16;

/// What a client and the server have agreed on for the rest of their connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// The version of STARTUP.
    pub version: Version,
    /// What STARTUP asked for.
    pub compression: Option<Compression>,
}

/// Answers OPTIONS until STARTUP, and gives STARTUP's stream.
///
/// # Errors
/// The client left, or can't be read on.
pub async fn handshake(reader: &mut Reader, out: &Out) -> Result<(i16, Agreed), End> {
    loop {
        let item = reader.next().await;
        let envelope = readable(item, reader.version(), out).await?;
        let (stream, version) = (envelope.stream, envelope.version);
        let answer = match envelope.opcode {
            Opcode::Options => answer::supported(stream),
            Opcode::Startup => match startup(&envelope, reader.version()) {
                Ok(agreed) => return Ok((stream, agreed)),
                Err(message) => answer::error(stream, ErrorCode::Protocol, &message),
            },
            other => {
                let message = format!("Unexpected message {}, expecting STARTUP or OPTIONS", other.name());
                answer::error(stream, ErrorCode::Protocol, &message)
            }
        };
        out.send(Envelope { version, ..answer }).await.map_err(|_| End::Closed)?;
    }
}

fn startup(envelope: &Envelope, version: Version) -> Result<Agreed, String> {
    let message = envelope.message().map_err(|error| error.to_string())?;
    let startup = request::parse_startup(&message).map_err(|error| error.to_string())?;
    let cql = startup.option("CQL_VERSION").ok_or("Missing value CQL_VERSION in STARTUP message")?;
    if !matches!(cql.split('.').next(), Some("3" | "4")) {
        return Err(format!("CQL version {cql} is not supported (supported version: {})", answer::CQL_VERSION));
    }
    let compression = match startup.option("COMPRESSION").filter(|name| !name.is_empty()) {
        None => None,
        Some(name) => {
            Some(Compression::from_name(name).ok_or_else(|| format!("Unknown compression algorithm: {name}"))?)
        }
    };
    if version >= Version::V5 && compression == Some(Compression::Snappy) {
        return Err("Snappy compression is not supported in protocol V5".to_owned());
    }
    Ok(Agreed { version, compression })
}

/// Passes a client's login on to Cassandra until it has let it in, and gives the role. Bounded by [`LOGIN_ATTEMPTS`].
///
/// # Errors
/// The client or Cassandra left, or the client can't be read on, or is not who it says it is.
pub async fn log_in(
    reader: &mut Reader,
    out: &Out,
    backend: &mut backend::Framed,
    version: Version,
    logins: &Semaphore,
) -> Result<Arc<str>, End> {
    for _ in 0..LOGIN_ATTEMPTS {
        let item = reader.next().await;
        let envelope = readable(item, version, out).await?;
        let stream = envelope.stream;
        let (user, answer) = match envelope.opcode {
            Opcode::AuthResponse => pass_on(envelope, backend, logins).await?,
            other => {
                let message = format!("Unexpected message {}, expecting SASL_RESPONSE", other.name());
                (None, answer::error(stream, ErrorCode::Protocol, &message))
            }
        };
        let is_in = answer.opcode == Opcode::AuthSuccess;
        out.send(answer).await.map_err(|_| End::Closed)?;
        if let Some(user) = user.filter(|_| is_in) {
            return Ok(user);
        }
    }
    Err(End::Closed)
}

/// The user of a step of the login, if it names one, and Cassandra's answer.
async fn pass_on(
    request: Envelope,
    backend: &mut backend::Framed,
    logins: &Semaphore,
) -> Result<(Option<Arc<str>>, Envelope), End> {
    let stream = request.stream;
    let user = request.message().and_then(|message| request::parse_plain(&message));
    let user = match user {
        Ok(user) => user.map(|(user, password)| Login { user, password }),
        Err(error) => return Ok((None, answer::error(stream, ErrorCode::Protocol, &error.to_string()))),
    };
    // Nobody logs in as the replica, nor as the role that Cassandra starts with by the password that everybody knows.
    let is_nobody = user.as_ref().is_none_or(|login| login.user == login::ROLE || *login == Login::default_role());
    if is_nobody {
        let message = "Provided username and/or password are incorrect";
        return Ok((None, answer::error(stream, ErrorCode::BadCredentials, message)));
    }
    let _turn = logins.acquire().await.map_err(|_| End::Closed)?;
    let gone = |error: Option<FrameError>| {
        tracing::debug!(?error, "the backend of a client that logs in is gone");
        End::Closed
    };
    backend
        .send(Envelope { stream: 0, version: backend.codec().version().code(), ..request })
        .await
        .map_err(|e| gone(Some(e)))?;
    match backend.next().await {
        Some(Ok(answer)) => Ok((user.map(|login| login.user.into()), Envelope { stream, ..answer })),
        Some(Err(error)) => Err(gone(Some(error))),
        None => Err(gone(None)),
    }
}

/// What came from the socket, if it is a request; what can't be read is answered before the session ends, in the connection's
/// `version` or, where the client speaks none of those known here, in one that tells it so.
///
/// # Errors
/// The session has to end.
pub async fn readable(
    item: Result<Option<Envelope>, FrameError>,
    version: Version,
    out: &Out,
) -> Result<Envelope, End> {
    let refuse = async |stream: i16, version: u8, message: &str| {
        let _ = out.send(Envelope { version, ..answer::error(stream, ErrorCode::Protocol, message) }).await;
    };
    match item {
        Ok(None) => Err(End::Closed),
        Ok(Some(envelope)) if envelope.stream >= 0 => Ok(envelope),
        Ok(Some(envelope)) => {
            refuse(envelope.stream, version.code(), "Stream ids of requests must not be negative").await;
            Err(End::Closed)
        }
        Err(error) => {
            if let Some(stream) = error.stream() {
                let version = error.answer_version().unwrap_or(version.code());
                refuse(stream, version, &error.to_string()).await;
            }
            Err(error.into())
        }
    }
}
