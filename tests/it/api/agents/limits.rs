//! GET /agents/{id}/limits.

use phalanx_tests::{Cluster, fixtures, json};

#[tokio::test]
async fn an_agent_has_no_limits_until_it_gets_some() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    let path = "/api/v1/agents/echo/limits";
    let none = client.get(path).await.ok();
    let free = json!({"rate": null, "executions_per_day": null, "executions_per_month": null});
    assert_eq!(none, free);
    let missing = client.get("/api/v1/agents/nobody/limits").await;
    missing.refused(404, "NOT_FOUND");
}
