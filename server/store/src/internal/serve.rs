//! Requests of other processes of the database.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, Request, connect_info::Connected},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    serve::{IncomingStream, Listener},
};
use rustls::{client::verify_server_name, pki_types::ServerName, server::ParsedCertificate};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::{either::Either, task::AbortOnDropHandle};

use super::{Internal, NAME, Tls};

/// Connections that have not begun to send requests, at once.
const BEGINNING_MAX: usize = 64;
/// Longest time until a connection has begun: its first byte, and TLS.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);
/// The first byte of a TLS record that holds a part of a handshake; no request of HTTP begins with it.
const TLS_RECORD: u8 = 0x16;
/// For whoever has no certificate.
const REFUSED: &str = "this is for the processes of the database, over TLS with a certificate of its own authority \
                       (--internal-certificate, --internal-key, --internal-ca)\n";

type Stream = Either<Box<TlsStream<TcpStream>>, TcpStream>;

impl Internal {
    /// Serves `router` on `listener`; whoever comes without TLS, where that is not optional, gets the paths `open` alone.
    ///
    /// # Errors
    /// None that is expected: errors of connections are their own.
    pub async fn serve(&self, listener: TcpListener, router: Router, open: &'static [&'static str]) -> io::Result<()> {
        let Some(tls) = &self.0 else { return axum::serve(listener, router).await };
        let router = if tls.optional {
            router
        } else {
            router.layer(middleware::from_fn(move |request: Request, next: Next| guard(open, request, next)))
        };
        let listener = TlsListener::new(listener, Arc::clone(tls))?;
        axum::serve(listener, router.into_make_service_with_connect_info::<Via>()).await
    }
}

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Via {
    /// From a process of the database.
    Tls,
    /// From anybody.
    Plain,
}

impl Connected<IncomingStream<'_, TlsListener>> for Via {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        match stream.io() {
            Either::Left(_) => Self::Tls,
            Either::Right(_) => Self::Plain,
        }
    }
}

async fn guard(open: &[&str], request: Request, next: Next) -> Response {
    let via = request.extensions().get::<ConnectInfo<Via>>().map(|info| info.0);
    if via == Some(Via::Tls) || open.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, REFUSED).into_response()
}

/// Connections that have begun, with TLS or without.
struct TlsListener {
    address: SocketAddr,
    begun: mpsc::Receiver<(Stream, SocketAddr)>,
    _accepting: AbortOnDropHandle<()>,
}

impl TlsListener {
    fn new(listener: TcpListener, tls: Arc<Tls>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (sender, begun) = mpsc::channel(1);
        let accepting = AbortOnDropHandle::new(tokio::spawn(accept(listener, tls, sender)));
        Ok(Self { address, begun, _accepting: accepting })
    }
}

impl Listener for TlsListener {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.begun.recv().await {
            Some(begun) => begun,
            // Nothing is accepted any more: the runtime is ending.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// Sees connections through to where requests begin, [`BEGINNING_MAX`] at a time: none waits for another's handshake.
async fn accept(mut listener: TcpListener, tls: Arc<Tls>, begun: mpsc::Sender<(Stream, SocketAddr)>) {
    let room = Arc::new(Semaphore::new(BEGINNING_MAX));
    loop {
        let (socket, peer) = Listener::accept(&mut listener).await;
        // It is never closed.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let (tls, begun) = (Arc::clone(&tls), begun.clone());
        tokio::spawn(async move {
            let _place = place;
            match timeout(BEGIN_LIMIT, begin(&tls, socket)).await {
                // The server that would take it is gone: so is everybody else.
                Ok(Ok(stream)) => drop(begun.send((stream, peer)).await),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "a connection was not let in"),
                Err(_) => tracing::debug!(%peer, "a connection was not let in: it took longer than {BEGIN_LIMIT:?}"),
            }
        });
    }
}

async fn begin(tls: &Tls, socket: TcpStream) -> io::Result<Stream> {
    socket.set_nodelay(true)?;
    let mut first = [0];
    if socket.peek(&mut first).await? == 0 || first[0] != TLS_RECORD {
        return Ok(Either::Right(socket));
    }
    let config = Arc::clone(&tls.current.borrow().server);
    let stream = TlsAcceptor::from(config).accept(socket).await?;
    check_name(&stream)?;
    Ok(Either::Left(Box::new(stream)))
}

/// Whether the certificate that was shown, which the authority has signed, is one of the database's processes.
fn check_name(stream: &TlsStream<TcpStream>) -> io::Result<()> {
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let shown = shown.ok_or_else(|| io::Error::other("it shows no certificate"))?;
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    let parsed = ParsedCertificate::try_from(shown).map_err(io::Error::other)?;
    verify_server_name(&parsed, &name).map_err(io::Error::other)
}
