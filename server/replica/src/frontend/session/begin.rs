//! How a session begins: TLS, STARTUP, a connection to the backend, and who logs in.

use std::{net::SocketAddr, sync::Arc};

use replicateddb_cql::{
    Version,
    frame::{Envelope, Opcode},
    request::Values,
    response::{self, ErrorCode},
};
use replicateddb_store::generation;
use tokio::{net::TcpStream, sync::watch, time::timeout};

use super::super::{
    answer,
    core::Core,
    handshake::{handshake, log_in},
    limits::{HANDSHAKE_TIMEOUT, LOGIN_TIMEOUT, MAX_BODY, MAX_HANDSHAKE_BODY},
    service::Service,
    socket::{Out, Reader},
    tls::Accepted,
};
use super::{Closing, End};
use crate::backend::{self, BackendError, Opened};
use crate::stream::Stream;

/// A session that may begin.
pub(super) struct Beginning {
    /// The client's version of the protocol.
    pub(super) version: Version,
    /// The client's own connection to the local Cassandra.
    pub(super) backend: backend::Framed,
    /// Who has logged in, where clients do.
    pub(super) role: Option<Arc<str>>,
}

/// What CQL is spoken on: TLS, where clients use it. `None`: the client was not let in, or nobody is any more.
pub(super) async fn accept<C: Core>(
    service: &Service<C>,
    socket: TcpStream,
    peer: SocketAddr,
    closing: &mut watch::Receiver<Closing>,
) -> Option<Accepted> {
    let Some(tls) = &service.tls else { return Some(Accepted { stream: Stream::Plain(socket), open: None }) };
    tokio::select! {
        // In a box: it is large, and done before the session begins, whose memory it would be part of.
        accepted = Box::pin(tls.accept(socket, peer)) => accepted,
        _ = closing.wait_for(|closing| *closing != Closing::Open) => None,
    }
}

/// `None`: there is to be no session, and the client was told why if it could be.
pub(super) async fn begin<C: Core>(
    service: &Service<C>,
    reader: &mut Reader,
    out: &Out,
    closing: &mut watch::Receiver<Closing>,
) -> Result<Option<Beginning>, End> {
    let (stream, agreed) = tokio::select! {
        started = timeout(HANDSHAKE_TIMEOUT, handshake(reader, out)) => started.map_err(|_| End::Closed)??,
        _ = closing.wait_for(|closing| *closing != Closing::Open) => return Ok(None),
    };
    let version = agreed.version;
    let begun = async {
        let opened = backend::open(version, &service.backend).await.map_err(|error| unavailable(&error))?;
        let mut backend = match (opened, service.superuser.is_some()) {
            (Opened::Login(backend, asked), true) => {
                of_serving(service).await?;
                return Ok(Begun::Asked(backend, asked));
            }
            (Opened::Ready(_), true) => {
                return Err(
                    "this replica's Cassandra lets everybody in: it is not started with --authentication yet".into()
                );
            }
            (Opened::Ready(backend), false) => backend,
            (Opened::Login(backend, _), false) => {
                backend::log_in_in_time(&service.backend, backend).await.map_err(|error| unavailable(&error))?
            }
        };
        backend =
            backend::of_generation(&service.backend, backend, service.generation).await.map_err(|e| unavailable(&e))?;
        confined(service, backend).await.map(Begun::Ready)
    };
    let (backend, role) = match begun.await {
        Err(message) => {
            let refusal = answer::error(stream, ErrorCode::Bootstrapping, &message);
            let _ = out.send(Envelope { version: version.code(), ..refusal }).await;
            return Ok(None);
        }
        Ok(Begun::Ready(backend)) => {
            reader.begin(agreed, MAX_BODY);
            let ready = Envelope::response(stream, Opcode::Ready, response::ready());
            let _ = out.send_ready(Envelope { version: version.code(), ..ready }, agreed).await;
            (backend, None)
        }
        Ok(Begun::Asked(mut backend, asked)) => {
            reader.begin(agreed, MAX_HANDSHAKE_BODY);
            let asked = Envelope { version: version.code(), stream, ..asked };
            out.send_ready(asked, agreed).await.map_err(|_| End::Closed)?;
            let role = tokio::select! {
                role = timeout(LOGIN_TIMEOUT, log_in(reader, out, &mut backend, version, &service.logins)) => role.map_err(|_| End::Closed)??,
                _ = closing.wait_for(|closing| *closing != Closing::Open) => return Ok(None),
            };
            reader.begin(agreed, MAX_BODY);
            let confined = confined(service, backend).await.map_err(|error| {
                tracing::warn!(error, "a client that has logged in is let go");
                End::Closed
            })?;
            (confined, Some(role))
        }
    };
    Ok(Some(Beginning { version, backend, role }))
}

/// A client's own connection to the local Cassandra, in the client's version, so that answers are passed on as they are.
enum Begun {
    /// It may be used.
    Ready(backend::Framed),
    /// As soon as the client has answered this AUTHENTICATE.
    Asked(backend::Framed, Envelope),
}

/// For the client.
fn unavailable(error: &BackendError) -> String {
    tracing::warn!(%error, "no backend connection for a client");
    format!("this replica's Cassandra is not available: {error}")
}

/// Whether the connection of a client that is yet to log in, made before, is to the right generation: another one's Cassandra, which is
/// not recovered, must not judge passwords either. A role may not read the generation. The replica's may, and one JVM
/// follows another: if it is the right one now, the connection was made to that, or to one that has taken it along. The error is
/// for the client.
async fn of_serving<C: Core>(service: &Service<C>) -> Result<(), String> {
    let answer = service.control.query(generation::QUERY, Values::none()).await;
    answer.map(drop).map_err(|error| {
        tracing::warn!(%error, "no backend connection for a client");
        format!("this replica's Cassandra is not available: {error}")
    })
}

/// In the keyspace that clients are confined to, if they are. The error is for the client.
async fn confined<C: Core>(service: &Service<C>, backend: backend::Framed) -> Result<backend::Framed, String> {
    match service.keyspace.as_deref() {
        None => Ok(backend),
        Some(keyspace) => {
            backend::in_keyspace(&service.backend, backend, keyspace).await.map_err(|error| error.to_string())
        }
    }
}
