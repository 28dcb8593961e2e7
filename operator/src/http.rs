//! The operator's own HTTP interface: `/metrics`, `/healthz`, `/readyz`.

use std::{net::SocketAddr, sync::Arc, sync::atomic::Ordering};

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until `stop`.
///
/// # Errors
/// The address can't be listened on, or the listener fails.
pub async fn serve(address: SocketAddr, metrics: Arc<Metrics>, stop: CancellationToken) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, router(metrics)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn router(metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/metrics", get(render))
        // The process alone: whether it can do its work is readiness.
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .with_state(metrics)
}

async fn render(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    match metrics.encode() {
        Ok(text) => ([("content-type", OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Ready: it has reached the API server, and leads or stands by.
async fn ready(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    if metrics.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the API server has not been reached yet")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    async fn get_status(metrics: &Arc<Metrics>, path: &str) -> StatusCode {
        let request = Request::get(path).body(Body::empty()).unwrap();
        router(Arc::clone(metrics)).oneshot(request).await.unwrap().status()
    }

    #[tokio::test]
    async fn alive_from_the_start_and_ready_later() {
        let metrics = Arc::new(Metrics::default());
        assert_eq!(get_status(&metrics, "/healthz").await, StatusCode::OK);
        assert_eq!(get_status(&metrics, "/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
        metrics.ready.store(true, Ordering::Relaxed);
        assert_eq!(get_status(&metrics, "/readyz").await, StatusCode::OK);
        assert_eq!(get_status(&metrics, "/metrics").await, StatusCode::OK);
    }

    #[test]
    fn metrics_have_their_names() {
        let metrics = Metrics::default();
        metrics.reconciled("ok", 0.01);
        metrics.request(&axum::http::Method::PATCH);
        metrics.resource("shop", "orders", true, false, 3);
        let text = metrics.encode().unwrap();
        for line in [
            "replicateddb_operator_reconciles_total{outcome=\"ok\"} 1",
            "replicateddb_operator_api_requests_total{verb=\"patch\"} 1",
            "replicateddb_operator_resource_ready_replicas{namespace=\"shop\",name=\"orders\"} 3",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        metrics.forget("shop", "orders");
        assert!(!metrics.encode().unwrap().contains("orders"));
    }
}
