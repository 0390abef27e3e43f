//! Limits as requests and answers have them.

use crate::fields::Fields;
use domain::limit::{Limits, Rate};
use serde::Serialize;
use utoipa::ToSchema;

const MOST_PER_SECOND: f64 = 100_000.0;
const MOST_BURST: u32 = 1_000_000;
const MOST_EXECUTIONS: u32 = 4_000_000_000;

/// How often at most. What is left out is not limited.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema; the body is read by its fields")]
pub struct LimitsRequest {
    #[schema(required = false)]
    rate: RateRequest,
    /// Accepted executions of a day in UTC.
    #[schema(required = false, minimum = 1, maximum = 4_000_000_000_u64)]
    executions_per_day: u32,
    /// Accepted executions of a month in UTC.
    #[schema(required = false, minimum = 1, maximum = 4_000_000_000_u64)]
    executions_per_month: u32,
}

/// A token bucket.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema; the body is read by its fields")]
struct RateRequest {
    /// Of a key, all its requests; of an agent, its executions.
    #[schema(minimum = 0.001, maximum = 100_000)]
    requests_per_second: f64,
    /// How many may come at once after a pause; by default as many as come in a second. Under four, or under a tenth of what comes in a
    /// second, many requests wait for a round trip to the database.
    #[schema(required = false, minimum = 1, maximum = 1_000_000)]
    burst: u32,
}

/// How often at most; null: not limited.
#[derive(Debug, Serialize, ToSchema)]
pub struct LimitsDocument {
    rate: Option<RateDocument>,
    executions_per_day: Option<u64>,
    executions_per_month: Option<u64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct RateDocument {
    requests_per_second: f64,
    burst: u32,
}

impl From<Limits> for LimitsDocument {
    fn from(limits: Limits) -> Self {
        Self {
            rate: limits.rate.map(|rate| RateDocument {
                requests_per_second: f64::from(rate.per_1000_s) / 1000.0,
                burst: rate.burst,
            }),
            executions_per_day: limits.executions_per_day,
            executions_per_month: limits.executions_per_month,
        }
    }
}

pub fn read(fields: &Fields<'_>) -> Limits {
    let executions = |name| fields.integer(name, 1..=MOST_EXECUTIONS).map(u64::from);
    Limits {
        rate: fields
            .value("rate")
            .and_then(|_| rate(&fields.object("rate"))),
        executions_per_day: executions("executions_per_day"),
        executions_per_month: executions("executions_per_month"),
    }
}

fn rate(fields: &Fields<'_>) -> Option<Rate> {
    let allowed = "a number from 0.001 to 100000";
    let per_second = fields.needed_number("requests_per_second", allowed, |n| {
        (0.001..=MOST_PER_SECOND).contains(&n)
    });
    let burst = fields.integer("burst", 1..=MOST_BURST);
    let per_second = per_second?;
    Some(Rate {
        per_1000_s: (per_second * 1000.0).round() as u32,
        burst: burst.unwrap_or(per_second.ceil() as u32).max(1),
    })
}
