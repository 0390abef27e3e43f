//! GET /agents/{id}

use phalanx_tests::{Cluster, fixtures, json};

#[tokio::test]
async fn the_details_are_complete() {
    let cluster = Cluster::start().await;
    let changes = json!({
        "agent_metadata": {"name": "Echo", "description": "gives back\nwhat it gets", "tags": ["a", "b"]},
        "agent_code": {"configuration": {"memory_limit": 256, "timeout": 5, "concurrent_executions": 3}},
        "deployment_config": {"auto_scaling": {"min_instances": 1, "max_instances": 2}},
    });
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, changes)
        .await;
    cluster.client.output("echo", json!({})).await;
    let agent = cluster.client.get("/api/v1/agents/echo").await.ok();
    let metadata = &agent["metadata"];
    assert_eq!(
        (&metadata["name"], &metadata["description"]),
        (&json!("Echo"), &json!("gives back\nwhat it gets"))
    );
    assert_eq!(
        (&metadata["version"], &metadata["tags"]),
        (&json!("1.0.0"), &json!(["a", "b"]))
    );
    for name in ["created_by", "created_at", "last_updated"] {
        assert!(metadata[name].is_string(), "{name}: {agent:#}");
    }
    let deployment = &agent["deployment"];
    assert_eq!(
        (&deployment["environment"], &deployment["status"]),
        (&json!("dev"), &json!("active"))
    );
    assert_eq!(
        deployment["configuration"],
        json!({"memory_limit": 256, "timeout": 5, "concurrent_executions": 3})
    );
    let scaling = &agent["scaling"];
    assert_eq!(
        (
            &scaling["current_instances"],
            &scaling["min_instances"],
            &scaling["max_instances"]
        ),
        (&json!(1), &json!(1), &json!(2))
    );
    let performance = &agent["performance"];
    assert_eq!(performance["total_requests"], 1, "{agent:#}");
    for name in ["uptime", "avg_response_time", "error_rate", "throughput"] {
        assert!(performance.get(name).is_some(), "{name}: {agent:#}");
    }
    for name in ["iam_role", "vpc_id", "security_groups", "encryption_status"] {
        assert!(agent["security"].get(name).is_some(), "{name}: {agent:#}");
    }
}

#[tokio::test]
async fn ids_that_no_agent_has() {
    let cluster = Cluster::start().await;
    for id in [
        "nobody",
        "..%2F..%2Fetc%2Fpasswd",
        "%2e%2e",
        "A",
        "a%00b",
        "a%0d%0ab",
        "%F0%9F%A6%80",
        "%FF%FE",
        "x'%20OR%201=1--",
        &"a".repeat(5000),
    ] {
        let answer = cluster.client.get(&format!("/api/v1/agents/{id}")).await;
        assert!(
            matches!(answer.status, 400 | 404),
            "{id}: {} {}",
            answer.status,
            answer.text
        );
        assert!(
            answer.body()["error"]["code"].is_string(),
            "{id}: {}",
            answer.text
        );
        assert!(answer.text.len() < 2000, "the id is not echoed whole");
    }
}
