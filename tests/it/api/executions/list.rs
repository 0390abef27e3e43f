//! GET /agents/{id}/executions

use phalanx_tests::{Cluster, Value, fixtures, json};
use std::time::Duration;

#[tokio::test]
async fn filters_and_pages() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let source = "def handler(input):\n    if input.get('bad'):\n        raise ValueError('bad')\n";
    client.deploy_source("agent", source, json!({})).await;
    for n in 0..5 {
        let session = if n % 2 == 0 { "even" } else { "odd" };
        let body = json!({
            "execution_id": format!("e{n}"),
            "input_data": {"parameters": {"bad": n == 3}, "context": {"session_id": session}},
        });
        client.execute_with("agent", &body).await.ok();
        // Gateways go by the database's clock to a few milliseconds, and the list by the time of acceptance.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let listed = async |query: &str| {
        let list = client
            .get(&format!("/api/v1/agents/agent/executions{query}"))
            .await
            .ok();
        let all = list["executions"].as_array().expect("a list");
        all.iter()
            .map(|one| one["execution_id"].as_str().expect("an id").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(listed("").await, ["e4", "e3", "e2", "e1", "e0"]);
    assert_eq!(listed("?status=failed").await, ["e3"]);
    assert_eq!(
        listed("?session_id=even&status=completed").await,
        ["e4", "e2", "e0"]
    );
    assert_eq!(listed("?limit=2&page=2").await, ["e2", "e1"]);
    let middle = client.execution("agent", "e2").await["accepted_at"]
        .as_str()
        .expect("a time")
        .to_owned();
    let (from, to) = (
        listed(&format!("?from={middle}")).await,
        listed(&format!("?to={middle}")).await,
    );
    assert_eq!(
        (from.len() + to.len(), from.contains(&"e2".to_owned())),
        (5, true),
        "half-open: {from:?} {to:?}"
    );
    let list: Value = client
        .get("/api/v1/agents/agent/executions?status=failed")
        .await
        .ok();
    assert_eq!(list["executions"][0]["error_code"], "HANDLER_RAISED");
    let faults = client
        .get("/api/v1/agents/agent/executions?status=odd&from=yesterday&zzz=1")
        .await
        .faults();
    assert_eq!(faults.len(), 3, "{faults:#?}");
    client
        .get("/api/v1/agents/nobody/executions")
        .await
        .refused(404, "NOT_FOUND");
    client
        .execute_with("agent", &fixtures::call(json!({})))
        .await
        .ok();
}
