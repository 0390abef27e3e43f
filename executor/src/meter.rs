//! What an executor counts of itself, for Prometheus: executions, attempts, starts, and what its pools look like.
//!
//! No label names an agent or a version: there may be any number of them.

use crate::{call::Attempted, host::Node, pool::Picture};
use domain::{
    execution::{Ending, Failure, Mode, Outcome},
    instance::State,
    waterfall::How,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{
        MetricType, counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram,
    },
    registry::{Registry, Unit},
};
use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

/// Upper bounds in seconds.
const DURATIONS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0, 900.0, 7200.0,
];
const STARTS: [f64; 14] = [
    0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
];

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// All clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Counts {
    executions: Family<Labels<2>, Counter>,
    durations: Histogram,
    queued: Histogram,
    attempts: Family<Labels<1>, Counter>,
    starts: Family<Labels<1>, Counter>,
    cold: Family<Labels<1>, Histogram>,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            executions: Family::default(),
            durations: Histogram::new(DURATIONS),
            queued: Histogram::new(DURATIONS),
            attempts: Family::default(),
            starts: Family::default(),
            cold: Family::new_with_constructor(|| Histogram::new(STARTS)),
        }
    }
}

impl Counts {
    /// An execution has its end.
    pub fn ended(&self, mode: Mode, outcome: &Outcome) {
        let labels = [("mode", mode.as_str()), ("status", outcome.status.as_str())];
        self.executions.get_or_create(&labels).inc();
        if outcome.started_at.is_some() {
            self.durations.observe(outcome.duration_ms / 1000.0);
            self.queued.observe(outcome.queue_ms / 1000.0);
        }
    }

    pub fn attempted(&self, attempted: &Attempted) {
        let outcome = match &attempted.ending {
            Ending::Completed(_) => "completed",
            Ending::Failed(failure) => failure.code.as_str(),
        };
        self.attempts.get_or_create(&[("outcome", outcome)]).inc();
    }

    pub fn started(&self, took: Duration, how: How) {
        self.starts.get_or_create(&[("outcome", "ready")]).inc();
        self.cold
            .get_or_create(&[("how", how.as_str())])
            .observe(took.as_secs_f64());
    }

    pub fn not_started(&self, failure: &Failure) {
        let outcome = failure.phase.as_str();
        self.starts.get_or_create(&[("outcome", outcome)]).inc();
    }
}

/// What an executor counts of itself, and what it looks like when it is asked.
#[derive(Clone)]
pub struct Meter {
    pub(crate) counts: Counts,
    pub(crate) node: Weak<Node>,
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").finish_non_exhaustive()
    }
}

impl Meter {
    pub fn register(&self, registry: &mut Registry) {
        let counts = &self.counts;
        registry.register(
            "phalanx_executions",
            "Executions that have their end",
            counts.executions.clone(),
        );
        registry.register_with_unit(
            "phalanx_execution_duration",
            "From a handler's start to its end",
            Unit::Seconds,
            counts.durations.clone(),
        );
        registry.register_with_unit(
            "phalanx_execution_queue",
            "From an execution's acceptance to its handler's start",
            Unit::Seconds,
            counts.queued.clone(),
        );
        registry.register(
            "phalanx_execution_attempts",
            "Calls of handlers, by how they ended",
            counts.attempts.clone(),
        );
        registry.register(
            "phalanx_instance_starts",
            "Instances that became ready, or the phase in which they did not",
            counts.starts.clone(),
        );
        registry.register_with_unit(
            "phalanx_instance_start",
            "From an instance's creation until it is ready",
            Unit::Seconds,
            counts.cold.clone(),
        );
        registry.register_collector(Box::new(self.clone()));
    }
}

/// All pools together.
#[derive(Default)]
struct Sum {
    versions: i64,
    templates: i64,
    waiting: i64,
    in_flight: i64,
    free: i64,
    starting: i64,
    ready: i64,
    draining: i64,
}

impl Sum {
    fn add(&mut self, picture: &Picture, slots: u32) {
        self.versions += 1;
        self.templates += i64::from(picture.has_template);
        self.waiting += i64::from(picture.waiting);
        self.in_flight += i64::from(picture.in_flight);
        self.starting += i64::from(picture.starting);
        for instance in &picture.instances {
            if instance.state == State::Ready {
                self.ready += 1;
                self.free += i64::from(slots.saturating_sub(instance.in_flight));
            } else {
                self.draining += 1;
            }
        }
    }
}

impl Collector for Meter {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(node): Option<Arc<Node>> = self.node.upgrade() else {
            return Ok(());
        };
        let mut sum = Sum::default();
        for pool in node.pools() {
            let slots = pool.version.spec.configuration.concurrent_executions;
            sum.add(&pool.picture(), slots);
        }
        for (name, help, value) in [
            ("phalanx_executor_versions", "Versions hosted", sum.versions),
            (
                "phalanx_executor_templates",
                "Versions whose further instances are forked",
                sum.templates,
            ),
            (
                "phalanx_executor_queue_length",
                "Executions that wait for a seat",
                sum.waiting,
            ),
            (
                "phalanx_executor_in_flight",
                "Executions that have a seat",
                sum.in_flight,
            ),
            (
                "phalanx_executor_free_slots",
                "Seats of ready instances that nobody has",
                sum.free,
            ),
        ] {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let mut family = encoder.encode_descriptor(
            "phalanx_instances",
            "Instances by state",
            None,
            MetricType::Gauge,
        )?;
        for (state, value) in [
            (State::Starting, sum.starting),
            (State::Ready, sum.ready),
            (State::Draining, sum.draining),
        ] {
            let labels = [("state", state.as_str())];
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
