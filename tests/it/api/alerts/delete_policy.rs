//! DELETE /alerts/policy

use super::{put, start};
use phalanx_tests::json;

#[tokio::test]
async fn the_accounts_counts_again() {
    let cluster = start().await;
    let client = &cluster.client;
    let own = "/api/v1/alerts/policy?agent_id=agent";
    client.delete(own).await.refused(404, "NOT_FOUND");
    let rule = |ms: u32| json!({"rules": {"latency": {"threshold": ms}}});
    put(client, "", &rule(7)).await.ok();
    let first = put(client, "?agent_id=agent", &rule(8)).await.ok();
    let left = client.delete(own).await.ok();
    assert_eq!(
        (
            left["source"].as_str(),
            left["rules"]["latency"]["threshold"].as_f64()
        ),
        (Some("account"), Some(7.0)),
        "{left:#}"
    );
    assert_eq!(client.get(own).await.ok()["source"], "account");
    client.delete(own).await.refused(404, "NOT_FOUND");
    // Put anew it is another one, with another secret.
    let second = put(client, "?agent_id=agent", &rule(8)).await.ok();
    assert!(second["webhook_secret"].is_string());
    assert_ne!(first["webhook_secret"], second["webhook_secret"]);
    let faults = client.delete("/api/v1/alerts/policy").await.faults();
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(faults[0].contains("agent_id"), "{faults:#?}");
}
