//! GET /agents/{id}/logs

use phalanx_tests::{Cluster, json};

const SOURCE: &str = "import logging\nprint('at import')\ndef handler(input):\n    print('said', input['n'])\n    logging.warning('warned %s', input['n'])\n";

#[tokio::test]
async fn lines_of_every_execution_and_new_ones_as_they_come() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source("agent", SOURCE, json!({}))
        .await;
    cluster.client.execute("agent", json!({"n": 1})).await;
    let list = cluster.client.get("/api/v1/agents/agent/logs").await.ok();
    let lines = list["logs"].as_array().expect("a list");
    let found = |message: &str, level: &str| {
        lines
            .iter()
            .any(|line| line["message"] == message && line["level"] == level)
    };
    assert!(
        found("said 1", "INFO") && found("warned 1", "WARN") && found("at import", "INFO"),
        "{list:#}"
    );

    let request = cluster.client.request(
        reqwest::Method::GET,
        "/api/v1/agents/agent/logs?follow=true",
    );
    let mut events = cluster.client.events(request, None).await;
    // What is there comes first: when the last old line is out, the stream is live.
    loop {
        let event = events.next().await.expect("a line");
        if event.data["message"] == "warned 1" {
            break;
        }
    }
    cluster.client.execute("agent", json!({"n": 2})).await;
    let mut seen = Vec::new();
    while !seen.contains(&json!("warned 2")) {
        let event = events.next().await.expect("a line");
        assert_eq!(event.name, "log");
        seen.push(event.data["message"].clone());
    }
    assert!(seen.contains(&json!("said 2")), "{seen:?}");
    cluster
        .client
        .get("/api/v1/agents/nobody/logs")
        .await
        .refused(404, "NOT_FOUND");
}
