//! To an OpenTelemetry collector, by OTLP over gRPC. Off unless a collector is named.

use super::{Figures, push::Push};
use anyhow::{Context, Result, bail};
use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracer, SdkTracerProvider},
};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// For what has not been sent yet, when Phalanx leaves.
const FLUSH: Duration = Duration::from_secs(3);
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
];

/// What is exported, if anything is.
#[derive(Debug)]
pub struct Exporter(Option<Collector>);

#[derive(Debug)]
struct Collector {
    spans: SdkTracerProvider,
    endpoint: String,
    about: Resource,
    pushes: JoinSet<()>,
    stop: CancellationToken,
}

impl Exporter {
    pub fn new(setting: &str, role: &str) -> Result<Self> {
        let Some(endpoint) = endpoint(setting, |name| std::env::var(name).ok()) else {
            return Ok(Self(None));
        };
        if !endpoint.starts_with("http://") {
            bail!(
                "telemetry.otlp_endpoint {endpoint:?} cannot be used; name a collector's gRPC port, as http://127.0.0.1:4317"
            );
        }
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&endpoint)
            .build()
            .with_context(|| format!("telemetry.otlp_endpoint {endpoint:?} cannot be used"))?;
        let about = resource(role);
        let spans = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(about.clone())
            .build();
        Ok(Self(Some(Collector {
            spans,
            endpoint,
            about,
            pushes: JoinSet::new(),
            stop: CancellationToken::new(),
        })))
    }

    /// Sends these figures as well, until [`Exporter::finish`].
    pub fn push(&mut self, figures: &Figures) -> Result<()> {
        let Some(collector) = &mut self.0 else {
            return Ok(());
        };
        let push = Push::new(&collector.endpoint, &collector.about)?;
        let pushing = push.run(figures.clone(), collector.stop.clone());
        collector.pushes.spawn(pushing);
        Ok(())
    }

    pub fn tracer(&self) -> Option<SdkTracer> {
        let collector = self.0.as_ref()?;
        Some(collector.spans.tracer("phalanx"))
    }

    /// Sends what has not been sent, within a bound: a collector that is away must not hold the exit up.
    pub async fn finish(self) {
        let Some(mut collector) = self.0 else { return };
        collector.stop.cancel();
        // Each ends within a bound of its own.
        while collector.pushes.join_next().await.is_some() {}
        // It waits on a thread of its own kind: the runtime's are needed for the sending.
        let flushed =
            tokio::task::spawn_blocking(move || collector.spans.shutdown_with_timeout(FLUSH));
        match tokio::time::timeout(FLUSH * 2, flushed).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => {
                tracing::warn!(%error, "the last spans did not reach the collector");
            }
            Ok(Err(_)) | Err(_) => tracing::warn!("the last spans did not reach the collector"),
        }
    }
}

/// The setting, else the environment's; nothing where OpenTelemetry is switched off.
fn endpoint(setting: &str, environment: impl Fn(&str) -> Option<String>) -> Option<String> {
    if environment("OTEL_SDK_DISABLED").is_some_and(|off| off.eq_ignore_ascii_case("true")) {
        return None;
    }
    let told = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    told(setting).or_else(|| ENDPOINTS.iter().find_map(|name| told(&environment(name)?)))
}

fn resource(role: &str) -> Resource {
    let mut resource = Resource::builder();
    if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(format!("phalanx-{role}"));
    }
    resource
        .with_attributes([
            KeyValue::new("service.namespace", "phalanx"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()),
        ])
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_the_collector() {
        let nothing = |_: &str| None;
        assert_eq!(endpoint("", nothing), None);
        assert_eq!(endpoint(" http://a ", nothing).as_deref(), Some("http://a"));
        let standard =
            |name: &str| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| "http://b".to_owned());
        assert_eq!(endpoint("", standard).as_deref(), Some("http://b"));
        assert_eq!(endpoint("http://a", standard).as_deref(), Some("http://a"));
        let off = |name: &str| (name == "OTEL_SDK_DISABLED").then(|| "true".to_owned());
        assert_eq!(endpoint("http://a", off), None);
    }

    #[test]
    fn what_is_no_collector_is_said() {
        let error = Exporter::new("127.0.0.1:4317", "up").expect_err("no URL");
        assert!(
            error.to_string().contains("http://127.0.0.1:4317"),
            "{error}"
        );
    }
}
