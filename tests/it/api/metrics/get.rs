//! GET /agents/{id}/metrics

use phalanx_tests::{Cluster, Value, json};

const SOURCE: &str = "def handler(input, context):\n    context.metric('score', input.get('n', 0))\n    context.metric('tokens', 3)\n    if input.get('bad'):\n        raise ValueError('bad')\n";

fn sum(series: &Value) -> f64 {
    series
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|bucket| bucket["value"].as_f64())
        .sum()
}

#[tokio::test]
async fn every_figure_is_what_the_executions_say() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    client.deploy_source("agent", SOURCE, json!({})).await;
    for n in 0..10 {
        client.execute("agent", json!({"n": n, "bad": n < 3})).await;
    }
    let list = client.get("/api/v1/agents/agent/executions").await.ok();
    let day = &list["executions"][0]["accepted_at"]
        .as_str()
        .expect("a time")[..10];
    let path = |rest: &str| {
        format!(
            "/api/v1/agents/agent/metrics?start_time={day}T00:00:00Z&end_time={day}T23:59:59Z{rest}"
        )
    };
    let metrics = client.get(&path("&granularity=1h")).await.ok();
    assert_eq!(metrics["time_range"]["granularity"], "1h");
    let series = &metrics["metrics"];
    assert_eq!(
        series["execution_count"].as_array().map(Vec::len),
        Some(24),
        "empty buckets are there"
    );
    assert!(
        (sum(&series["execution_count"]) - 10.0).abs() < f64::EPSILON,
        "{metrics:#}"
    );
    // The mean of what they reported, in the one bucket or two that they ran in.
    let scores: Vec<f64> = series["score"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|bucket| bucket["value"].as_f64())
        .collect();
    assert!(
        scores.len() == 2 || (scores[0] - 4.5).abs() < 1e-9,
        "{scores:?}"
    );
    let full = series["response_time"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|bucket| bucket["p95"].is_number())
        .count();
    assert!((1..=2).contains(&full), "{metrics:#}");
    let tokens = sum(&series["tokens_used"]);
    assert!((tokens - 30.0).abs() < 1e-9, "{metrics:#}");
    assert!(sum(&series["cpu_time"]) > 0.0, "{metrics:#}");
    let waited = series["queue_time"].as_array().expect("a list").iter();
    let waited = waited.filter(|bucket| bucket["avg"].is_number()).count();
    assert_eq!(waited, full);
    let rates: Vec<f64> = series["error_rate"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|bucket| bucket["value"].as_f64())
        .collect();
    assert!(
        !rates.is_empty() && (full > 1 || (rates[0] - 0.3).abs() < 1e-9),
        "{rates:?}"
    );
    let summary = &metrics["summary"];
    assert_eq!(summary["total_executions"], 10, "{summary}");
    assert!(
        (summary["success_rate"].as_f64().expect("a rate") - 0.7).abs() < 1e-9,
        "{summary}"
    );
    let listed = &client.get("/api/v1/agents").await.ok()["agents"][0]["performance_metrics"];
    assert_eq!(listed["total_requests"], 10);

    let some = client
        .get(&path("&granularity=1d&metrics=execution_count,score"))
        .await
        .ok();
    let names: Vec<_> = some["metrics"]
        .as_object()
        .expect("series")
        .keys()
        .cloned()
        .collect();
    assert_eq!(names, ["execution_count", "score"]);
}

#[tokio::test]
async fn every_fault_of_a_query_is_named() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source("agent", SOURCE, json!({}))
        .await;
    let at = "/api/v1/agents/agent/metrics";
    let faults = cluster
        .client
        .get(&format!("{at}?granularity=2m&metrics=%20%24&x=1"))
        .await
        .faults();
    for name in ["start_time", "end_time", "granularity", "metrics", "x"] {
        assert!(
            faults
                .iter()
                .any(|fault| fault.starts_with(&format!("{name}: "))),
            "{name}: {faults:#?}"
        );
    }
    for query in [
        "start_time=2026-01-02T00:00:00Z&end_time=2026-01-01T00:00:00Z",
        "start_time=2026-01-01T00:00:00Z&end_time=2036-01-01T00:00:00Z&granularity=1m",
        "start_time=2026-01-01&end_time=2026-01-02",
        "start_time=2026-01-01T00:00:00&end_time=2026-01-02T00:00:00Z",
    ] {
        cluster.client.get(&format!("{at}?{query}")).await.faults();
    }
    let unknown = "/api/v1/agents/nobody/metrics?start_time=2026-01-01T00:00:00Z&end_time=2026-01-02T00:00:00Z";
    cluster.client.get(unknown).await.refused(404, "NOT_FOUND");
}
