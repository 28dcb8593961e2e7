//! The gate that every request to the API server passes: it counts requests, and lets no write through without the lease.
//!
//! It sits in the client itself, so that no code path can go around it: a write is anything but GET and HEAD. A write
//! that is let through must be answered before the lease could be somebody else's, so its wait is bounded.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::{FutureExt, future::BoxFuture};
use http::{Method, Request};
use tower::{BoxError, Layer, Service};

use crate::metrics::Metrics;

/// Longest wait for the answer to a write. With [`crate::lease::RENEW_DEADLINE`] it is less than
/// [`crate::lease::DURATION`]: a write begun under the lease ends before another holder can begin one.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(4);

/// Until when this process may write; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    until: Arc<Mutex<Option<Instant>>>,
}

impl Gate {
    /// Open until `until`.
    pub fn open_until(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// Shut.
    pub fn shut(&self) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether writes pass.
    pub fn is_open(&self) -> bool {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }
}

/// A write was refused, or not answered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// The lease is not, or no longer, ours.
    #[error("not the leader: nothing is written")]
    NotLeader,
    /// No answer in time; the write may have happened.
    #[error("no answer to a write within {} s", WRITE_TIMEOUT.as_secs())]
    Timeout,
}

/// Puts the gate around a client's service.
#[derive(Clone, Debug)]
pub struct GateLayer {
    /// Decides about writes; `None` lets them all through (the lease's own client).
    pub gate: Gate,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.gate.clone(), metrics: Arc::clone(&self.metrics) }
    }
}

/// A service behind the gate.
#[derive(Clone, Debug)]
pub struct Gated<S> {
    inner: S,
    gate: Gate,
    metrics: Arc<Metrics>,
}

impl<S, B, R> Service<Request<B>> for Gated<S>
where
    S: Service<Request<B>, Response = R>,
    S::Error: Into<BoxError> + Send + 'static,
    S::Future: Send + 'static,
    R: Send + 'static,
{
    type Response = R;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<R, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let write = !matches!(*request.method(), Method::GET | Method::HEAD);
        self.metrics.request(request.method());
        if !write {
            return self.inner.call(request).map(|result| result.map_err(Into::into)).boxed();
        }
        if !self.gate.is_open() {
            return futures::future::ready(Err(GateError::NotLeader.into())).boxed();
        }
        let answer = tokio::time::timeout(WRITE_TIMEOUT, self.inner.call(request));
        async move {
            match answer.await {
                Ok(result) => result.map_err(Into::into),
                Err(_) => Err(GateError::Timeout.into()),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn send(gate: &Gate, method: Method) -> Result<(), BoxError> {
        let inner = tower::service_fn(|_: Request<()>| async { Ok::<_, BoxError>(()) });
        let mut gated = GateLayer { gate: gate.clone(), metrics: Arc::default() }.layer(inner);
        gated.call(Request::builder().method(method).body(()).unwrap()).await
    }

    #[tokio::test]
    async fn no_write_without_the_lease() {
        let gate = Gate::default();
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let error = send(&gate, method.clone()).await.unwrap_err();
            assert_eq!(error.downcast_ref(), Some(&GateError::NotLeader), "{method}");
        }
        assert!(send(&gate, Method::GET).await.is_ok());
        gate.open_until(Instant::now() + Duration::from_secs(60));
        assert!(send(&gate, Method::PATCH).await.is_ok());
        gate.open_until(Instant::now());
        assert!(send(&gate, Method::PATCH).await.is_err(), "it closes by itself");
        gate.open_until(Instant::now() + Duration::from_secs(60));
        gate.shut();
        assert!(send(&gate, Method::PATCH).await.is_err());
    }
}
