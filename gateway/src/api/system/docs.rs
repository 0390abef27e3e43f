//! GET /openapi.json and /docs, without a key and without the internet.

use crate::{
    app::App,
    door,
    error::{Answer, Refusal},
    openapi,
    params::Path,
    respond,
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use domain::Error;
use std::sync::{Arc, LazyLock};
use utoipa_swagger_ui::Config;

static JSON: LazyLock<Vec<u8>> =
    LazyLock::new(|| serde_json::to_vec(openapi::document()).unwrap_or_default());
static PAGE: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::from("/openapi.json")));

/// The page loads its own files only; it writes styles into its elements.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
);

/// Give this document
#[utoipa::path(get, path = "/openapi.json", operation_id = "openapi", tag = "documents",
    responses((status = 200, content_type = "application/json", description = "OpenAPI 3.1")))]
pub async fn openapi_json() -> Response {
    respond::with_type(
        StatusCode::OK,
        "application/json",
        Body::from(JSON.as_slice()),
    )
}

/// Show this document
#[utoipa::path(get, path = "/docs", operation_id = "docs", tag = "documents",
    responses((status = 307, description = "To the rendered page, /docs/"), (status = 404, description = "This installation shows no page (`NOT_FOUND`)")))]
pub async fn docs(State(app): State<App>) -> Answer<Response> {
    if !app.config.docs {
        return Err(Error::not_found("/docs").into());
    }
    Ok((
        StatusCode::TEMPORARY_REDIRECT,
        [(header::LOCATION, "/docs/")],
    )
        .into_response())
}

pub async fn page(headers: HeaderMap) -> Response {
    part("", &headers)
}

pub async fn file(headers: HeaderMap, Path(file): Path<String>) -> Response {
    part(&file, &headers)
}

fn part(file: &str, headers: &HeaderMap) -> Response {
    let response = match utoipa_swagger_ui::serve(file, PAGE.clone()) {
        Ok(Some(found)) => {
            let mut response = Response::new(Body::from(found.bytes.into_owned()));
            if let Ok(kind) = HeaderValue::from_str(&found.content_type) {
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
            }
            if found.gzpipped {
                response
                    .headers_mut()
                    .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            response
                .headers_mut()
                .insert(header::CONTENT_SECURITY_POLICY, POLICY);
            response
        }
        Ok(None) => Refusal::from(Error::not_found("this file of the page")).into_response(),
        Err(error) => {
            Refusal::from(Error::internal("the page cannot be given").because(error.to_string()))
                .into_response()
        }
    };
    door::dressed(response, &door::request_id(headers))
}
