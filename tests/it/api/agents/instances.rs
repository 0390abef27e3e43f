//! GET /agents/{id}/instances

use phalanx_tests::{Cluster, fixtures, json};
use std::path::Path;

#[tokio::test]
async fn every_instance_with_its_process() {
    let cluster = Cluster::start().await;
    let scaling = json!({
        "agent_code": {"configuration": {"warm_start": false}},
        "deployment_config": {"auto_scaling": {"min_instances": 2, "max_instances": 2}},
    });
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, scaling)
        .await;
    let list = cluster
        .client
        .get("/api/v1/agents/echo/instances")
        .await
        .ok();
    let instances = list["instances"].as_array().expect("a list");
    assert_eq!(instances.len(), 2, "{list:#}");
    for instance in instances {
        assert_eq!(
            (&instance["state"], &instance["version"]),
            (&json!("ready"), &json!("1.0.0"))
        );
        assert_eq!(instance["start"], "spawned", "{instance:#}");
        let pid = instance["pid"].as_u64().expect("a pid");
        assert!(Path::new(&format!("/proc/{pid}")).exists(), "{instance:#}");
    }
    cluster
        .client
        .get("/api/v1/agents/nobody/instances")
        .await
        .refused(404, "NOT_FOUND");
}
