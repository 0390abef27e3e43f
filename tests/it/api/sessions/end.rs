//! DELETE /agents/{id}/sessions/{sid}

use super::{call, deploy};
use phalanx_tests::{Cluster, json};
use std::path::Path;

#[tokio::test]
async fn what_it_runs_is_cancelled_and_its_processes_are_gone() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    deploy(client, "session").await;
    let (one, other) = (
        call(client, Some("one")).await,
        call(client, Some("other")).await,
    );
    let body = json!({
        "execution_id": "sleeps",
        "input_data": {"parameters": {"s": 25}, "context": {"session_id": "one"}},
        "execution_options": {"async": true},
    });
    client.execute_with("agent", &body).await.ok();
    client.execution_status("agent", "sleeps", "running").await;
    let ended = client
        .delete("/api/v1/agents/agent/sessions/one")
        .await
        .ok();
    assert_eq!(
        ended["cancelled_executions"],
        json!(["sleeps"]),
        "{ended:#}"
    );
    let end = client.execution_end("agent", "sleeps").await;
    assert_eq!(end["status"], "cancelled", "{end:#}");
    // A cancelled call's instance may have been ended with it; where not, it was now. Either way nothing is left.
    for instance in ended["instances"].as_array().expect("a list") {
        assert_eq!(
            json!([instance["gone"], instance["processes_left"]]),
            json!([true, 0])
        );
        let pid = instance["pid"].as_u64().expect("a pid");
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{ended:#}");
    }
    assert_ne!(call(client, Some("one")).await, one, "it begins anew");
    assert_eq!(call(client, Some("other")).await, other, "others go on");

    let again = client
        .delete("/api/v1/agents/agent/sessions/one")
        .await
        .ok();
    let instances = again["instances"].as_array().expect("a list");
    assert_eq!(instances.len(), 1, "{again:#}");
    assert_eq!(
        json!([instances[0]["gone"], instances[0]["processes_left"]]),
        json!([true, 0])
    );
    let pid = instances[0]["pid"].as_u64().expect("a pid");
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{again:#}");
    let nobody = client.delete("/api/v1/agents/agent/sessions/nobody").await;
    nobody.refused(404, "NOT_FOUND");
}
