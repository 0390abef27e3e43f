//! An OpenTelemetry collector that keeps what it is sent: the receiver at the other end of OTLP.

use crate::wait;
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::Metric,
    trace::v1,
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// Spans leave a process in batches, every five seconds.
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);

/// Ends with its last clone. A test that waits for the program to leave needs a runtime of several threads: what is sent last is
/// taken meanwhile.
#[derive(Debug, Clone)]
pub struct Collector {
    address: SocketAddr,
    kept: Kept,
    _task: Arc<JoinSet<()>>,
}

#[derive(Debug, Clone, Default)]
struct Kept {
    spans: Arc<Mutex<Vec<Span>>>,
    metrics: Arc<Mutex<BTreeMap<String, Metric>>>,
    /// All that came, as Rust prints it.
    words: Arc<Mutex<String>>,
}

impl Kept {
    fn note(&self, request: &impl std::fmt::Debug) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        words.push_str(&format!("{request:?}\n"));
    }
}

/// One span, its ids in hex, its attributes as words.
#[derive(Debug, Clone)]
pub struct Span {
    pub service: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    pub kind: v1::span::SpanKind,
    pub failed: bool,
    pub attributes: BTreeMap<String, String>,
}

impl Span {
    #[track_caller]
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }
}

impl Collector {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let kept = Kept::default();
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(kept.clone()))
            .add_service(MetricsServiceServer::new(kept.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        let mut task = JoinSet::new();
        task.spawn(async move { server.await.expect("the collector serves") });
        Self {
            address,
            kept,
            _task: Arc::new(task),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn spans(&self) -> Vec<Span> {
        self.kept
            .spans
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Everything that was ever sent: names, attributes, events.
    pub fn words(&self) -> String {
        let words = self.kept.words.lock();
        words.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest of every figure, by its service and name.
    pub fn metrics(&self) -> BTreeMap<String, Metric> {
        let kept = self.kept.metrics.lock();
        kept.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spans of one trace, once one of each of these names has come.
    pub async fn trace(&self, trace: &str, names: &[&str]) -> Vec<Span> {
        let what = format!("spans {names:?} of {trace}");
        wait::until(&what, ARRIVES_WITHIN, || async {
            let mut spans = self.spans();
            spans.retain(|span| span.trace == trace);
            let complete = names
                .iter()
                .all(|name| spans.iter().any(|span| span.name == *name));
            if complete {
                Ok(spans)
            } else {
                Err(format!("{:#?}", self.spans()))
            }
        })
        .await
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.note(request.get_ref());
        let mut kept = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in request.into_inner().resource_spans {
            let about = resource.resource.map(|resource| resource.attributes);
            let service = words(about.unwrap_or_default())
                .remove("service.name")
                .unwrap_or_default();
            let spans = resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans);
            kept.extend(spans.map(|span| read(span, &service)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Kept {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.note(request.get_ref());
        let mut kept = self.metrics.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in request.into_inner().resource_metrics {
            let about = resource.resource.map(|resource| resource.attributes);
            let service = words(about.unwrap_or_default())
                .remove("service.name")
                .unwrap_or_default();
            let metrics = resource.scope_metrics.into_iter();
            for metric in metrics.flat_map(|scope| scope.metrics) {
                kept.insert(format!("{service} {}", metric.name), metric);
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

fn read(span: v1::Span, service: &str) -> Span {
    let kind = span.kind();
    let failed = span
        .status
        .is_some_and(|status| status.code() == v1::status::StatusCode::Error);
    Span {
        service: service.to_owned(),
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        name: span.name,
        kind,
        failed,
        attributes: words(span.attributes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn words(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let word = |value: Option<Value>| match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(yes)) => yes.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .into_iter()
        .map(|one| (one.key, word(one.value.and_then(|value| value.value))))
        .collect()
}
