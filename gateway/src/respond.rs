//! Answers as bytes.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use serde::Serialize;

/// One serialisation, one buffer.
pub fn json<T: Serialize>(status: StatusCode, body: &T) -> Response<Body> {
    let mut bytes = Vec::with_capacity(1024);
    if let Err(error) = serde_json::to_writer(&mut bytes, body) {
        tracing::error!(error = %error, "an answer cannot be written as JSON");
        let words = r#"{"error":{"code":"INTERNAL","message":"the answer cannot be written","details":{"validation_errors":[],"deployment_logs":[]}}}"#;
        return with_type(
            StatusCode::INTERNAL_SERVER_ERROR,
            "application/json",
            words.into(),
        );
    }
    with_type(status, "application/json", bytes.into())
}

pub fn ok<T: Serialize>(body: &T) -> Response<Body> {
    json(StatusCode::OK, body)
}

pub fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
