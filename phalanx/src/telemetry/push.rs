//! Sends the page of figures to the collector, again and again, and a last time at the end.

use super::{
    Figures,
    otlp::{self, Span},
};
use anyhow::{Context, Result};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient,
    },
    common::v1::InstrumentationScope,
    metrics::v1::{ResourceMetrics, ScopeMetrics},
    resource::v1::Resource,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request,
    metadata::{AsciiMetadataKey, AsciiMetadataValue},
    transport::{Channel, Endpoint},
};

/// One push; a collector that is slower gets the next one.
const WITHIN: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_secs(60);
const SHORTEST: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Push {
    client: MetricsServiceClient<Channel>,
    headers: Vec<(AsciiMetadataKey, AsciiMetadataValue)>,
    resource: Resource,
    every: Duration,
    begun_at: u64,
}

impl Push {
    pub fn new(endpoint: &str, about: &opentelemetry_sdk::Resource) -> Result<Self> {
        let channel = Endpoint::from_shared(endpoint.to_owned())
            .with_context(|| format!("telemetry.otlp_endpoint {endpoint:?} cannot be used"))?
            .connect_timeout(WITHIN)
            .timeout(WITHIN)
            .connect_lazy();
        let told = |name: &str| std::env::var(name).ok();
        let every = told("OTEL_METRIC_EXPORT_INTERVAL").and_then(|every| every.parse().ok());
        let attributes = about
            .iter()
            .map(|(key, value)| (key.to_string(), value.to_string()));
        Ok(Self {
            client: MetricsServiceClient::new(channel),
            headers: headers(&told("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default()),
            resource: Resource {
                attributes: otlp::attributes(attributes),
                ..Resource::default()
            },
            every: every.map_or(EVERY, Duration::from_millis).max(SHORTEST),
            begun_at: now(),
        })
    }

    pub async fn run(self, figures: Figures, stop: CancellationToken) {
        let mut away = false;
        loop {
            let last = tokio::select! {
                () = stop.cancelled() => true,
                () = tokio::time::sleep(self.every) => false,
            };
            let sent = tokio::time::timeout(WITHIN, self.push(&figures)).await;
            let failed = match sent {
                Ok(Ok(())) => None,
                Ok(Err(status)) => Some(status.message().to_owned()),
                Err(_) => Some("no answer in time".to_owned()),
            };
            match &failed {
                Some(reason) if !away => {
                    tracing::warn!(reason, "figures do not reach the collector");
                }
                None if away => tracing::info!("figures reach the collector again"),
                _ => {}
            }
            away = failed.is_some();
            if last {
                return;
            }
        }
    }

    async fn push(&self, figures: &Figures) -> Result<(), tonic::Status> {
        let over = Span {
            from: self.begun_at,
            to: now(),
        };
        let scope = ScopeMetrics {
            scope: Some(InstrumentationScope {
                name: "phalanx".to_owned(),
                ..InstrumentationScope::default()
            }),
            metrics: otlp::metrics(&figures.text(), over),
            ..ScopeMetrics::default()
        };
        let mut request = Request::new(ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![scope],
                ..ResourceMetrics::default()
            }],
        });
        for (name, value) in &self.headers {
            request.metadata_mut().insert(name.clone(), value.clone());
        }
        self.client.clone().export(request).await.map(|_| ())
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

/// `name=value,name=value`, percent-encoded, as OpenTelemetry's environment has it. What is no header is left out.
fn headers(text: &str) -> Vec<(AsciiMetadataKey, AsciiMetadataValue)> {
    let one = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let name = name.trim().to_ascii_lowercase().parse().ok()?;
        Some((name, decoded(value.trim()).parse().ok()?))
    };
    text.split(',').filter_map(one).collect()
}

fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let byte = part
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        if let Some(byte) = byte {
            out.push(char::from(byte));
            out += &part[2..];
        } else {
            out.push('%');
            out += part;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_environment() {
        let found = headers("Authorization=Bearer%20a=b, x-key = 1%,nothing,b ad=1");
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().expect("text")))
            .collect();
        assert_eq!(found, [("authorization", "Bearer a=b"), ("x-key", "1%")]);
    }
}
