//! The door of every endpoint: request id, key and permission before; counting, audit and headers after. A panic ends here.

use crate::{
    app::App,
    audit,
    error::{Answer, Refusal},
    router::{self, Access, ENDPOINTS, Endpoint},
    spans,
};
use axum::{
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use domain::{
    Error, Kind, Timestamp,
    id::AgentId,
    key::{Key, Permission},
    trace::Context,
};
use futures::FutureExt;
use std::{
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Instant,
};
use tracing::Instrument;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the guard of one endpoint knows.
#[derive(Clone)]
pub struct Gate {
    app: App,
    place: usize,
}

impl Gate {
    pub fn new(app: &App, place: usize) -> Self {
        Self {
            app: app.clone(),
            place,
        }
    }

    fn endpoint(&self) -> &'static Endpoint {
        &ENDPOINTS[self.place]
    }
}

/// Who calls, as the guard found out. A handler that takes it cannot be reached past the guard.
#[derive(Debug, Clone)]
pub struct Who(Arc<Caller>);

#[derive(Debug)]
pub struct Caller {
    pub key: Arc<Key>,
    pub request_id: String,
    /// What the spans of this request follow; `None`: its caller belongs to no trace, and none is exported here.
    pub trace: Option<Context>,
    pub remote: Option<IpAddr>,
}

impl Who {
    #[cfg(test)]
    pub fn new(caller: Caller) -> Self {
        Self(Arc::new(caller))
    }
}

impl std::ops::Deref for Who {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.0
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Answer<Self> {
        let who = parts.extensions.get::<Self>().cloned();
        who.ok_or_else(|| Error::internal("a handler was reached without a key").into())
    }
}

/// The path's agent, as far as the caller's key reaches. An id that no agent can have is one that does not exist.
pub fn reach(who: &Who, agent_id: &str) -> Answer<AgentId> {
    let agent: AgentId = agent_id
        .parse()
        .map_err(|_| Error::not_found(format!("agent {}", domain::text::quote(agent_id))))?;
    who.key.reaches(&agent)?;
    Ok(agent)
}

pub async fn guard(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let (app, place) = (gate.app.clone(), gate.place);
    let id = request_id(request.headers());
    let _flight = Flight::new(&app);
    let came = proto::trace::from_headers(request.headers());
    let span = spans::request(gate.endpoint(), &request, came.as_ref());
    let trace = proto::trace::context(&span).or(came);
    let passed = pass(gate, (id.clone(), trace), request, next).instrument(span.clone());
    let response = match AssertUnwindSafe(passed).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            Refusal::from(Error::internal("the request ran into a fault of ours")).into_response()
        }
    };
    spans::answered(&span, response.status());
    app.meter
        .count(place, response.status().as_u16(), begun.elapsed());
    dressed(response, &id)
}

async fn pass(
    gate: Gate,
    (id, trace): (String, Option<Context>),
    request: Request,
    next: Next,
) -> Response {
    let permissions = match gate.endpoint().access {
        Access::Open => return next.run(request).await,
        Access::KeyUnlessOpened(_) if gate.app.config.open_metrics => {
            return next.run(request).await;
        }
        Access::Key(permissions) | Access::KeyUnlessOpened(permissions) => permissions,
    };
    let key = match gate.app.keys.of(&gate.app.store, request.headers()).await {
        Ok(key) => key,
        Err(error) => return Refusal::from(error).into_response(),
    };
    let due = key
        .is_due_at(gate.app.store.now())
        .then(|| Arc::clone(&key));
    let mut response = keyed(gate, permissions, key, (id, trace), request, next).await;
    if let Some(key) = due {
        warn_of_rotation(&key, response.headers_mut());
    }
    response
}

/// Deprecation (RFC 9745) and Sunset (RFC 8594): the key should be rotated, and when it ends.
fn warn_of_rotation(key: &Key, headers: &mut HeaderMap) {
    let since = key.rotate_at.map(|at| format!("@{}", at.0 / 1000));
    let ends = key.expires_at.and_then(Timestamp::http_date);
    for (name, value) in [("deprecation", since), ("sunset", ends)] {
        if let Some(Ok(value)) = value.map(|value| HeaderValue::from_str(&value)) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// The guard past the key.
async fn keyed(
    gate: Gate,
    permissions: &[Permission],
    key: Arc<Key>,
    (id, trace): (String, Option<Context>),
    mut request: Request,
    next: Next,
) -> Response {
    let allowed = permissions.iter().any(|one| key.allows(*one).is_ok());
    let denied = permissions
        .first()
        .filter(|_| !allowed)
        .and_then(|one| key.allows(*one).err());
    let who = Who(Arc::new(Caller {
        key,
        request_id: id,
        trace,
        remote: request
            .extensions()
            .get::<ConnectInfo<SocketAddr>>()
            .map(|info| info.0.ip()),
    }));
    request.extensions_mut().insert(who.clone());
    let Some(action) = gate.endpoint().audited else {
        return match denied {
            Some(error) => Refusal::from(error).into_response(),
            None => next.run(request).await,
        };
    };
    // A change is made whole, and noted, even if its caller hangs up meanwhile.
    let app = gate.app.clone();
    let change = async move {
        let at = app.store.now();
        let subject = request
            .uri()
            .path()
            .trim_start_matches("/api/v1/")
            .to_owned();
        let response = match denied {
            Some(error) => Refusal::from(error).into_response(),
            None => next.run(request).await,
        };
        let record = audit::record(&who, action, subject, at, &response);
        audit::note(&app, record).await;
        response
    };
    match gate.app.changes.spawn(change.in_current_span()).await {
        Ok(response) => response,
        Err(error) => Refusal::from(Error::internal("the change was broken off").because(error))
            .into_response(),
    }
}

/// No endpoint has this path.
pub async fn unknown(State(app): State<App>, request: Request) -> Response {
    let id = request_id(request.headers());
    let message = format!(
        "{} is not a path of this API; see /openapi.json",
        domain::text::quote(request.uri().path())
    );
    let response = Refusal::from(Error::new(Kind::NotFound, message)).into_response();
    app.meter.count(
        ENDPOINTS.len(),
        response.status().as_u16(),
        std::time::Duration::ZERO,
    );
    dressed(response, &id)
}

/// The path is there, but not for this method.
pub async fn wrong_method(State(app): State<App>, request: Request) -> Response {
    let id = request_id(request.headers());
    let response =
        Refusal::method_not_allowed(&router::allowed(request.uri().path())).into_response();
    app.meter.count(
        ENDPOINTS.len(),
        response.status().as_u16(),
        std::time::Duration::ZERO,
    );
    dressed(response, &id)
}

/// What every response says.
pub fn dressed(mut response: Response, id: &str) -> Response {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    // Nothing of ours belongs into anybody's frame; `frame-ancestors` of a page's own policy says so too.
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(
            "default-src 'none'; frame-ancestors 'none'",
        ));
    response
}

/// The caller's, if it is one word of a decent length; else one of ours.
pub fn request_id(headers: &HeaderMap) -> String {
    let sent = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let good = |id: &&str| {
        (1..=128).contains(&id.len())
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
    };
    match sent.filter(good) {
        Some(id) => id.to_owned(),
        None => format!("req_{}", uuid::Uuid::now_v7().as_simple()),
    }
}

/// Counted as in flight until dropped.
struct Flight(App);

impl Flight {
    fn new(app: &App) -> Self {
        app.meter.in_flight.inc();
        Self(app.clone())
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.meter.in_flight.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(
            name,
            HeaderValue::from_bytes(value.as_bytes()).expect("a value"),
        );
        headers
    }

    #[test]
    fn request_ids() {
        assert_eq!(
            request_id(&headers("x-request-id", "abc-1.2:3")),
            "abc-1.2:3"
        );
        for bad in ["", "a b", "a\"b", "ü", &"x".repeat(129)] {
            assert!(
                request_id(&headers("x-request-id", bad)).starts_with("req_"),
                "{bad}"
            );
        }
    }
}
