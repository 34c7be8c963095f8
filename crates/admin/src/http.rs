//! HTTP for machines: metrics and health.
//!
//! Owns: `/metrics` (Prometheus' text format), `/healthz` (200 while the process runs), `/readyz` (200 when every shard of every
//! database has a primary and the catalogs are read; else 503 and what is missing, a line each). Never does: anything that changes
//! something. Main function: [`serve_http`].

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use pgherd_session::Herd;
use tokio::net::TcpListener;

use crate::gauges::measure;
use crate::readiness::troubles;

/// Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until `ended`. Not cancel-safe: dropped, requests under way are cut off.
///
/// # Errors
/// What the listener reports.
pub async fn serve_http(
    listener: TcpListener,
    herd: Arc<Herd>,
    ended: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(herd);
    axum::serve(listener, routes)
        .with_graceful_shutdown(ended)
        .await
}

async fn metrics(State(herd): State<Arc<Herd>>) -> impl IntoResponse {
    measure(&herd);
    (
        [(header::CONTENT_TYPE, METRICS_TYPE)],
        herd.metrics().render(),
    )
}

async fn readyz(State(herd): State<Arc<Herd>>) -> impl IntoResponse {
    let troubles = troubles(&herd);
    if troubles.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, troubles.join("\n") + "\n")
    }
}
