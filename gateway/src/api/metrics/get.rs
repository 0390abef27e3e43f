//! GET /agents/{id}/metrics.

use crate::{
    api::agents::known,
    app::App,
    door::Who,
    error::Answer,
    monitor::{self, Ends},
    openapi,
    params::{Params, Path},
    respond,
};
use axum::{extract::State, response::Response};
use domain::{
    Timestamp,
    agent::metric_name,
    metrics::{Granularity, Range},
};
use proto::v1::{Bucket, QueryReply};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct AgentMetrics {
    agent_id: String,
    time_range: TimeRange,
    metrics: Series,
    summary: MetricsSummary,
}

/// As asked for, widened to whole buckets: `[start, end)`.
#[derive(Debug, Serialize, ToSchema)]
struct TimeRange {
    #[schema(schema_with = openapi::time)]
    start: Timestamp,
    #[schema(schema_with = openapi::time)]
    end: Timestamp,
    #[schema(schema_with = openapi::granularity)]
    granularity: Granularity,
}

/// One entry a bucket, empty ones too; a series that was not asked for is left out.
#[derive(Debug, Default, Serialize, ToSchema)]
struct Series {
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_count: Option<Vec<Count>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_time: Option<Vec<ResponseTime>>,
    /// Failed or timed out, of those that completed, failed or timed out: a cancelled execution counts in the total and in no rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_rate: Option<Vec<Figure>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    throughput: Option<Vec<Figure>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_usage: Option<Vec<Resources>>,
    /// From acceptance to the start, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_time: Option<Vec<QueueTime>>,
    /// Milliseconds that all executions of the bucket used together.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_time: Option<Vec<Figure>>,
    /// The largest peak of an execution, in MB.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_used: Option<Vec<Figure>>,
    /// Of all executions of the bucket together; null where none reported any.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_used: Option<Vec<Figure>>,
    /// What agents report, under its own names: the mean of what was reported in each bucket.
    #[serde(flatten)]
    custom: BTreeMap<String, Vec<Figure>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Count {
    #[schema(schema_with = openapi::time)]
    timestamp: Timestamp,
    value: u64,
}

/// Null where nothing ran.
#[derive(Debug, Serialize, ToSchema)]
struct Figure {
    #[schema(schema_with = openapi::time)]
    timestamp: Timestamp,
    value: Option<f64>,
}

/// Null where nothing ran.
#[derive(Debug, Serialize, ToSchema)]
struct ResponseTime {
    #[schema(schema_with = openapi::time)]
    timestamp: Timestamp,
    avg: Option<f64>,
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
}

/// Null where nothing ran.
#[derive(Debug, Serialize, ToSchema)]
struct QueueTime {
    #[schema(schema_with = openapi::time)]
    timestamp: Timestamp,
    avg: Option<f64>,
    p95: Option<f64>,
}

/// Shares, 0 to 1; null where nothing ran. Disk is not measured: what an instance writes counts against its memory.
#[derive(Debug, Serialize, ToSchema)]
struct Resources {
    #[schema(schema_with = openapi::time)]
    timestamp: Timestamp,
    /// Of the time that executions ran, the part that a processor worked for them.
    cpu: Option<f64>,
    /// The largest peak of an execution, as a share of `memory_limit`.
    memory: Option<f64>,
    disk: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct MetricsSummary {
    total_executions: u64,
    /// Completed, of those that completed, failed or timed out: a cancelled execution counts in the total and in no rate.
    success_rate: Option<f64>,
    avg_response_time: Option<f64>,
    /// Of the busiest bucket.
    peak_throughput: f64,
    uptime: Option<f64>,
}

const KNOWN: [&str; 9] = [
    "execution_count",
    "response_time",
    "error_rate",
    "throughput",
    "resource_usage",
    "queue_time",
    "cpu_time",
    "memory_used",
    "tokens_used",
];

/// Read an agent's metrics
#[utoipa::path(get, path = "/api/v1/agents/{agent_id}/metrics", operation_id = "get_metrics", tag = "metrics",
    params(("agent_id" = String, Path),
        ("start_time" = String, Query, description = "RFC 3339"), ("end_time" = String, Query, description = "RFC 3339"),
        ("granularity" = Option<String>, Query, description = "1m, 5m (default), 1h or 1d"),
        ("metrics" = Option<String>, Query, description = "Names of series, comma-separated; all by default")),
    responses((status = 200, body = AgentMetrics)))]
pub async fn get(
    State(app): State<App>,
    who: Who,
    Path(agent_id): Path<String>,
    params: Params,
) -> Answer<Response> {
    let agent = known(&app, &who, &agent_id).await?;
    let (start, end) = (
        needed_time(&params, "start_time"),
        needed_time(&params, "end_time"),
    );
    let granularity = params
        .parsed("granularity")
        .unwrap_or(Granularity::FiveMinutes);
    let wanted: Option<BTreeSet<&str>> = params
        .one("metrics")
        .map(|names| names.split(',').map(str::trim).collect());
    for name in wanted.iter().flatten() {
        if let Err(what) = metric_name(name) {
            params.fault("metrics", what);
        }
    }
    params.check()?;
    let range = Range::new(start, end, granularity)?;
    let reply = monitor::query(&app, &who.key.account, &agent, range).await?;
    Ok(respond::ok(&AgentMetrics {
        agent_id: agent.to_string(),
        time_range: TimeRange {
            start: range.start,
            end: range.end,
            granularity,
        },
        summary: summary(&reply, granularity),
        metrics: series(&reply.buckets, granularity, wanted.as_ref()),
    }))
}

fn needed_time(params: &Params, name: &'static str) -> Timestamp {
    if params.many(name).is_empty() {
        params.fault(
            name,
            "is required; allowed is RFC 3339 with an offset, as 2026-01-31T09:30:00Z",
        );
    }
    params.time(name).unwrap_or_default()
}

fn summary(reply: &QueryReply, granularity: Granularity) -> MetricsSummary {
    let peak = reply
        .buckets
        .iter()
        .map(|bucket| bucket.count)
        .max()
        .unwrap_or(0);
    MetricsSummary {
        total_executions: reply.total,
        success_rate: Ends::from(reply).success_rate(),
        avg_response_time: reply.avg_ms,
        peak_throughput: per_second(peak, granularity),
        uptime: reply.uptime_percent,
    }
}

fn per_second(count: u64, granularity: Granularity) -> f64 {
    count as f64 * 1000.0 / granularity.millis() as f64
}

fn series(buckets: &[Bucket], granularity: Granularity, wanted: Option<&BTreeSet<&str>>) -> Series {
    let is_wanted = |name: &str| wanted.is_none_or(|wanted| wanted.contains(name));
    let at = |bucket: &Bucket| Timestamp(bucket.start_ms);
    let figures = |name: &str, value: &dyn Fn(&Bucket) -> Option<f64>| {
        let all = || {
            buckets
                .iter()
                .map(|bucket| Figure {
                    timestamp: at(bucket),
                    value: value(bucket),
                })
                .collect()
        };
        is_wanted(name).then(all)
    };
    let mut names: BTreeSet<&str> = buckets
        .iter()
        .flat_map(|bucket| bucket.custom.keys().map(String::as_str))
        .collect();
    names.extend(wanted.into_iter().flatten());
    let custom = names
        .into_iter()
        .filter(|name| !KNOWN.contains(name))
        .filter_map(|name| {
            let of_name = figures(name, &|bucket| bucket.custom.get(name).copied())?;
            Some((name.to_owned(), of_name))
        });
    Series {
        execution_count: is_wanted("execution_count").then(|| {
            buckets
                .iter()
                .map(|bucket| Count {
                    timestamp: at(bucket),
                    value: bucket.count,
                })
                .collect()
        }),
        response_time: is_wanted("response_time").then(|| {
            let one = |bucket: &Bucket| ResponseTime {
                timestamp: at(bucket),
                avg: bucket.avg_ms,
                p50: bucket.p50_ms,
                p95: bucket.p95_ms,
                p99: bucket.p99_ms,
            };
            buckets.iter().map(one).collect()
        }),
        error_rate: figures("error_rate", &|bucket| Ends::from(bucket).error_rate()),
        throughput: figures("throughput", &|bucket| {
            Some(per_second(bucket.count, granularity))
        }),
        resource_usage: is_wanted("resource_usage").then(|| {
            let one = |bucket: &Bucket| Resources {
                timestamp: at(bucket),
                cpu: bucket.cpu_share,
                memory: bucket.memory_share,
                disk: None,
            };
            buckets.iter().map(one).collect()
        }),
        queue_time: is_wanted("queue_time").then(|| {
            let one = |bucket: &Bucket| QueueTime {
                timestamp: at(bucket),
                avg: bucket.queue_avg_ms,
                p95: bucket.queue_p95_ms,
            };
            buckets.iter().map(one).collect()
        }),
        cpu_time: figures("cpu_time", &|bucket| {
            (bucket.count > 0).then_some(bucket.cpu_ms)
        }),
        memory_used: figures("memory_used", &|bucket| bucket.memory_peak_mb),
        tokens_used: figures("tokens_used", &|bucket| bucket.tokens),
        custom: custom.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_buckets_are_there_and_say_nothing_ran() {
        let buckets = [
            Bucket {
                start_ms: 0,
                count: 60,
                failed: 10,
                cancelled: 20,
                avg_ms: Some(2.0),
                queue_p95_ms: Some(0.5),
                cpu_ms: 30.0,
                memory_peak_mb: Some(64.0),
                tokens: Some(7.0),
                custom: [("tokens".to_owned(), 5.0)].into(),
                ..Bucket::default()
            },
            Bucket {
                start_ms: 60_000,
                ..Bucket::default()
            },
        ];
        let all = serde_json::to_value(series(&buckets, Granularity::Minute, None)).expect("JSON");
        assert_eq!(all["throughput"][0]["value"], 1.0);
        assert_eq!(all["error_rate"][0]["value"], 0.25);
        assert_eq!(
            (
                &all["execution_count"][1]["value"],
                &all["error_rate"][1]["value"]
            ),
            (&0.into(), &serde_json::Value::Null)
        );
        assert_eq!(
            (&all["tokens"][0]["value"], &all["tokens"][1]["value"]),
            (&5.0.into(), &serde_json::Value::Null)
        );
        let first = |name: &str| all[name][0]["value"].clone();
        assert_eq!(
            [
                first("cpu_time"),
                first("memory_used"),
                first("tokens_used")
            ],
            [30.0, 64.0, 7.0].map(serde_json::Value::from)
        );
        assert_eq!(all["queue_time"][0]["p95"], 0.5);
        assert!(all["cpu_time"][1]["value"].is_null());
        let some = serde_json::to_value(series(
            &buckets,
            Granularity::Minute,
            Some(&BTreeSet::from(["throughput", "absent"])),
        ))
        .expect("JSON");
        assert_eq!(
            some.as_object()
                .expect("an object")
                .keys()
                .collect::<Vec<_>>(),
            ["absent", "throughput"]
        );
    }
}
