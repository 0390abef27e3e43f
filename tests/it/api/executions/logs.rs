//! GET /agents/{id}/executions/{execution_id}/logs

use phalanx_tests::{Cluster, json};

#[tokio::test]
async fn lines_kept_and_followed_to_the_end() {
    let cluster = Cluster::start().await;
    let source = "import time\ndef handler(input):\n    for n in range(input['to']):\n        print('line', n)\n        time.sleep(input['pause'])\n";
    cluster
        .client
        .deploy_source("agent", source, json!({}))
        .await;
    let id = cluster
        .client
        .execute_async("agent", json!({"to": 20, "pause": 0.05}))
        .await;
    let path = format!("/api/v1/agents/agent/executions/{id}/logs");
    let request = cluster
        .client
        .request(reqwest::Method::GET, &format!("{path}?follow=true"));
    let events = cluster.client.events(request, None).await.all().await;
    let wanted: Vec<_> = (0..20).map(|n| json!(format!("line {n}"))).collect();
    let followed: Vec<_> = events
        .iter()
        .filter(|event| event.name == "log")
        .map(|event| event.data["message"].clone())
        .collect();
    assert_eq!(followed, wanted, "{events:#?}");
    assert_eq!(events.last().map(|event| event.name.as_str()), Some("end"));
    let kept = cluster.client.get(&path).await.ok();
    let kept: Vec<_> = kept["logs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|line| line["message"].clone())
        .collect();
    assert_eq!(kept, wanted);
    let request = cluster
        .client
        .request(reqwest::Method::GET, &format!("{path}?follow=true"));
    let rest = cluster
        .client
        .events(request, events[14].id.as_deref())
        .await
        .all()
        .await;
    assert_eq!(
        rest.iter().filter(|event| event.name == "log").count(),
        5,
        "{rest:#?}"
    );
    cluster
        .client
        .get("/api/v1/agents/agent/executions/nothing/logs")
        .await
        .refused(404, "NOT_FOUND");
    assert_eq!(
        cluster
            .client
            .get(&format!("{path}?follow=perhaps"))
            .await
            .faults()
            .len(),
        1
    );
}

#[tokio::test]
async fn what_is_too_much_is_dropped_counted_and_said() {
    let cluster = Cluster::start().await;
    let source = "def handler(input):\n    for n in range(10_000):\n        print('line', n)\n    print('x' * 1_000_000)\n    return 'done'\n";
    cluster
        .client
        .deploy_source("loud", source, json!({}))
        .await;
    let document = cluster.client.execute("loud", json!({})).await;
    assert_eq!(document["result"]["output"], "done");
    let id = document["execution_id"].as_str().expect("an id");
    let kept = cluster
        .client
        .get(&format!("/api/v1/agents/loud/executions/{id}/logs"))
        .await
        .ok();
    let lines = kept["logs"].as_array().expect("a list");
    let dropped = kept["dropped"].as_u64().expect("a count");
    assert!(
        lines.len() <= 2_001 && dropped >= 7_000,
        "{} kept, {dropped} dropped",
        lines.len()
    );
    assert_eq!(
        cluster.client.execution("loud", id).await["logs_dropped"],
        kept["dropped"]
    );
    assert!(
        lines.last().expect("lines")["message"]
            .as_str()
            .expect("text")
            .contains("dropped"),
        "{}",
        lines.last().expect("lines")
    );
}
