//! The door of every endpoint: request id, key and permission before; counting, audit and headers after. A panic ends here.

use crate::{
    app::App,
    audit,
    error::{Answer, Refusal},
    limits::{Subject, Taken},
    router::{self, Access, ENDPOINTS, Endpoint},
    spans, sse,
};
use axum::{
    body::Body,
    extract::{ConnectInfo, FromRequestParts, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use domain::{
    Error, Kind, Timestamp,
    id::AgentId,
    key::{Key, Permission},
    limit::Cost,
    trace::Context,
};
use futures::{FutureExt, StreamExt};
use std::{
    net::{IpAddr, SocketAddr},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};
use store::Hash;
use tracing::Instrument;

/// What a body must come at, to be waited for longer than other requests.
const BYTES_PER_S: u64 = 64 * 1024;

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
pub async fn reach(app: &App, who: &Who, agent_id: &str) -> Answer<AgentId> {
    let agent: AgentId = agent_id
        .parse()
        .map_err(|_| Error::not_found(format!("agent {}", domain::text::quote(agent_id))))?;
    reaches(app, who, &agent).await?;
    Ok(agent)
}

/// Whether the caller's key reaches this agent.
pub async fn reaches(app: &App, who: &Who, agent: &AgentId) -> domain::Result<()> {
    let key = &who.key;
    if key.environments.is_none() {
        return key.reaches(agent);
    }
    let lived_in = app
        .agents
        .environments(&app.store, &key.account, agent)
        .await?;
    key.reaches_in(agent, &lived_in)
}

pub async fn guard(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let (app, place) = (gate.app.clone(), gate.place);
    let id = request_id(request.headers());
    let _flight = Flight::new(&app);
    let came = proto::trace::from_headers(request.headers());
    let span = spans::request(gate.endpoint(), &request, came.as_ref());
    let trace = proto::trace::context(&span).or(came);
    // On the heap from its first moment: wrapped three times, it would be copied whole as often.
    let passed = Box::pin(pass(gate, (id.clone(), trace), request, next)).instrument(span.clone());
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
        Access::Open => return bounded(&gate, request, next).await,
        Access::KeyUnlessOpened(_) if gate.app.config.open_metrics => {
            return bounded(&gate, request, next).await;
        }
        Access::Key(permissions)
        | Access::KeyItself(permissions)
        | Access::KeyUnlessOpened(permissions) => permissions,
    };
    let (key, hash) = match gate.app.keys.of(&gate.app.store, request.headers()).await {
        Ok(held) => held,
        Err(error) => return Refusal::from(error).into_response(),
    };
    let mut response = keyed(gate.clone(), permissions, &key, (id, trace), request, next).await;
    warn_of_rotation(&gate.app, &key, response.headers_mut());
    if sse::is(&response) {
        ends_with_its_key(&gate.app, hash, response)
    } else {
        response
    }
}

/// Who follows something for hours does so no longer than its key opens it.
fn ends_with_its_key(app: &App, hash: Hash, response: Response) -> Response {
    let app = app.clone();
    response.map(|body| {
        let over = async move { app.keys.until_over(&app.store, &hash).await };
        Body::from_stream(body.into_data_stream().take_until(Box::pin(over)))
    })
}

/// Everything that a request takes until its answer begins. Executions have times of their own; a body gets time for what it declares.
async fn bounded(gate: &Gate, request: Request, next: Next) -> Response {
    let Some(limit) = limit(gate, request.headers()) else {
        return next.run(request).await;
    };
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => late(limit, "it was given up"),
    }
}

fn limit(gate: &Gate, headers: &HeaderMap) -> Option<Duration> {
    if gate.endpoint().path.ends_with("/execute") {
        return None;
    }
    let declared = headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let most = gate.app.config.max_deploy_body_bytes as u64;
    let body = Duration::from_secs(declared.unwrap_or(0).min(most) / BYTES_PER_S);
    Some(gate.app.config.request + body)
}

fn late(limit: Duration, what: &str) -> Response {
    let message = format!("the request took longer than {} s: {what}", limit.as_secs());
    Refusal::from(Error::new(Kind::Timeout, message)).into_response()
}

/// Deprecation (RFC 9745) and Sunset (RFC 8594): the key should be rotated, and when it ends. Where it may replace itself, the link
/// (RFC 5829) says how.
fn warn_of_rotation(app: &App, key: &Key, headers: &mut HeaderMap) {
    let now = app.store.now();
    let Some(since) = key.deprecated_since(now) else {
        return;
    };
    let link = (!key.replaced && key.may_replace_itself(now).is_ok()).then(|| {
        format!(
            "<{}/keys/{}/rotate>; rel=\"successor-version\"",
            app.base_url, key.id
        )
    });
    let said = [
        (
            "deprecation",
            Some(format!("@{}", since.0.div_euclid(1000))),
        ),
        ("sunset", key.expires_at.and_then(Timestamp::http_date)),
        ("link", link),
    ];
    for (name, value) in said {
        if let Some(Ok(value)) = value.map(|value| HeaderValue::from_str(&value)) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
}

/// The guard past the key.
async fn keyed(
    gate: Gate,
    permissions: &[Permission],
    key: &Arc<Key>,
    (id, trace): (String, Option<Context>),
    mut request: Request,
    next: Next,
) -> Response {
    let admitted = admit(&gate, permissions, key, request.uri().path()).await;
    let (taken, denied) = match admitted {
        Ok(taken) => (taken, None),
        Err(refusal) => (None, Some(refusal)),
    };
    let who = Who(Arc::new(Caller {
        key: Arc::clone(key),
        request_id: id,
        trace,
        remote: request
            .extensions()
            .get::<ConnectInfo<SocketAddr>>()
            .map(|info| info.0.ip()),
    }));
    request.extensions_mut().insert(who.clone());
    let mut response = match (gate.endpoint().audited, denied) {
        // Most requests are none; these need not carry the room for one.
        (Some(action), denied) => {
            Box::pin(changed(&gate, who, action, denied, request, next)).await
        }
        (None, Some(refusal)) => return refusal.into_response(),
        (None, None) => bounded(&gate, request, next).await,
    };
    if let Some(taken) = &taken {
        gate.app.limits.tell(taken, response.headers_mut());
    }
    response
}

/// A change is made whole, and noted, even if its caller hangs up meanwhile, or has waited for too long.
async fn changed(
    gate: &Gate,
    who: Who,
    action: &'static str,
    denied: Option<Refusal>,
    request: Request,
    next: Next,
) -> Response {
    let (app, limit) = (gate.app.clone(), limit(gate, request.headers()));
    let change = async move {
        let at = app.store.now();
        let subject = request
            .uri()
            .path()
            .trim_start_matches("/api/v1/")
            .to_owned();
        let response = match denied {
            Some(refusal) => refusal.into_response(),
            None => next.run(request).await,
        };
        let record = audit::record(&who, action, subject, at, &response);
        audit::note(&app, record).await;
        response
    };
    let changing = gate.app.changes.spawn(change.in_current_span());
    let limit = limit.unwrap_or(Duration::MAX);
    match tokio::time::timeout(limit, changing).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            Refusal::from(Error::internal("the change was broken off").because(error))
                .into_response()
        }
        Err(_) => late(
            limit,
            "it goes on; look what came of it before you ask again",
        ),
    }
}

/// By its limits, and by what it may do.
async fn admit(
    gate: &Gate,
    permissions: &[Permission],
    key: &Key,
    path: &str,
) -> Answer<Option<Taken>> {
    let taken = if key.limits.rate.is_some() {
        let subject = Subject::of_key(key);
        gate.app
            .limits
            .take(&gate.app.store, subject, Cost::REQUEST)
            .await?
    } else {
        None
    };
    let allowed = permissions.iter().any(|one| key.allows(*one).is_ok());
    let itself = matches!(gate.endpoint().access, Access::KeyItself(_))
        && path.split('/').any(|part| part == key.id.as_str());
    match permissions.first().filter(|_| !allowed && !itself) {
        Some(one) => {
            let denied = key.allows(*one).map_err(Refusal::from);
            denied.map(|()| taken)
        }
        None => Ok(taken),
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

/// Before any endpoint was found.
pub fn refused(refusal: Refusal, headers: &HeaderMap) -> Response {
    dressed(refusal.into_response(), &request_id(headers))
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
