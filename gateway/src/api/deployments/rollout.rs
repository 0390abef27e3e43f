//! How far a rollout is, and what was said of it: a part of a deployment's document.

use crate::openapi;
use domain::{
    Timestamp,
    rollout::{Rollout, Strategy},
    verdict::{Figures, Outcome},
};
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct RolloutDocument {
    #[schema(schema_with = openapi::strategy)]
    strategy: Strategy,
    /// Who answered before; null for a first version.
    baseline_version: Option<String>,
    /// The share of the callers that this deployment gave its version, 0 to 100.
    traffic_percentage: f64,
    /// Why it stands still; null where it does not.
    paused: Option<String>,
    auto_rollback: bool,
    /// What ended since callers were shared, or since all of them moved.
    version: Counted,
    baseline: Counted,
    /// What was said of a canary, the newest last.
    verdicts: Vec<VerdictLine>,
    /// When all callers had moved.
    #[schema(schema_with = openapi::maybe_time)]
    switched_at: Option<Timestamp>,
    /// When they had gone back.
    #[schema(schema_with = openapi::maybe_time)]
    rolled_back_at: Option<Timestamp>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Counted {
    samples: u64,
    failed: u64,
    timeouts: u64,
    error_rate: Option<f64>,
    p50_ms: Option<f64>,
    p95_ms: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct VerdictLine {
    #[schema(schema_with = openapi::time)]
    at: Timestamp,
    #[schema(schema_with = openapi::outcome)]
    outcome: Outcome,
    reason: String,
    version: Counted,
    baseline: Counted,
}

impl From<Figures> for Counted {
    fn from(of: Figures) -> Self {
        Self {
            samples: of.samples,
            failed: of.failed,
            timeouts: of.timeouts,
            error_rate: of.error_rate,
            p50_ms: of.p50_ms,
            p95_ms: of.p95_ms,
        }
    }
}

impl From<Rollout> for RolloutDocument {
    fn from(of: Rollout) -> Self {
        let lines = of.verdicts.into_iter().map(|one| VerdictLine {
            at: one.at,
            outcome: one.outcome,
            reason: one.reason,
            version: one.version.into(),
            baseline: one.baseline.into(),
        });
        Self {
            strategy: of.plan.strategy,
            baseline_version: of.baseline.map(|route| route.version.to_string()),
            traffic_percentage: f64::from(of.weight) / 10.0,
            paused: of.held.map(|held| held.reason),
            auto_rollback: of.plan.auto_rollback,
            version: of.samples.version.figures().into(),
            baseline: of.samples.baseline.figures().into(),
            verdicts: lines.collect(),
            switched_at: of.switched_at,
            rolled_back_at: of.undone_at,
        }
    }
}
