//! POST /agents/{id}/deployments/{deployment_id}/pause

use phalanx_tests::{Cluster, json};

#[tokio::test]
async fn callers_stay_where_they_are() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    // Nothing but the pause keeps it from taking all of the callers.
    let path = client.half_a_canary(0).await;
    assert_eq!(client.order(&path, "pause").await.status, 202);
    let paused = |document: &phalanx_tests::Value| {
        document["rollout"]["paused"]
            .as_str()
            .is_some_and(|why| why.starts_with("paused by key_"))
    };
    client.deployment_until(&path, "it is paused", paused).await;
    for n in 0..140 {
        let body =
            json!({"input_data": {"parameters": {}, "context": {"session_id": format!("s{n}")}}});
        client.execute_with("mine", &body).await.ok();
    }
    let judged = client
        .deployment_until(&path, "it passes", |document| {
            document["rollout"]["verdicts"][0]["outcome"] == "pass"
                || document["rollout"]["verdicts"][1]["outcome"] == "pass"
        })
        .await;
    assert_eq!(judged["rollout"]["traffic_percentage"], 50.0, "{judged:#}");
    assert_eq!(judged["status"], "deploying", "{judged:#}");
    let error = client.order(&path, "pause").await.refused(409, "CONFLICT");
    assert!(
        error["message"]
            .as_str()
            .is_some_and(|why| why.contains("paused already")),
        "{error}"
    );
    assert_eq!(client.order(&path, "resume").await.status, 202);
    client.share(&path, 100.0).await;
}
