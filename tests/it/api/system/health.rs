//! GET /system/health

use phalanx_tests::{Cluster, fixtures, json, wait};
use std::time::Duration;

#[tokio::test]
async fn every_part_is_probed() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    cluster.client.output("echo", json!({})).await;
    let health = wait::until("all is well", Duration::from_secs(20), || async {
        let health = cluster.client.get("/api/v1/system/health").await.ok();
        if health["overall_status"] == "healthy" {
            Ok(health)
        } else {
            Err(health.to_string())
        }
    })
    .await;
    let components = &health["components"];
    for part in [
        "agentcore_service",
        "database",
        "monitoring",
        "bus",
        "deployer",
    ] {
        assert_eq!(components[part]["status"], "healthy", "{part}: {health:#}");
    }
    assert!(
        components["agentcore_service"]["response_time"].is_number(),
        "{health:#}"
    );
    assert!(
        components["database"]["query_performance"].is_number(),
        "{health:#}"
    );
    assert!(
        components["monitoring"]["metrics_lag"].is_number(),
        "{health:#}"
    );
    let capacity = &health["capacity"];
    assert_eq!(
        (&capacity["total_agents"], &capacity["active_agents"]),
        (&json!(1), &json!(1)),
        "{health:#}"
    );
    assert_eq!(capacity["total_executions_per_minute"], 1, "{health:#}");
    for name in ["cpu", "memory", "network"] {
        assert!(
            capacity["resource_utilization"].get(name).is_some(),
            "{name}: {health:#}"
        );
    }
    let isolation = health["nodes"][0]["isolation"]
        .as_str()
        .expect("how agents are confined");
    assert!(
        !isolation.is_empty() && cluster.log().contains("confined"),
        "{isolation}"
    );
}
