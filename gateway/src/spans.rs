//! The span of a request, in OpenTelemetry's words for HTTP servers. None is made where nothing is exported.

use crate::router::Endpoint;
use axum::{
    extract::Request,
    http::{StatusCode, header},
};
use domain::trace::Context;
use proto::trace::{TARGET, follow};
use tracing::{Span, field::Empty};

/// Probes and pages are asked by machines, all the time, for nothing that a trace could tell.
const TRACED: &str = "/api/";

pub fn request(endpoint: &Endpoint, request: &Request, came: Option<&Context>) -> Span {
    if !endpoint.path.starts_with(TRACED) {
        return Span::none();
    }
    let span = tracing::info_span!(target: TARGET, parent: None, "http",
        otel.name = format!("{} {}", endpoint.method, endpoint.path), otel.kind = "server", otel.status_code = Empty,
        http.request.method = request.method().as_str(), http.route = endpoint.path, http.response.status_code = Empty,
        url.path = request.uri().path(), url.scheme = "http", error.type = Empty,
        user_agent.original = request.headers().get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()));
    follow(&span, came);
    span
}

/// A caller's fault is no error of the server's span.
pub fn answered(span: &Span, status: StatusCode) {
    if span.is_disabled() {
        return;
    }
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
        span.record("error.type", status.as_str());
    }
}
