//! What a deployer counts of itself, for Prometheus.

use domain::deployment::{Kind, Phase, Status};
use prometheus_client::{
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use std::time::Duration;

/// Upper bounds in seconds.
const BOUNDS: [f64; 12] = [
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 900.0,
];

/// All clones count together.
#[derive(Debug, Clone)]
pub struct Meter {
    deployments: Family<[(&'static str, &'static str); 2], Counter>,
    phases: Family<[(&'static str, &'static str); 2], Histogram, fn() -> Histogram>,
    /// Agents that are driven now.
    pub(crate) drives: Gauge,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            deployments: Family::default(),
            phases: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
            drives: Gauge::default(),
        }
    }
}

impl Meter {
    pub(crate) fn ended(&self, kind: Kind, status: Status) {
        let labels = [("kind", kind.as_str()), ("status", status.as_str())];
        self.deployments.get_or_create(&labels).inc();
    }

    pub(crate) fn ran(&self, phase: Phase, fine: bool, took: Duration) {
        let outcome = if fine { "completed" } else { "failed" };
        let labels = [("phase", phase.as_str()), ("outcome", outcome)];
        self.phases
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "phalanx_deployments",
            "Deployments that have ended",
            self.deployments.clone(),
        );
        registry.register_with_unit(
            "phalanx_deployment_phase_duration",
            "Phases that ran to their end",
            Unit::Seconds,
            self.phases.clone(),
        );
        registry.register(
            "phalanx_deployer_drives",
            "Agents that are driven now",
            self.drives.clone(),
        );
    }
}
