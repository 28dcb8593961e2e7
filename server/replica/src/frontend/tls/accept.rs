//! How a connection to the CQL port begins: its first byte tells TLS from CQL.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::ready,
};

use prometheus_client::metrics::gauge::Gauge;
use replicateddb_cql::{frame::Envelope, response::ErrorCode};
use rustls::ServerConnection;
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::PollSemaphore;

use super::{Tls, metrics::Failure};
use crate::frontend::{
    answer,
    handshake::readable,
    limits::{TLS_HANDSHAKE_TIMEOUT, TLS_LOG_PAUSE, TLS_WRITE_BUFFER},
    socket::{self, Out, linger},
};
use crate::stream::Stream;

/// The first byte of a TLS record that holds a part of a handshake. That of a message of CQL is its version, and none is 22.
const TLS_RECORD: u8 = 0x16;
/// For clients without TLS, where there is no other. It must not contain what makes drivers try another protocol version.
const TLS_ONLY: &str =
    "this port takes TLS only: switch TLS (SSL) on in the client, with the authority of the server's certificate";

/// A connection that may go on.
pub struct Accepted {
    /// What CQL is spoken on.
    pub stream: Stream,
    /// Counts it for as long as it is open, if it uses TLS.
    pub open: Option<Open>,
}

/// Counts an open connection.
pub struct Open(Gauge);

impl Open {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Tls {
    /// Sees a connection through to where CQL begins, within [`TLS_HANDSHAKE_TIMEOUT`]. Whoever is not let in is told so where
    /// that is possible, counted, and logged: then there is `None`.
    pub async fn accept(&self, socket: TcpStream, peer: SocketAddr) -> Option<Accepted> {
        let due = Instant::now() + TLS_HANDSHAKE_TIMEOUT;
        let failure = match timeout_at(due, first_byte(&socket)).await {
            Ok(Ok(Some(TLS_RECORD))) => return self.handshake(socket, peer, due).await,
            Ok(Ok(Some(_))) if self.optional => return Some(Accepted { stream: Stream::Plain(socket), open: None }),
            Ok(Ok(Some(_))) => {
                self.failed(peer, Failure::Plaintext, "it does not speak TLS, and is told so");
                let _ = timeout_at(due, refuse(socket)).await;
                return None;
            }
            Ok(Ok(None)) => (Failure::Closed, "it closed without a word".to_owned()),
            Ok(Err(error)) => (Failure::Closed, error.to_string()),
            Err(_) => (Failure::Timeout, format!("it sent nothing within {TLS_HANDSHAKE_TIMEOUT:?}")),
        };
        self.failed(peer, failure.0, &failure.1);
        None
    }

    async fn handshake(&self, socket: TcpStream, peer: SocketAddr, due: Instant) -> Option<Accepted> {
        match timeout_at(due, self.negotiate(socket)).await {
            Ok(Ok(stream)) => {
                let open = Some(Open::new(&self.metrics.clients));
                Some(Accepted { stream: Stream::Tls(Box::new(stream.into())), open })
            }
            Ok(Err((error, socket))) => {
                self.failed(peer, failure(&error), &error.to_string());
                // So that the alert that says why arrives.
                let _ = timeout_at(due, leave(socket)).await;
                None
            }
            Err(_) => {
                self.failed(peer, Failure::Timeout, &format!("it was not done within {TLS_HANDSHAKE_TIMEOUT:?}"));
                None
            }
        }
    }

    /// Each step is computed when it is this connection's turn, and nobody has a turn while it waits for its client: one that
    /// never answers keeps none from the others, and all that come at once leave half of the processors to those that are served, where
    /// there are two at least.
    async fn negotiate(&self, socket: TcpStream) -> Result<TlsStream<TcpStream>, (io::Error, TcpStream)> {
        let config = self.current.borrow().clone();
        let accept = TlsAcceptor::from(config);
        let bounded = |connection: &mut ServerConnection| connection.set_buffer_limit(Some(TLS_WRITE_BUFFER));
        let mut accept = accept.accept_with(socket, bounded).into_fallible();
        let mut turns = PollSemaphore::new(self.turns.clone());
        poll_fn(|cx| {
            // It is never closed: there is always a turn, in time.
            let _turn = ready!(turns.poll_acquire(cx));
            Pin::new(&mut accept).poll(cx)
        })
        .await
    }

    /// Counts and logs a client that was not let in. What may come often, from health checks or one client that tries again and
    /// again, is at level debug.
    fn failed(&self, peer: SocketAddr, reason: Failure, detail: &str) {
        self.metrics.failed(reason);
        let said = match reason {
            Failure::Closed => None,
            _ => self.quiet.turn(Instant::now()),
        };
        let reason = reason.name();
        match said {
            Some(unsaid) => tracing::info!(%peer, reason, detail, unsaid, "a client was not let in by TLS"),
            None => tracing::debug!(%peer, reason, detail, "a client was not let in by TLS"),
        }
    }
}

/// Whether a client speaks CQL as it is, by its first byte.
pub async fn speaks_plain(socket: &TcpStream) -> bool {
    matches!(first_byte(socket).await, Ok(Some(byte)) if byte != TLS_RECORD)
}

/// Why a handshake has failed.
fn failure(error: &io::Error) -> Failure {
    use rustls::Error;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::NoCertificatesPresented) => Failure::NoCertificate,
        Some(Error::InvalidCertificate(_)) => Failure::BadCertificate,
        Some(Error::AlertReceived(_)) => Failure::GivenUp,
        Some(_) => Failure::Protocol,
        None => Failure::Closed,
    }
}

/// The first byte that the client sends, left where it is; `None` if it closes before.
async fn first_byte(socket: &TcpStream) -> io::Result<Option<u8>> {
    let mut byte = [0];
    let read = socket.peek(&mut byte).await?;
    Ok((read > 0).then_some(byte[0]))
}

/// Answers the first request of a client that speaks no TLS, in the version that it speaks, and closes.
async fn refuse(socket: TcpStream) {
    let (mut reader, writer) = socket::client_halves(Stream::Plain(socket));
    let (out, queue) = Out::new();
    let first = &mut reader;
    let answered = async move {
        let item = first.next().await;
        if let Ok(Envelope { stream, version, .. }) = readable(item, first.version(), &out).await {
            let answer = answer::error(stream, ErrorCode::Protocol, TLS_ONLY);
            let _ = out.send(Envelope { version, ..answer }).await;
        }
    };
    // The queue ends with the answer: the pump writes it and closes.
    let ((), written) = tokio::join!(answered, socket::pump(queue, writer));
    if written.is_ok() {
        linger(reader.into_inner()).await;
    }
}

/// Closes, and reads what the client still sends.
async fn leave(mut socket: TcpStream) {
    if socket.shutdown().await.is_ok() {
        linger(socket).await;
    }
}

/// Keeps clients that try again and again from filling the log.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    last: Option<Instant>,
    unsaid: u64,
}

impl Quiet {
    /// Whether something may be said, which is once in [`TLS_LOG_PAUSE`], and how much was not said since.
    fn turn(&self, now: Instant) -> Option<u64> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.last.is_some_and(|last| now.duration_since(last) < TLS_LOG_PAUSE) {
            said.unsaid += 1;
            return None;
        }
        said.last = Some(now);
        Some(std::mem::take(&mut said.unsaid))
    }
}
