//! PUT /alerts/policy

use super::{put, start};
use phalanx_tests::{Cluster, json};

#[tokio::test]
async fn the_secret_is_shown_once_and_faults_are_named() {
    let cluster = start().await;
    let client = &cluster.client;
    let first = put(client, "", &json!({})).await.ok();
    let secret = first["webhook_secret"].as_str().expect("shown");
    assert!(secret.starts_with("whsec_"), "{first:#}");
    assert!(put(client, "", &json!({})).await.ok()["webhook_secret"].is_null());
    let faults = put(client, "", &json!({"rules": {"latency": {"threshold": "slow"}}, "escalation": {"level_4": {}}, "resolve_after_minutes": 61}))
        .await
        .faults();
    assert_eq!(faults.len(), 3, "{faults:#?}");
    put(client, "?agent_id=nobody", &json!({}))
        .await
        .refused(404, "NOT_FOUND");
    let reader = client
        .post(
            "/api/v1/keys",
            &json!({"name": "reader", "permissions": ["agent:monitor"]}),
        )
        .await;
    let reader = client.with_key(reader.body()["api_key"].as_str().expect("a key"));
    put(&reader, "", &json!({})).await.refused(403, "FORBIDDEN");
}

#[tokio::test]
async fn webhooks_go_to_public_hosts_only() {
    let cluster = Cluster::start().await;
    for url in [
        "http://hooks.example.org/",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://[::ffff:169.254.169.254]/",
        "https://localhost/",
        "https://user:word@hooks.example.org/",
        "https://hooks.example.org:6379/",
    ] {
        let policy =
            json!({"escalation": {"level_1": {"webhooks": ["https://hooks.example.org/a", url]}}});
        let faults = put(&cluster.client, "", &policy).await.faults();
        assert_eq!(faults.len(), 1, "{url}: {faults:#?}");
        assert!(
            faults[0].starts_with("escalation.level_1.webhooks[1]: "),
            "{faults:#?}"
        );
    }
}
