//! What the store counts of itself, for Prometheus: the group commit above all.

use crate::Store;
use domain::Kind;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::{fmt, time::Duration};

/// Upper bounds in seconds.
const DURATIONS: [f64; 11] = [
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0,
];
const BATCHES: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// All clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    batches: Histogram,
    commits: Histogram,
    waits: Histogram,
    errors: Family<[(&'static str, &'static str); 1], Counter>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            batches: Histogram::new(BATCHES),
            commits: Histogram::new(DURATIONS),
            waits: Histogram::new(DURATIONS),
            errors: Family::default(),
        }
    }
}

impl Counts {
    pub fn committed(&self, writes: usize, took: Duration, error: Option<Kind>) {
        if writes == 0 {
            return;
        }
        self.batches.observe(writes as f64);
        self.commits.observe(took.as_secs_f64());
        if let Some(kind) = error {
            let kind = match kind {
                Kind::Internal => "refused",
                Kind::Timeout => "timeout",
                _ => "unavailable",
            };
            self.errors.get_or_create(&[("kind", kind)]).inc();
        }
    }

    /// A caller had its answer.
    pub fn waited(&self, took: Duration) {
        self.waits.observe(took.as_secs_f64());
    }
}

/// What a store counts of itself, and its connections when it is asked.
#[derive(Clone)]
pub struct Meter(Store);

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}

impl Store {
    /// What this store counts of itself.
    pub fn meter(&self) -> Meter {
        Meter(self.clone())
    }
}

impl Meter {
    pub fn register(&self, registry: &mut Registry) {
        let counts = &self.0.writer.counts;
        registry.register(
            "phalanx_store_batch_writes",
            "Writes of executions that were committed together",
            counts.batches.clone(),
        );
        registry.register_with_unit(
            "phalanx_store_commit_duration",
            "Commits of writes of executions",
            Unit::Seconds,
            counts.commits.clone(),
        );
        registry.register_with_unit(
            "phalanx_store_write_wait",
            "From handing a write of an execution in until it is committed",
            Unit::Seconds,
            counts.waits.clone(),
        );
        registry.register(
            "phalanx_store_commit_errors",
            "Commits that the database refused or did not answer",
            counts.errors.clone(),
        );
        registry.register_collector(Box::new(self.clone()));
    }
}

impl Collector for Meter {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let gauge = ConstGauge::new(i64::from(self.0.connections()));
        gauge.encode(encoder.encode_descriptor(
            "phalanx_store_connections",
            "Open connections to the database",
            None,
            gauge.metric_type(),
        )?)
    }
}
