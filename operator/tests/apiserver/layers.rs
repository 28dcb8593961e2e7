//! Layers of a client: one that counts writes, one that dies after a number of requests.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use futures::{FutureExt, future::BoxFuture};
use http::{Method, Request};
use kube::{Client, client::ClientBuilder};
use tower::{BoxError, Layer, Service};

use crate::cluster::Cluster;

/// How a process dies at a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Before it is sent.
    Before,
    /// After it was carried out, before its answer arrives.
    After,
}

/// Counts and kills.
#[derive(Clone)]
pub struct Fuse {
    left: Arc<AtomicI64>,
    death: Death,
    /// Requests so far.
    pub requests: Arc<AtomicU64>,
    /// Of them, those that write.
    pub writes: Arc<AtomicU64>,
}

impl Fuse {
    /// Dies at request number `requests` (from 0), in the way of `death`.
    pub fn after(requests: i64, death: Death) -> Self {
        Self { left: Arc::new(AtomicI64::new(requests)), death, requests: Arc::default(), writes: Arc::default() }
    }

    /// Never dies.
    pub fn none() -> Self {
        Self::after(i64::MAX, Death::Before)
    }

    /// A client with this fuse.
    pub fn client(&self) -> Client {
        ClientBuilder::try_from(Cluster::shared().operator_config()).unwrap().with_layer(self).build()
    }

    /// Writes so far.
    pub fn writes(&self) -> u64 {
        self.writes.load(Ordering::SeqCst)
    }

    /// Whether it has blown.
    pub fn blown(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }
}

impl<S> Layer<S> for Fuse {
    type Service = Fused<S>;

    fn layer(&self, inner: S) -> Fused<S> {
        Fused { inner, fuse: self.clone() }
    }
}

/// A service with a fuse.
#[derive(Clone)]
pub struct Fused<S> {
    inner: S,
    fuse: Fuse,
}

impl<S, B, R> Service<Request<B>> for Fused<S>
where
    S: Service<Request<B>, Response = R>,
    S::Error: Into<BoxError> + Send + 'static,
    S::Future: Send + 'static,
    R: Send + 'static,
{
    type Response = R;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<R, BoxError>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.fuse.requests.fetch_add(1, Ordering::SeqCst);
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            self.fuse.writes.fetch_add(1, Ordering::SeqCst);
        }
        let left = self.fuse.left.fetch_sub(1, Ordering::SeqCst);
        let dead = || Err(BoxError::from("the process is dead"));
        match (left, self.fuse.death) {
            (1.., _) => self.inner.call(request).map(|result| result.map_err(Into::into)).boxed(),
            (0, Death::After) => self.inner.call(request).map(move |_| dead()).boxed(),
            _ => std::future::ready(dead()).boxed(),
        }
    }
}
