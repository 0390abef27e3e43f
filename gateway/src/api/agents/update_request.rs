//! What `PUT /agents/{id}/versions/{version}` takes: how the version takes over, and its code where it is new.

use super::request::{self, AgentCode, Code};
use crate::{
    fields::{Faults, Fields},
    json, openapi,
};
use domain::{
    Result,
    artifact::Limits,
    rollout::{ALL, Canary, Plan, Strategy},
    verdict::{Criteria, Triggers},
};
use utoipa::ToSchema;

#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "the schema of what the walk below reads; a test holds them together"
)]
pub struct UpdateRequest {
    /// By default rolling.
    #[schema(required = false, schema_with = openapi::strategy)]
    deployment_strategy: Strategy,
    /// Only with canary.
    #[schema(required = false)]
    canary_config: CanaryConfig,
    #[schema(required = false)]
    rollback_config: RollbackConfig,
    /// Of a new version. Everything else is taken from the version that answers. Left out, a version that is known is rolled out again.
    #[schema(required = false)]
    agent_code: AgentCode,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see UpdateRequest")]
struct CanaryConfig {
    /// Of the callers: over 0 and under 100, because what it is compared with is what the version before does meanwhile.
    #[schema(required = false, minimum = 0.1, maximum = 99.9, default = 10)]
    traffic_percentage: f64,
    /// Minutes. 0: until there are enough executions to judge by.
    #[schema(required = false, minimum = 0, maximum = 10080, default = 10)]
    duration: u32,
    #[schema(required = false)]
    success_criteria: SuccessCriteria,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see UpdateRequest")]
struct SuccessCriteria {
    #[schema(required = false, minimum = 0, maximum = 1)]
    error_rate_threshold: f64,
    /// Of the 95th percentile, in milliseconds.
    #[schema(required = false, minimum = 1, maximum = 28_800_000)]
    latency_threshold: u32,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see UpdateRequest")]
struct RollbackConfig {
    /// Off: where it would go back, it pauses.
    #[schema(required = false, default = true)]
    auto_rollback: bool,
    #[schema(required = false)]
    rollback_triggers: RollbackTriggers,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see UpdateRequest")]
struct RollbackTriggers {
    /// Failed or timed out, of all.
    #[schema(required = false, minimum = 0, maximum = 1, default = 0.5)]
    error_rate: f64,
    #[schema(required = false, minimum = 0, maximum = 1, default = 0.5)]
    timeout_rate: f64,
    /// Instances that failed.
    #[schema(required = false, minimum = 1, maximum = 1000, default = 3)]
    health_check_failures: u32,
}

/// A checked request.
#[derive(Debug)]
pub struct Wanted {
    pub plan: Plan,
    pub code: Option<Code>,
}

pub fn read(body: &[u8], limits: Limits) -> Result<Wanted> {
    let (sent, _) = json::read(body, &[])?;
    let faults = Faults::default();
    let wanted = walk(&Fields::of(&sent, &faults), limits);
    faults.check()?;
    Ok(wanted)
}

fn walk(root: &Fields<'_>, limits: Limits) -> Wanted {
    let strategy = root
        .parsed("deployment_strategy")
        .unwrap_or(Strategy::Rolling);
    let has = |name| root.value(name).is_some();
    if has("canary_config") && strategy != Strategy::Canary {
        root.fault(
            "canary_config",
            format_args!("is given with the strategy {strategy}; allowed is it with canary only"),
        );
    }
    let canary = canary(&root.object("canary_config"));
    let rollback = root.object("rollback_config");
    let auto_rollback = rollback.flag("auto_rollback").unwrap_or(true);
    let triggers = triggers(&rollback.object("rollback_triggers"));
    let code = if has("agent_code") {
        request::code(&root.object("agent_code"), limits)
    } else {
        None
    };
    Wanted {
        plan: Plan {
            strategy,
            canary,
            auto_rollback,
            triggers,
            watched: true,
        },
        code,
    }
}

fn share(fields: &Fields<'_>, name: &'static str) -> Option<f64> {
    fields.number(name, "a number from 0 to 1", |n| (0.0..=1.0).contains(&n))
}

fn canary(fields: &Fields<'_>) -> Canary {
    let default = Canary::default();
    let some = |n: f64| (0.1..=99.9).contains(&n);
    let percentage = fields.number(
        "traffic_percentage",
        "a number from 0.1 to 99.9: the others stay with the version that it is compared with",
        some,
    );
    let criteria = fields.object("success_criteria");
    Canary {
        weight: percentage.map_or(default.weight, |n| {
            ((n * 10.0).round() as u32).clamp(1, ALL - 1)
        }),
        minutes: fields
            .integer("duration", 0..=10_080)
            .unwrap_or(default.minutes),
        criteria: Criteria {
            error_rate_threshold: share(&criteria, "error_rate_threshold"),
            latency_threshold_ms: criteria.integer("latency_threshold", 1..=28_800_000),
        },
    }
}

fn triggers(fields: &Fields<'_>) -> Triggers {
    let default = Triggers::default();
    Triggers {
        error_rate: share(fields, "error_rate").unwrap_or(default.error_rate),
        timeout_rate: share(fields, "timeout_rate").unwrap_or(default.timeout_rate),
        health_check_failures: fields
            .integer("health_check_failures", 1..=1000)
            .unwrap_or(default.health_check_failures),
    }
}
