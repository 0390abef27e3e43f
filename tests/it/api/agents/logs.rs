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

#[tokio::test]
async fn a_reader_that_comes_back_goes_on_where_it_was() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    client.deploy_source("agent", SOURCE, json!({})).await;
    client.execute("agent", json!({"n": 1})).await;
    let follow = |query: &str| {
        let path = format!("/api/v1/agents/agent/logs?follow=true{query}");
        client.request(reqwest::Method::GET, &path)
    };
    let mut events = client.events(follow(""), None).await;
    let last = loop {
        let event = events.next().await.expect("a line");
        if event.data["message"] == "warned 1" {
            break event.id.expect("a place to go on from");
        }
    };
    drop(events);
    // What is said while nobody reads; the pause keeps it out of the same millisecond.
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    for n in 2..=4 {
        client.execute("agent", json!({"n": n})).await;
    }
    let mut events = client.events(follow(""), Some(&last)).await;
    let mut seen = Vec::new();
    while !seen.contains(&json!("warned 4")) {
        let event = events.next().await.expect("a line");
        seen.push(event.data["message"].clone());
    }
    assert!(!seen.contains(&json!("at import")), "{seen:?}");
    for n in 2..=4 {
        for line in ["said", "warned"] {
            let times = seen
                .iter()
                .filter(|one| **one == json!(format!("{line} {n}")));
            assert_eq!(times.count(), 1, "{seen:?}");
        }
    }
    // No more than it asked for, and how many are not among them.
    let mut events = client.events(follow("&limit=2"), Some(&last)).await;
    let first = events.next().await.expect("an event");
    assert_eq!(first.name, "lost", "{first:?}");
    assert!(first.data["events"].as_u64() >= Some(4), "{first:?}");
    let mut said = Vec::new();
    for _ in 0..2 {
        said.push(events.next().await.expect("a line").data["message"].clone());
    }
    assert_eq!(said, ["said 4", "warned 4"]);
    let bad = follow("").header("last-event-id", "yesterday").send().await;
    assert_eq!(bad.expect("an answer").status(), 400);
}
