//! GET /metrics of the whole: strictly well-formed, every role on it, and true.

use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point};
use phalanx_tests::{Cluster, Collector, Options, Shape, figures::Page, json, wait};
use std::time::{Duration, Instant};

const COUNTED: &str = "\
def handler(input):
    if input.get('fails'):
        raise ValueError('as told')
    return 1
";

async fn page(cluster: &Cluster) -> (Page, String) {
    let answer = cluster.client.get("/metrics").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(
        answer.header("content-type"),
        Some("text/plain; version=0.0.4; charset=utf-8")
    );
    (Page::read(&answer.text), answer.text)
}

#[tokio::test]
async fn every_role_counts_what_it_does() {
    let cluster = Cluster::embedded(Options::default()).await;
    let (before, _) = page(&cluster).await;
    assert_eq!(before.sum("phalanx_executions_total"), 0.0);
    assert_eq!(before.value("phalanx_executor_versions", ""), 0.0);
    let changes =
        json!({"deployment_config": {"auto_scaling": {"min_instances": 1, "max_instances": 1}}});
    cluster
        .client
        .deploy_source("counted-agent", COUNTED, changes)
        .await;
    let body = |fails: bool| json!({"input_data": {"parameters": {"fails": fails}}});
    let path = "/api/v1/agents/counted-agent/execute";
    let mut ids = Vec::new();
    for fails in [false, false, true] {
        let done = cluster.client.post(path, &body(fails)).await.ok();
        ids.push(done["execution_id"].as_str().expect("an id").to_owned());
    }
    cluster
        .client
        .get("/api/v1/agents/counted-agent/metrics?start_time=2026-01-01T00:00:00Z&end_time=2026-01-02T00:00:00Z")
        .await
        .ok();
    cluster.client.get("/api/v1/system/health").await.ok();
    let (page, text) = page(&cluster).await;
    for (name, labels, value) in [
        (
            "phalanx_executions_total",
            "mode=\"sync\",status=\"completed\"",
            2.0,
        ),
        (
            "phalanx_executions_total",
            "mode=\"sync\",status=\"failed\"",
            1.0,
        ),
        (
            "phalanx_execution_attempts_total",
            "outcome=\"completed\"",
            2.0,
        ),
        (
            "phalanx_execution_attempts_total",
            "outcome=\"HANDLER_RAISED\"",
            1.0,
        ),
        ("phalanx_execution_duration_seconds_count", "", 3.0),
        ("phalanx_execution_queue_seconds_count", "", 3.0),
        ("phalanx_instance_starts_total", "outcome=\"ready\"", 1.0),
        (
            "phalanx_instance_start_seconds_count",
            "how=\"spawned\"",
            1.0,
        ),
        ("phalanx_instances", "state=\"ready\"", 1.0),
        ("phalanx_instances", "state=\"starting\"", 0.0),
        ("phalanx_executor_versions", "", 1.0),
        ("phalanx_executor_queue_length", "", 0.0),
        ("phalanx_executor_in_flight", "", 0.0),
        ("phalanx_executor_free_slots", "", 10.0),
        (
            "phalanx_deployments_total",
            "kind=\"deploy\",status=\"deployed\"",
            1.0,
        ),
        (
            "phalanx_deployment_phase_duration_seconds_count",
            "outcome=\"completed\",phase=\"provision\"",
            1.0,
        ),
        (
            "phalanx_monitor_queries_total",
            "kind=\"query\",outcome=\"answered\"",
            1.0,
        ),
        ("phalanx_bus_messages_sent_total", "verb=\"request\"", 3.0),
        ("phalanx_bus_reconnections_total", "", 0.0),
        ("phalanx_http_requests_in_flight", "", 1.0),
        (
            "phalanx_http_requests_total",
            "method=\"POST\",route=\"/api/v1/agents/{agent_id}/execute\",status=\"200\"",
            3.0,
        ),
    ] {
        assert_eq!(
            page.value(name, labels),
            value,
            "{name}{{{labels}}} in\n{text}"
        );
    }
    for (name, least) in [
        ("phalanx_store_batch_writes_count", 3.0),
        // Each is written once, with its end.
        ("phalanx_store_write_wait_seconds_count", 3.0),
        ("phalanx_store_connections", 1.0),
        ("phalanx_monitor_query_duration_seconds_count", 1.0),
        ("process_resident_memory_bytes", 1e6),
        ("process_open_fds", 10.0),
        ("process_start_time_seconds", 1.7e9),
    ] {
        assert!(
            page.sum(name) >= least,
            "{name} is under {least} in\n{text}"
        );
    }
    assert_eq!(page.sum("phalanx_store_commit_errors_total"), 0.0);
    assert_eq!(page.sum("phalanx_build_info"), 1.0);
    // There may be any number of these, so none may be a label.
    for word in ids.iter().map(String::as_str).chain(["counted-agent"]) {
        assert!(!text.contains(word), "{word} is in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_the_same_figures() {
    let collector = Collector::start().await;
    let options = Options::default()
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .set("OTEL_METRIC_EXPORT_INTERVAL", "100");
    let mut cluster = Cluster::embedded(options).await;
    cluster
        .client
        .deploy_source("counted-agent", COUNTED, json!({}))
        .await;
    wait::until("figures", Duration::from_secs(30), || async {
        let found = collector.metrics();
        match found.get("phalanx-up phalanx_instances") {
            Some(_) => Ok(()),
            None => Err(format!("{:?}", found.keys())),
        }
    })
    .await;
    let path = "/api/v1/agents/counted-agent/execute";
    cluster.client.post(path, &json!({})).await.ok();
    // The last ones are sent when it leaves.
    assert!(cluster.terminate().success());
    let found = collector.metrics();
    let data = |name: &str| {
        let metric = found.get(&format!("phalanx-up {name}"));
        metric
            .and_then(|metric| metric.data.clone())
            .unwrap_or_else(|| panic!("no {name} in {:?}", found.keys()))
    };
    let Data::Sum(executions) = data("phalanx_executions") else {
        panic!("no sum: {found:#?}")
    };
    assert!(executions.is_monotonic);
    let one = &executions.data_points[0];
    assert_eq!(one.value, Some(number_data_point::Value::AsDouble(1.0)));
    assert!(one.start_time_unix_nano > 0 && one.time_unix_nano > one.start_time_unix_nano);
    let Data::Histogram(durations) = data("phalanx_execution_duration") else {
        panic!("no histogram: {found:#?}")
    };
    let one = &durations.data_points[0];
    assert_eq!((one.count, one.bucket_counts.iter().sum::<u64>()), (1, 1));
    assert_eq!(one.bucket_counts.len(), one.explicit_bounds.len() + 1);
    assert_eq!(found["phalanx-up phalanx_execution_duration"].unit, "s");
    assert_eq!(found["phalanx-up process_resident_memory"].unit, "By");
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nothing_up() {
    let options = Options::default()
        .set("PHALANX__TELEMETRY__OTLP_ENDPOINT", "http://127.0.0.1:1")
        .set("OTEL_METRIC_EXPORT_INTERVAL", "100");
    let mut cluster = Cluster::embedded(options).await;
    cluster
        .client
        .deploy_source("counted-agent", COUNTED, json!({}))
        .await;
    let path = "/api/v1/agents/counted-agent/execute";
    cluster.client.post(path, &json!({})).await.ok();
    let asked = Instant::now();
    assert!(cluster.terminate().success());
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(12), "{took:?}");
}

#[tokio::test]
async fn starts_that_fail_are_counted_by_their_phase() {
    let cluster = Cluster::embedded(Options::default()).await;
    let body = phalanx_tests::fixtures::agent("broken", "raise RuntimeError('no')\n");
    cluster
        .client
        .post("/api/v1/agents/deploy", &body)
        .await
        .ok();
    wait::until("a failed start", Duration::from_secs(60), || async {
        let (page, text) = page(&cluster).await;
        let failed = page
            .samples
            .get("phalanx_instance_starts_total")
            .and_then(|starts| starts.get("outcome=\"import\""))
            .is_some_and(|count| *count >= 1.0);
        let ended = page
            .samples
            .get("phalanx_deployments_total")
            .and_then(|ended| ended.get("kind=\"deploy\",status=\"failed\""))
            .is_some_and(|count| *count == 1.0);
        if failed && ended { Ok(()) } else { Err(text) }
    })
    .await;
}

#[tokio::test]
async fn each_process_of_a_cluster_has_a_page_of_its_own() {
    let cluster = Cluster::many(Shape::SMALL, Options::default()).await;
    cluster
        .client
        .deploy_source("counted-agent", COUNTED, json!({}))
        .await;
    let path = "/api/v1/agents/counted-agent/execute";
    cluster.client.post(path, &json!({})).await.ok();
    let mut executions = 0.0;
    for part in &cluster.parts {
        let probe = part.ready_url.as_deref().expect("probed");
        let answer = cluster
            .client
            .get(&probe.replace("/readyz", "/metrics"))
            .await;
        assert_eq!(answer.status, 200, "{}: {}", part.name, answer.text);
        let page = Page::read(&answer.text);
        let own = match part.name.split('-').next() {
            Some("gateway") => "phalanx_http_requests_in_flight",
            Some("deployer") => "phalanx_deployer_drives",
            Some("executor") => "phalanx_executor_free_slots",
            _ => "phalanx_store_connections",
        };
        for name in [own, "phalanx_store_connections", "process_open_fds"] {
            assert!(
                page.samples.contains_key(name),
                "no {name} in\n{}",
                answer.text
            );
        }
        assert_eq!(page.sum("phalanx_bus_reconnections_total"), 0.0);
        executions += page.sum("phalanx_executions_total");
    }
    assert_eq!(executions, 1.0, "one of them ran it");
}
