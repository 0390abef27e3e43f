//! Counts requests by route and status, and how long they took, for Prometheus.

use crate::router::ENDPOINTS;
use prometheus_client::{
    encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{fmt, time::Duration};

/// Upper bounds in seconds.
const BOUNDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 300.0,
];

/// What a gateway counts of itself; all clones count together.
#[derive(Debug, Clone)]
pub struct Meter {
    requests: Family<(Route, Status), Counter>,
    durations: Family<Route, Histogram, fn() -> Histogram>,
    pub in_flight: Gauge,
}

/// An endpoint's place in the table, or its length for what has no route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Route(usize);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Status(u16);

impl EncodeLabelSet for Route {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let (method, route) = ENDPOINTS
            .get(self.0)
            .map_or(("other", "other"), |endpoint| {
                (endpoint.method, endpoint.path)
            });
        ("method", method).encode(encoder.encode_label())?;
        ("route", route).encode(encoder.encode_label())
    }
}

impl EncodeLabelSet for Status {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        ("status", u64::from(self.0)).encode(encoder.encode_label())
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
            in_flight: Gauge::default(),
        }
    }
}

impl Meter {
    /// `route` is the endpoint's place in the table, or its length.
    pub(crate) fn count(&self, route: usize, status: u16, took: Duration) {
        let route = Route(route.min(ENDPOINTS.len()));
        self.requests.get_or_create(&(route, Status(status))).inc();
        self.durations
            .get_or_create(&route)
            .observe(took.as_secs_f64());
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "phalanx_http_requests",
            "Requests answered",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "phalanx_http_request_duration",
            "From a request's head to its answer's head",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register(
            "phalanx_http_requests_in_flight",
            "Requests whose answer has not begun",
            self.in_flight.clone(),
        );
    }

    /// Only what the gateway counts, where nobody told what the page shall show.
    pub(crate) fn text(&self) -> String {
        let mut registry = Registry::default();
        self.register(&mut registry);
        let mut text = String::new();
        // A String takes everything.
        prometheus_client::encoding::prometheus_text::encode(&mut text, &registry).ok();
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_route_and_status() {
        let meter = Meter::default();
        meter.count(0, 200, Duration::from_micros(1500));
        meter.count(0, 200, Duration::from_secs(1000));
        meter.count(usize::MAX, 404, Duration::ZERO);
        let text = meter.text();
        for line in [
            "phalanx_http_requests_total{method=\"POST\",route=\"/api/v1/agents/deploy\",status=\"200\"} 2",
            "phalanx_http_request_duration_seconds_bucket{method=\"POST\",route=\"/api/v1/agents/deploy\",le=\"0.0025\"} 1",
            "phalanx_http_request_duration_seconds_bucket{method=\"POST\",route=\"/api/v1/agents/deploy\",le=\"+Inf\"} 2",
            "phalanx_http_requests_total{method=\"other\",route=\"other\",status=\"404\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
