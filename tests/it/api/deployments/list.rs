//! GET /agents/{id}/deployments

use phalanx_tests::{Cluster, fixtures, json};

#[tokio::test]
async fn newest_first_and_paged() {
    let cluster = Cluster::start().await;
    for version in ["1.0.0", "2.0.0", "3.0.0"] {
        cluster
            .client
            .deploy_source(
                "echo",
                fixtures::ECHO,
                json!({"agent_metadata": {"version": version}}),
            )
            .await;
    }
    let list = cluster
        .client
        .get("/api/v1/agents/echo/deployments")
        .await
        .ok();
    let versions: Vec<_> = list["deployments"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| one["version"].clone())
        .collect();
    assert_eq!(versions, ["3.0.0", "2.0.0", "1.0.0"]);
    let page = cluster
        .client
        .get("/api/v1/agents/echo/deployments?page=2&limit=2")
        .await
        .ok();
    assert_eq!(page["deployments"][0]["version"], "1.0.0");
    assert_eq!(
        page["pagination"],
        json!({"page": 2, "limit": 2, "total": 3, "total_pages": 2})
    );
    cluster
        .client
        .get("/api/v1/agents/nobody/deployments")
        .await
        .refused(404, "NOT_FOUND");
}
