//! GET /agents/{id}/executions/{execution_id}

use phalanx_tests::{Cluster, json, wait};
use std::time::Duration;

#[tokio::test]
async fn from_running_to_its_outcome() {
    let cluster = Cluster::start().await;
    let source = "import time\ndef handler(input, context):\n    context.progress(40)\n    print('begun')\n    time.sleep(0.8)\n    return 1\n";
    cluster
        .client
        .deploy_source("slow", source, json!({}))
        .await;
    let id = cluster.client.execute_async("slow", json!({})).await;
    let running = wait::until(
        "it has told its progress",
        Duration::from_secs(20),
        || async {
            let document = cluster.client.execution("slow", &id).await;
            assert_ne!(
                document["status"], "completed",
                "it was never seen running: {document:#}"
            );
            if document["progress"].is_number() {
                Ok(document)
            } else {
                Err(document.to_string())
            }
        },
    )
    .await;
    assert_eq!(
        (&running["status"], &running["progress"]),
        (&json!("running"), &json!(40.0)),
        "{running:#}"
    );
    assert!(
        running["completed_at"].is_null() && running["result"]["output"].is_null(),
        "{running:#}"
    );
    let end = cluster.client.execution_end("slow", &id).await;
    assert_eq!(
        (&end["agent_id"], &end["execution_id"], &end["mode"]),
        (&json!("slow"), &json!(id), &json!("async")),
        "{end:#}"
    );
    assert!(
        end["started_at"].as_str() < end["completed_at"].as_str(),
        "{end:#}"
    );
    assert!(end["result"]["error"].is_null(), "{end:#}");
    assert!(
        end["performance"]["duration"]
            .as_f64()
            .is_some_and(|ms| (700.0..5000.0).contains(&ms)),
        "{end:#}"
    );
    for name in ["memory_peak", "cpu_time", "queue_time"] {
        assert!(end["performance"][name].is_number(), "{name}: {end:#}");
    }
    assert_eq!(end["logs"][0]["message"], "begun");
    for path in [
        "/api/v1/agents/slow/executions/nothing",
        "/api/v1/agents/nobody/executions/x",
    ] {
        cluster.client.get(path).await.refused(404, "NOT_FOUND");
    }
}
