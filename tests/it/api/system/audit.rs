//! GET /audit

use phalanx_tests::{Cluster, fixtures, json};

#[tokio::test]
async fn every_change_is_kept_refused_ones_too() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let accepted = client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    let agent_key = client.with_key(accepted["security"]["api_key"].as_str().expect("a key"));
    agent_key
        .delete("/api/v1/agents/echo")
        .await
        .refused(403, "FORBIDDEN");
    client.deploy(&json!({})).await.faults();
    client.delete("/api/v1/agents/echo").await;
    let audit = client.get("/api/v1/audit").await.ok();
    let records = audit["records"].as_array().expect("a list");
    // Clocks of two gateways may be a millisecond apart, and so may what follows at once.
    let mut seen: Vec<_> = records
        .iter()
        .map(|record| {
            (
                record["action"].as_str().expect("a word"),
                record["outcome"].as_str().expect("a word"),
            )
        })
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            ("agent.delete", "FORBIDDEN"),
            ("agent.delete", "ok"),
            ("agent.deploy", "VALIDATION_FAILED"),
            ("agent.deploy", "ok")
        ]
    );
    let by = |outcome: &str| {
        let record = records.iter().find(|record| record["outcome"] == outcome);
        record.map(|record| record["key_id"].clone())
    };
    assert_ne!(by("FORBIDDEN"), by("ok"));
    for record in records {
        assert!(
            record["at"].is_string()
                && record["request_id"].is_string()
                && record["remote"].is_string(),
            "{record:#}"
        );
    }
    assert_eq!(
        client.get("/api/v1/audit?limit=1").await.ok()["records"]
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    client.get("/api/v1/audit?limit=0").await.faults();
}
