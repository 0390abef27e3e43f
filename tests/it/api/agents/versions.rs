//! GET /agents/{id}/versions

use phalanx_tests::{Cluster, fixtures, json};

#[tokio::test]
async fn newest_first_with_their_traffic() {
    let cluster = Cluster::start().await;
    for version in ["1.0.0", "1.0.1", "2.0.0-rc.1"] {
        let body = json!({"agent_metadata": {"version": version}});
        cluster
            .client
            .deploy_source("echo", fixtures::ECHO, body)
            .await;
    }
    let list = cluster
        .client
        .get("/api/v1/agents/echo/versions")
        .await
        .ok();
    let versions: Vec<_> = list["versions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|version| version["version"].clone())
        .collect();
    assert_eq!(versions, ["2.0.0-rc.1", "1.0.1", "1.0.0"]);
    let shares: Vec<_> = list["versions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|version| version["traffic_percentage"].as_f64())
        .collect();
    assert_eq!(shares, [Some(100.0), Some(0.0), Some(0.0)]);
    assert_eq!(list["pagination"]["total"], 3);
    let page = cluster
        .client
        .get("/api/v1/agents/echo/versions?limit=1&page=3")
        .await
        .ok();
    assert_eq!(page["versions"][0]["version"], "1.0.0");
    cluster
        .client
        .get("/api/v1/agents/nobody/versions")
        .await
        .refused(404, "NOT_FOUND");
}
