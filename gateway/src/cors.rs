//! Answers for the pages of other origins (CORS), where the settings name some: nothing is said otherwise, so browsers refuse.
//!
//! A key is a header that a page must know and send itself, never a cookie: credentials are not allowed, and `*` gives nothing away.

use crate::{app::App, router};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::Response,
};

const REQUEST_HEADERS: &str =
    "authorization, content-type, last-event-id, traceparent, tracestate, x-request-id";
const RESPONSE_HEADERS: &str = "x-request-id, retry-after, deprecation, sunset";
/// How long a browser may keep what a preflight was answered.
const KEPT_S: &str = "600";

pub async fn answer(State(app): State<App>, request: Request, next: Next) -> Response {
    let origin = allowed(&app.config.edge.origins, request.headers());
    let asks = request
        .headers()
        .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let methods = router::allowed(request.uri().path());
    let preflight = request.method() == Method::OPTIONS && asks && !methods.is_empty();
    let mut response = match &origin {
        Some(_) if preflight => permitted(&methods),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.append(header::VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static(RESPONSE_HEADERS),
        );
    }
    response
}

/// The origin that asks, if it is one of those that may.
fn allowed(origins: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    if origins.iter().any(|one| one == "*") {
        return Some(HeaderValue::from_static("*"));
    }
    let named = origins
        .iter()
        .any(|one| one.as_bytes() == origin.as_bytes());
    named.then(|| origin.clone())
}

fn permitted(methods: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    if let Ok(methods) = HeaderValue::from_str(methods) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, KEPT_S),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
