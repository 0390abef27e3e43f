//! GET /healthz, /readyz and /metrics: for what watches processes.

use crate::{app::App, error::Answer, respond};
use axum::{extract::State, http::StatusCode, response::Response};
use domain::Error;
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct Probe {
    status: &'static str,
}

/// Tell that this process lives
#[utoipa::path(get, path = "/healthz", operation_id = "healthz", tag = "probes", responses((status = 200, body = Probe)))]
pub async fn healthz() -> Response {
    respond::ok(&Probe { status: "ok" })
}

/// Tell whether requests should come here
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "probes",
    responses((status = 200, body = Probe), (status = 503, description = "Starting or stopping (`UNAVAILABLE`, with `Retry-After`)")))]
pub async fn readyz(State(app): State<App>) -> Answer<Response> {
    if app.readiness.is_ready() {
        return Ok(respond::ok(&Probe { status: "ready" }));
    }
    let words = if app.closing.is_cancelled() {
        "the gateway is stopping"
    } else {
        "the gateway is starting"
    };
    Err(Error::unavailable(words).into())
}

/// Give this process's figures to Prometheus
#[utoipa::path(get, path = "/metrics", operation_id = "prometheus", tag = "probes",
    responses((status = 200, body = String, content_type = "text/plain", description = "Prometheus text format 0.0.4")))]
pub async fn metrics(State(app): State<App>) -> Response {
    let page = app
        .page
        .get()
        .map_or_else(|| app.meter.text(), |page| page());
    respond::with_type(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        page.into(),
    )
}
