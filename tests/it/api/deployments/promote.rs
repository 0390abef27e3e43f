//! POST /agents/{id}/deployments/{deployment_id}/promote

use phalanx_tests::{
    Cluster, json,
    rollouts::{source, update},
};

#[tokio::test]
async fn a_canary_takes_all_callers_and_its_watch_ends() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let first = client
        .deploy_source("mine", &source("1", "pass"), json!({}))
        .await;
    let over = format!(
        "/api/v1/agents/mine/deployments/{}",
        first["deployment_id"].as_str().expect("an id")
    );
    let error = client
        .order(&over, "promote")
        .await
        .refused(409, "CONFLICT");
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|why| why.contains("it is deployed")),
        "{error}"
    );
    let canary = json!({"canary_config": {"traffic_percentage": 12.5, "duration": 60}});
    let path = client
        .update(
            "mine",
            "2.0.0",
            &update("canary", &source("2", "pass"), canary),
        )
        .await;
    let document = client.share(&path, 12.5).await;
    assert_eq!(document["current_phase"], "canary", "{document:#}");
    let agent = client.get("/api/v1/agents/mine").await.ok();
    assert_eq!(
        agent["metadata"]["version"], "1.0.0",
        "most callers have it"
    );
    let shares = json!([{"version": "1.0.0", "traffic_percentage": 87.5}, {"version": "2.0.0", "traffic_percentage": 12.5}]);
    assert_eq!(agent["deployment"]["traffic"], shares);
    assert_eq!(client.order(&path, "promote").await.status, 202);
    let end = client.deployment_status(&path, "deployed").await;
    assert_eq!(end["rollout"]["traffic_percentage"], 100.0, "{end:#}");
    assert_eq!(client.output("mine", json!({})).await["v"], "2");
    client
        .order(&path, "promote")
        .await
        .refused(409, "CONFLICT");
    let missing = "/api/v1/agents/mine/deployments/dep_0";
    client
        .order(missing, "promote")
        .await
        .refused(404, "NOT_FOUND");
}
