//! What a caller is told when something is refused: one envelope, one exhaustive table of kinds.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use domain::{Error, Kind};
use serde::Serialize;
use utoipa::ToSchema;

pub type Answer<T> = Result<T, Refusal>;

/// An error on its way out.
#[derive(Debug)]
pub struct Refusal(Box<Refused>);

#[derive(Debug)]
struct Refused {
    status: StatusCode,
    code: &'static str,
    error: Error,
    /// Phase logs of a deployment that failed.
    logs: Vec<String>,
    retry_after_s: Option<u32>,
    headers: HeaderMap,
}

/// The code of a refused request, for the audit; rides in the response's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(pub &'static str);

/// Status and stable code of every kind.
pub fn table(kind: Kind) -> (StatusCode, &'static str) {
    match kind {
        Kind::Invalid => (StatusCode::BAD_REQUEST, "VALIDATION_FAILED"),
        Kind::Unauthenticated => (StatusCode::UNAUTHORIZED, "UNAUTHENTICATED"),
        Kind::Forbidden => (StatusCode::FORBIDDEN, "FORBIDDEN"),
        Kind::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
        Kind::Conflict => (StatusCode::CONFLICT, "CONFLICT"),
        Kind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE"),
        Kind::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"),
        Kind::Exhausted => (StatusCode::TOO_MANY_REQUESTS, "CAPACITY_EXHAUSTED"),
        Kind::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        Kind::Timeout => (StatusCode::GATEWAY_TIMEOUT, "TIMEOUT"),
        Kind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL"),
    }
}

impl Refusal {
    fn outside_the_table(status: StatusCode, code: &'static str, message: String) -> Self {
        Self(Box::new(Refused {
            status,
            code,
            error: Error::new(Kind::Invalid, message),
            logs: Vec::new(),
            retry_after_s: None,
            headers: HeaderMap::new(),
        }))
    }

    pub fn method_not_allowed(allow: &str) -> Self {
        let message = format!("this path does not take this method; allowed are {allow}");
        let mut refusal = Self::outside_the_table(
            StatusCode::METHOD_NOT_ALLOWED,
            "METHOD_NOT_ALLOWED",
            message,
        );
        if let Ok(allow) = HeaderValue::from_str(allow) {
            refusal.0.headers.insert(header::ALLOW, allow);
        }
        refusal
    }

    pub fn uri_too_long(most: usize) -> Self {
        let message = format!("the URL is too long; allowed are at most {most} bytes");
        Self::outside_the_table(StatusCode::URI_TOO_LONG, "URI_TOO_LONG", message)
    }

    pub fn headers_too_large(most: usize, bytes: usize) -> Self {
        let message = format!(
            "the header fields are too many or too large; allowed are at most {most} of together {bytes} bytes"
        );
        Self::outside_the_table(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "HEADERS_TOO_LARGE",
            message,
        )
    }

    pub fn encoded() -> Self {
        Self::outside_the_table(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            "the body has a content-encoding; send it as it is, without one".to_owned(),
        )
    }

    pub fn unsupported_media_type() -> Self {
        Self::outside_the_table(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            "the body is not declared as JSON; send content-type: application/json".to_owned(),
        )
    }

    pub fn with_logs(mut self, logs: Vec<String>) -> Self {
        self.0.logs = logs;
        self
    }

    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.0.retry_after_s = Some(seconds);
        self
    }

    pub fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.0.headers.extend(headers);
        self
    }

    pub fn kind(&self) -> Kind {
        self.0.error.kind
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let (status, code) = table(error.kind);
        let retry_after_s = match error.kind {
            Kind::RateLimited | Kind::Exhausted | Kind::Unavailable => Some(1),
            _ => None,
        };
        let mut headers = HeaderMap::new();
        if error.kind == Kind::Unauthenticated {
            let challenge = HeaderValue::from_static("Bearer realm=\"phalanx\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        Self(Box::new(Refused {
            status,
            code,
            error,
            logs: Vec::new(),
            retry_after_s,
            headers,
        }))
    }
}

/// Every refusal.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorEnvelope {
    pub error: ErrorBody,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// A stable word to branch on.
    pub code: &'static str,
    /// What happened and what to do, for a person.
    pub message: String,
    pub details: ErrorDetails,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetails {
    /// Each `path: what is wrong and what is allowed`; empty unless the request has faults.
    pub validation_errors: Vec<String>,
    /// What the phases of a failed deployment wrote, where the refusal is about one.
    pub deployment_logs: Vec<String>,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let refused = *self.0;
        match refused.error.kind {
            Kind::Internal => tracing::error!(error = ?refused.error, "a request failed"),
            Kind::Unavailable => {
                tracing::debug!(error = ?refused.error, "a request could not be served now");
            }
            _ => {}
        }
        let envelope = ErrorEnvelope {
            error: ErrorBody {
                code: refused.code,
                message: refused.error.message,
                details: ErrorDetails {
                    validation_errors: refused.error.faults,
                    deployment_logs: refused.logs,
                },
            },
        };
        let mut response = crate::respond::json(refused.status, &envelope);
        if let Some(seconds) = refused.retry_after_s {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.headers_mut().extend(refused.headers);
        response.extensions_mut().insert(Code(refused.code));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_line() {
        let lines: Vec<String> = Kind::ALL
            .into_iter()
            .map(|kind| {
                let response = Refusal::from(Error::new(kind, "words")).into_response();
                let retry = response.headers().contains_key(header::RETRY_AFTER);
                let challenge = response.headers().contains_key(header::WWW_AUTHENTICATE);
                format!(
                    "{} {}{}{}",
                    response.status().as_u16(),
                    table(kind).1,
                    if retry { " retry-after" } else { "" },
                    if challenge { " www-authenticate" } else { "" }
                )
            })
            .collect();
        assert_eq!(
            lines,
            [
                "400 VALIDATION_FAILED",
                "401 UNAUTHENTICATED www-authenticate",
                "403 FORBIDDEN",
                "404 NOT_FOUND",
                "409 CONFLICT",
                "413 PAYLOAD_TOO_LARGE",
                "429 RATE_LIMITED retry-after",
                "429 CAPACITY_EXHAUSTED retry-after",
                "503 UNAVAILABLE retry-after",
                "504 TIMEOUT",
                "500 INTERNAL",
            ]
        );
    }
}
