//! Requests to other processes of the database.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::http::{HeaderValue, Request, Uri, header::HOST};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use reqwest::{RequestBuilder, ResponseBuilderExt as _};
use rustls::pki_types::ServerName;
use tokio::{
    net::TcpStream,
    time::{Instant, Sleep, timeout},
};
use tokio_rustls::{TlsConnector, TlsStream};
use tokio_util::either::Either;

use super::{Internal, NAME, Tls};

/// Longest wait for a connection, and for TLS on it.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Longest wait for the beginning of an answer, where the request has no limit of its own.
const ANSWER_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Longest silence in the middle of an answer.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Without TLS.
    #[error(transparent)]
    Plain(#[from] reqwest::Error),
    /// There is no connection, or no TLS on it.
    #[error("{0}")]
    Connect(String),
    /// Somebody is there, who is not trusted or does not trust us.
    #[error("{0}")]
    Distrust(String),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    /// It took too long.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// It names no host that could be connected to.
    #[error("{0} is no URL of a process of the database, such as http://HOST:PORT/...")]
    Url(String),
}

/// A connection: with TLS, or as it is.
pub type Stream = Either<Box<TlsStream<TcpStream>>, TcpStream>;

impl Internal {
    /// Connects to `host:port`, for something else than requests.
    ///
    /// # Errors
    /// There is no connection, or no TLS on it where there has to be.
    pub async fn connect(&self, address: &str) -> Result<Stream, CallError> {
        match &self.0 {
            Some(tls) => tls.connect(address).await,
            None => {
                let plain = dial(address).await;
                plain.map(Either::Right).map_err(|error| CallError::Connect(error.to_string()))
            }
        }
    }

    /// Sends a request, whose URL begins with `http://` in any case, and gives the answer. With TLS the connection is for this
    /// request alone.
    ///
    /// # Errors
    /// There is no answer. Of what kind an answer is, is not looked at.
    pub async fn send(&self, request: RequestBuilder) -> Result<reqwest::Response, CallError> {
        match &self.0 {
            None => Ok(request.send().await?),
            Some(tls) => tls.send(request).await,
        }
    }
}

impl Tls {
    async fn send(&self, request: RequestBuilder) -> Result<reqwest::Response, CallError> {
        let request = request.build()?;
        let (url, limit) = (request.url().clone(), request.timeout().copied());
        let due = limit.map(|limit| Instant::now() + limit);
        let request = http_request(request)?;
        let wait = limit.unwrap_or(ANSWER_LIMIT);
        let answer = timeout(wait, self.answer(request)).await.map_err(|_| CallError::Late(wait))??;
        let (mut parts, body) = answer.into_parts();
        parts.extensions.extend(named(url)?);
        let body = Bounded { body, due: due.map(|due| Box::pin(tokio::time::sleep_until(due))), silence: silence() };
        Ok(axum::http::Response::from_parts(parts, reqwest::Body::wrap(body)).into())
    }

    async fn answer(&self, request: Request<reqwest::Body>) -> Result<axum::http::Response<Incoming>, CallError> {
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let stream = self.connect(host).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer's body, or with what the connection is upgraded to.
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to another process of the database has ended");
            }
        });
        Ok(sender.send_request(request).await?)
    }

    /// Connects to `host:port`, with TLS; without it only where it is optional and the other side does not speak it.
    async fn connect(&self, address: &str) -> Result<Stream, CallError> {
        let refused = match self.secure(address).await {
            Ok(stream) => return Ok(Either::Left(Box::new(stream))),
            Err(error) => error,
        };
        if !self.optional {
            let said = format!("{address}: there is no TLS with it: {refused}");
            return Err(if of_tls(&refused) { CallError::Distrust(said) } else { CallError::Connect(said) });
        }
        let plain = dial(address).await.map_err(|error| CallError::Connect(format!("{address}: {error}")))?;
        tracing::debug!(address, %refused, "spoken with without TLS, which is optional");
        Ok(Either::Right(plain))
    }

    async fn secure(&self, address: &str) -> io::Result<TlsStream<TcpStream>> {
        let socket = dial(address).await?;
        let config = Arc::clone(&self.current.borrow().client);
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        Ok(within(TlsConnector::from(config).connect(name, socket)).await?.into())
    }
}

/// Whether an error is one of TLS with somebody who is there and has said something: the certificate that is shown, or our own, is
/// of an authority that the other side does not know. One side knows of another authority before the other does.
pub(crate) fn is_distrust(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(CallError::Distrust(_))) || cause.downcast_ref().is_some_and(of_tls)
    })
}

fn of_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}

/// What says of an answer which URL it is of.
fn named(url: reqwest::Url) -> Result<axum::http::Extensions, CallError> {
    let told = CallError::Url(url.to_string());
    let built = axum::http::Response::builder().url(url).body(());
    Ok(built.map_err(|_| told)?.into_parts().0.extensions)
}

/// A request for a connection of its own: its URL has a path alone, and a header the host.
fn http_request(request: reqwest::Request) -> Result<Request<reqwest::Body>, CallError> {
    let url = request.url().to_string();
    let mut request: Request<reqwest::Body> = request.try_into()?;
    let told = || CallError::Url(url.clone());
    let authority = request.uri().authority().filter(|authority| authority.port().is_some()).ok_or_else(told)?;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| told())?;
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let path: Uri = path.parse().map_err(|_| told())?;
    *request.uri_mut() = path;
    request.headers_mut().insert(HOST, host);
    Ok(request)
}

async fn dial(address: &str) -> io::Result<TcpStream> {
    let socket = within(TcpStream::connect(address)).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(CONNECT_LIMIT, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn silence() -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(SILENCE_LIMIT))
}

/// The body of an answer, which comes in time or breaks off.
struct Bounded {
    body: Incoming,
    /// When all of it must have come.
    due: Option<Pin<Box<Sleep>>>,
    /// When more of it must have come.
    silence: Pin<Box<Sleep>>,
}

impl Body for Bounded {
    type Data = bytes::Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.silence.as_mut().reset(Instant::now() + SILENCE_LIMIT);
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let late = this.due.as_mut().is_some_and(|due| due.as_mut().poll(context).is_ready());
        if late || this.silence.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::TimedOut).into())));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
