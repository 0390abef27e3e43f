//! DELETE /agents/{id}

use phalanx_tests::{Cluster, fixtures, json, wait};
use std::time::Duration;

#[tokio::test]
async fn it_goes_with_its_processes_and_its_history_stays() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let accepted = client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    let key = accepted["security"]["api_key"].as_str().expect("a key");
    let executed = client.execute("echo", json!({"a": 1})).await;
    let id = executed["execution_id"].as_str().expect("an id");
    assert!(!cluster.agent_processes().is_empty());

    let answer = client.delete("/api/v1/agents/echo").await;
    assert_eq!(answer.status, 202, "{}", answer.text);
    assert_eq!(answer.body()["agent_id"], "echo");
    client
        .with_key(key)
        .get("/api/v1/agents/echo")
        .await
        .refused(401, "UNAUTHENTICATED");
    wait::until("the agent is gone", Duration::from_secs(30), || async {
        let answer = client.get("/api/v1/agents/echo").await;
        if answer.status == 404 {
            Ok(())
        } else {
            Err(answer.text)
        }
    })
    .await;
    assert_eq!(
        client.get("/api/v1/agents").await.ok()["pagination"]["total"],
        0
    );
    client
        .execute_with("echo", &fixtures::call(json!({})))
        .await
        .refused(404, "NOT_FOUND");
    client
        .delete("/api/v1/agents/echo")
        .await
        .refused(404, "NOT_FOUND");
    wait::until(
        "its processes are gone",
        Duration::from_secs(20),
        || async {
            let left = cluster.agent_processes();
            // What waits for the next agent to start is nobody's instance.
            let left: Vec<_> = left
                .into_iter()
                .filter(|process| process.words.contains("inst_"))
                .collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        },
    )
    .await;
    assert_eq!(
        client.execution("echo", id).await["result"]["output"],
        json!({"a": 1})
    );
    assert_eq!(
        client.get("/api/v1/agents/echo/executions").await.ok()["pagination"]["total"],
        1
    );

    // The id is free again, and what comes is another agent.
    let second = client
        .deploy_source("echo", "def handler(input):\n    return 2\n", json!({}))
        .await;
    assert!(second["security"]["api_key"].is_string(), "{second:#}");
    assert_eq!(client.output("echo", json!({})).await, 2);
}
