//! Trace context between `tracing` and the wire, and the spans of gRPC on both sides.
//!
//! Spans of the platform have the target [`TARGET`]. Where nothing is exported it is switched off: then no span is made, and
//! what came in as context goes on as it came.

use domain::trace::{Context, Traceparent};
use futures::future::{BoxFuture, Either, FutureExt};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use std::task::Poll;
use tonic::{
    Code,
    codegen::http::{HeaderMap, HeaderName, HeaderValue, Request, Response},
};
use tower::Service;
use tracing::{Instrument, Span, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt;

pub const TARGET: &str = "phalanx::span";
pub const PARENT: HeaderName = HeaderName::from_static("traceparent");
pub const STATE: HeaderName = HeaderName::from_static("tracestate");

/// Asked many times a second while a deployment waits: its spans would hide all others.
const POLLED: &str = "/phalanx.v1.Executor/Inspect";
const HEALTH: &str = "/grpc.health.";

/// Makes `span`, which nobody has entered yet, follow what came from elsewhere.
pub fn follow(span: &Span, context: Option<&Context>) {
    let Some(context) = context.filter(|_| !span.is_disabled()) else {
        return;
    };
    let parent = context.parent;
    let flags = if parent.sampled {
        TraceFlags::SAMPLED
    } else {
        TraceFlags::default()
    };
    let state: Option<TraceState> = context.state.as_deref().and_then(|text| text.parse().ok());
    let remote = SpanContext::new(
        TraceId::from(parent.trace),
        SpanId::from(parent.span),
        flags,
        true,
        state.unwrap_or_default(),
    );
    let parent = opentelemetry::Context::new().with_remote_span_context(remote);
    // The only other reason for an error is a span that was entered: then it keeps the parent that it has.
    if let Err(error) = span.set_parent(parent) {
        tracing::debug!(%error, "a span does not follow its caller's");
    }
}

/// What follows `span`; nothing where no span is made.
pub fn context(span: &Span) -> Option<Context> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let own = span.span_context();
    let state = own.trace_state().header();
    own.is_valid().then(|| Context {
        parent: Traceparent {
            trace: u128::from_be_bytes(own.trace_id().to_bytes()),
            span: u64::from_be_bytes(own.span_id().to_bytes()),
            sampled: own.is_sampled(),
        },
        state: (!state.is_empty()).then_some(state),
    })
}

/// What the headers of a request say. Several states are one list (RFC 9110, 5.3); several parents are none.
pub fn from_headers(headers: &HeaderMap) -> Option<Context> {
    let mut parents = headers.get_all(PARENT).iter();
    let parent = parents.next()?.to_str().ok()?;
    if parents.next().is_some() {
        return None;
    }
    let states: Vec<&str> = headers
        .get_all(STATE)
        .iter()
        .filter_map(|state| state.to_str().ok())
        .collect();
    Context::read(Some(parent), Some(&states.join(",")))
}

fn into_headers(context: &Context, headers: &mut HeaderMap) {
    if let Ok(parent) = HeaderValue::from_str(&context.parent.to_string()) {
        headers.insert(PARENT, parent);
    }
    if let Some(Ok(state)) = context.state.as_deref().map(HeaderValue::from_str) {
        headers.insert(STATE, state);
    }
}

/// A gRPC client whose calls are spans, and told to the other side.
#[derive(Debug, Clone)]
pub struct Calls<S>(pub S);

impl<S, B, R> Service<Request<B>> for Calls<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    R: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let span = if path == POLLED {
            Span::none()
        } else {
            tracing::info_span!(target: TARGET, "rpc", otel.name = &path[1..], otel.kind = "client", otel.status_code = Empty,
                rpc.system.name = "grpc", rpc.method = &path[1..], rpc.response.status_code = Empty, error.type = Empty)
        };
        if let Some(context) = context(&span) {
            into_headers(&context, request.headers_mut());
        }
        watched(span, self.0.call(request))
    }
}

/// Makes every call that a gRPC server takes a span that follows its caller's: `Server::builder().layer(trace::Taken)`.
#[derive(Debug, Clone, Copy)]
pub struct Taken;

impl<S> tower::Layer<S> for Taken {
    type Service = Takes<S>;

    fn layer(&self, inner: S) -> Takes<S> {
        Takes(inner)
    }
}

#[derive(Debug, Clone)]
pub struct Takes<S>(S);

impl<S, B, R> Service<Request<B>> for Takes<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    R: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<S::Future, BoxFuture<'static, Result<S::Response, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path();
        let span = if path == POLLED || path.starts_with(HEALTH) {
            Span::none()
        } else {
            tracing::info_span!(target: TARGET, parent: None, "rpc", otel.name = &path[1..], otel.kind = "server", otel.status_code = Empty,
                rpc.system.name = "grpc", rpc.method = &path[1..], rpc.response.status_code = Empty, error.type = Empty)
        };
        if !span.is_disabled() {
            follow(&span, from_headers(request.headers()).as_ref());
        }
        watched(span, self.0.call(request))
    }
}

fn watched<F, R, E>(span: Span, call: F) -> Either<F, BoxFuture<'static, Result<Response<R>, E>>>
where
    F: Future<Output = Result<Response<R>, E>> + Send + 'static,
    R: 'static,
    E: 'static,
{
    if span.is_disabled() {
        return Either::Left(call);
    }
    let watched = async move {
        let ended = call.instrument(span.clone()).await;
        // A status that comes after a body has begun is not seen: a stream's span ends where the stream begins.
        let code = match &ended {
            Ok(response) => response
                .headers()
                .get("grpc-status")
                .map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes())),
            Err(_) => Code::Unavailable,
        };
        let word = word(code);
        span.record("rpc.response.status_code", word);
        if code != Code::Ok {
            span.record("otel.status_code", "ERROR");
            span.record("error.type", word);
        }
        ended
    };
    Either::Right(watched.boxed())
}

fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
