//! POST /agents/{id}/deployments/{deployment_id}/resume

use phalanx_tests::{
    Cluster, Options, json,
    rollouts::{source, update},
};

#[tokio::test]
async fn only_what_is_paused_goes_on() {
    let options = Options::default().set("PHALANX__DEPLOYER__WATCH_S", "2");
    let cluster = Cluster::start_with(options).await;
    let client = &cluster.client;
    client
        .deploy_source("mine", &source("1", "pass"), json!({}))
        .await;
    let path = client
        .update(
            "mine",
            "2.0.0",
            &update("blue_green", &source("2", "pass"), json!({})),
        )
        .await;
    let error = client.order(&path, "resume").await.refused(409, "CONFLICT");
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|why| why.contains("not paused")),
        "{error}"
    );
    assert_eq!(client.order(&path, "pause").await.status, 202);
    client
        .deployment_until(&path, "it is paused", |document| {
            document["rollout"]["paused"].is_string()
        })
        .await;
    assert_eq!(client.output("mine", json!({})).await["v"], "1");
    assert_eq!(client.order(&path, "resume").await.status, 202);
    let end = client.deployment_status(&path, "deployed").await;
    assert_eq!(end["rollout"]["paused"], json!(null));
    assert_eq!(client.output("mine", json!({})).await["v"], "2");
}
