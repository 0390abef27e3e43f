//! POST /agents/{id}/rollback

use phalanx_tests::{
    Cluster, Options, json,
    rollouts::{source, update},
};

#[tokio::test]
async fn to_the_version_before_while_it_is_warm_and_later() {
    let options = Options::default().set("PHALANX__DEPLOYER__WATCH_S", "600");
    let cluster = Cluster::start_with(options).await;
    let client = &cluster.client;
    let url = "/api/v1/agents/mine/rollback";
    client
        .deploy_source("mine", &source("1", "pass"), json!({}))
        .await;
    client.post(url, &json!({})).await.refused(409, "CONFLICT");
    let body = update("blue_green", &source("2", "pass"), json!({}));
    let path = client.update("mine", "2.0.0", &body).await;
    client.share(&path, 100.0).await;
    assert_eq!(client.output("mine", json!({})).await["v"], "2");
    let ordered = client.post(url, &json!({"version": "1.0.0"})).await;
    assert_eq!(ordered.status, 202, "{}", ordered.text);
    assert!(path.ends_with(ordered.body()["deployment_id"].as_str().expect("an id")));
    let end = client.deployment_status(&path, "rolled_back").await;
    assert!(
        end["reason"]
            .as_str()
            .is_some_and(|why| why.starts_with("aborted by key_")),
        "{end:#}"
    );
    assert_eq!(end["current_phase"], "rollback");
    assert!(end["rollout"]["rolled_back_at"].is_string(), "{end:#}");
    assert_eq!(client.output("mine", json!({})).await["v"], "1");
    // Nothing is warm any more: the version is deployed again.
    let ordered = client.post(url, &json!({"version": "2.0.0"})).await;
    assert_eq!(ordered.status, 202, "{}", ordered.text);
    let end = client.deployment_end(&ordered.body()).await;
    assert_eq!(end["status"], "deployed", "{end:#}");
    assert_eq!(client.output("mine", json!({})).await["v"], "2");
    let ordered = client.post(url, &json!({})).await;
    assert_eq!(
        client.deployment_end(&ordered.body()).await["version"],
        "1.0.0"
    );
    assert_eq!(client.output("mine", json!({})).await["v"], "1");
    let faults = client.post(url, &json!({"version": "x"})).await.faults();
    assert!(faults[0].starts_with("version: "), "{faults:?}");
    let missing = json!({"version": "9.0.0"});
    client.post(url, &missing).await.refused(404, "NOT_FOUND");
    let same = json!({"version": "1.0.0"});
    client.post(url, &same).await.refused(409, "CONFLICT");
}
