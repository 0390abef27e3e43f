//! POST /agents/{id}/deployments/{deployment_id}/abort

use phalanx_tests::{Cluster, json, rollouts::update};

#[tokio::test]
async fn callers_go_back_and_nothing_of_it_is_left() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let path = client.half_a_canary(60).await;
    client.share(&path, 50.0).await;
    assert_eq!(client.order(&path, "abort").await.status, 202);
    let end = client.deployment_status(&path, "rolled_back").await;
    let names: Vec<_> = end["phases"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|phase| phase["name"].clone())
        .collect();
    assert_eq!(
        names,
        [
            "validate",
            "package",
            "provision",
            "health_check",
            "canary",
            "rollback"
        ]
    );
    client.order(&path, "abort").await.refused(409, "CONFLICT");
    let instances = client.get("/api/v1/agents/mine/instances").await.ok();
    assert!(!instances.to_string().contains("2.0.0"), "{instances:#}");
    // One that has not moved anybody fails, and what answered goes on.
    let slow = "import time\ntime.sleep(30)\ndef handler(input): return {'v': '3'}\n";
    let path = client
        .update("mine", "3.0.0", &update("rolling", slow, json!({})))
        .await;
    client
        .deployment_until(&path, "it starts", |document| {
            document["current_phase"] == "provision"
        })
        .await;
    assert_eq!(client.order(&path, "abort").await.status, 202);
    client.deployment_status(&path, "rolled_back").await;
    assert_eq!(client.output("mine", json!({})).await["v"], "1");
}
