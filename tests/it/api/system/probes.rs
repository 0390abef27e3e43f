//! GET /healthz, /readyz and /metrics, and what every answer has

use phalanx_tests::{Cluster, fixtures, json};

#[tokio::test]
async fn probes_need_no_key_and_figures_do() {
    let cluster = Cluster::start().await;
    let open = cluster.client.with_key("");
    open.get("/healthz").await.ok();
    open.get("/readyz").await.ok();
    open.get("/metrics").await.refused(401, "UNAUTHENTICATED");
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    cluster.client.output("echo", json!({})).await;
    let figures = cluster.client.get("/metrics").await;
    assert_eq!(figures.status, 200);
    let samples: Vec<&str> = figures
        .text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .collect();
    assert!(samples.len() > 3, "{}", figures.text);
    for sample in samples {
        let value = sample.rsplit(' ').next().expect("a value");
        assert!(value.parse::<f64>().is_ok(), "{sample}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_have_the_envelope() {
    let cluster = Cluster::start().await;
    cluster.client.get("/").await.refused(404, "NOT_FOUND");
    cluster
        .client
        .get("/api/v2/agents")
        .await
        .refused(404, "NOT_FOUND");
    cluster
        .client
        .get("/api/v1/agents/x/y/z/w")
        .await
        .refused(404, "NOT_FOUND");
    let answer = cluster.client.delete("/api/v1/agents").await;
    answer.refused(405, "METHOD_NOT_ALLOWED");
    assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    cluster
        .client
        .get("/api/v1/agents/x/execute")
        .await
        .refused(405, "METHOD_NOT_ALLOWED");
    let request = cluster
        .client
        .request(reqwest::Method::POST, "/api/v1/agents/deploy")
        .body("x=1");
    let form = request.header("content-type", "application/x-www-form-urlencoded");
    cluster
        .client
        .send(form)
        .await
        .expect("an answer")
        .refused(415, "UNSUPPORTED_MEDIA_TYPE");
    let answer = cluster.client.get("/readyz").await;
    assert!(
        answer
            .header("x-request-id")
            .is_some_and(|id| id.starts_with("req_"))
    );
}
