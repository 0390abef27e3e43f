//! What a monitor counts of itself, for Prometheus.

use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::time::Instant;

/// Upper bounds in seconds.
const BOUNDS: [f64; 9] = [0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];

/// All clones count together.
#[derive(Debug, Clone)]
pub struct Meter {
    queries: Family<[(&'static str, &'static str); 2], Counter>,
    durations: Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            queries: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
        }
    }
}

impl Meter {
    pub(crate) fn answered(&self, kind: &'static str, fine: bool, begun: Instant) {
        let outcome = if fine { "answered" } else { "failed" };
        let labels = [("kind", kind), ("outcome", outcome)];
        self.queries.get_or_create(&labels).inc();
        self.durations
            .get_or_create(&[("kind", kind)])
            .observe(begun.elapsed().as_secs_f64());
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "phalanx_monitor_queries",
            "Questions for figures",
            self.queries.clone(),
        );
        registry.register_with_unit(
            "phalanx_monitor_query_duration",
            "From a question to its answer",
            Unit::Seconds,
            self.durations.clone(),
        );
    }
}
