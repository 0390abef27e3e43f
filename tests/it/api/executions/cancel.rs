//! POST /agents/{id}/executions/{execution_id}/cancel

use phalanx_tests::{Cluster, Value, fixtures, json};
use std::path::Path;

async fn cancel(cluster: &Cluster, agent: &str, id: &str) -> Value {
    cluster
        .client
        .post(
            &format!("/api/v1/agents/{agent}/executions/{id}/cancel"),
            &json!({}),
        )
        .await
        .ok()
}

async fn pids(cluster: &Cluster, agent: &str) -> Vec<u64> {
    let list = cluster
        .client
        .get(&format!("/api/v1/agents/{agent}/instances"))
        .await
        .ok();
    list["instances"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|instance| instance["pid"].as_u64())
        .collect()
}

#[tokio::test]
async fn work_that_will_not_stop_is_ended_with_its_processes() {
    let cluster = Cluster::start().await;
    for (id, source) in [
        (
            "loops",
            "def handler(input):\n    while True:\n        pass\n",
        ),
        (
            "swallows",
            "import time\ndef handler(input):\n    while True:\n        try:\n            time.sleep(0.01)\n        except BaseException:\n            pass\n",
        ),
        (
            "forks",
            "import os, time\ndef handler(input):\n    for _ in range(3):\n        if os.fork() == 0:\n            time.sleep(600)\n            os._exit(0)\n    time.sleep(600)\n",
        ),
        (
            "deaf",
            "import signal, time\ndef handler(input):\n    try:\n        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n    except ValueError:\n        pass\n    while True:\n        time.sleep(1)\n",
        ),
    ] {
        cluster
            .client
            .deploy_source(
                id,
                source,
                json!({"deployment_config": {"auto_scaling": {"max_instances": 1}}}),
            )
            .await;
        let before = pids(&cluster, id).await;
        assert_eq!(before.len(), 1, "{id}");
        let execution = cluster.client.execute_async(id, json!({})).await;
        cluster
            .client
            .execution_status(id, &execution, "running")
            .await;
        let answer = cancel(&cluster, id, &execution).await;
        assert_eq!(
            (&answer["status"], &answer["already"]),
            (&json!("cancelled"), &json!(false)),
            "{id}: {answer}"
        );
        // When cancel has answered there is nothing left of it.
        assert!(
            !Path::new(&format!("/proc/{}", before[0])).exists(),
            "{id}: its process lives"
        );
        let end = cluster.client.execution(id, &execution).await;
        assert_eq!(
            (&end["status"], &end["result"]["error"]["code"]),
            (&json!("cancelled"), &json!("CANCELLED")),
            "{end:#}"
        );
        let again = cancel(&cluster, id, &execution).await;
        assert_eq!(
            (&again["status"], &again["already"]),
            (&json!("cancelled"), &json!(true)),
            "{id}: {again}"
        );
    }
}

#[tokio::test]
async fn its_neighbours_go_on() {
    let cluster = Cluster::start().await;
    let source = "import asyncio\nasync def handler(input):\n    try:\n        await asyncio.sleep(input['s'])\n    finally:\n        print('cleaned up')\n    return 'done'\n";
    cluster
        .client
        .deploy_source(
            "agent",
            source,
            json!({"deployment_config": {"auto_scaling": {"max_instances": 1}}}),
        )
        .await;
    let before = pids(&cluster, "agent").await;
    let long = cluster
        .client
        .execute_async("agent", json!({"s": 600}))
        .await;
    let short = cluster.client.execute_async("agent", json!({"s": 3})).await;
    cluster
        .client
        .execution_status("agent", &long, "running")
        .await;
    cluster
        .client
        .execution_status("agent", &short, "running")
        .await;
    assert_eq!(
        cancel(&cluster, "agent", &long).await["status"],
        "cancelled"
    );
    assert_eq!(
        cluster.client.execution_end("agent", &short).await["result"]["output"],
        "done"
    );
    assert_eq!(
        pids(&cluster, "agent").await,
        before,
        "a task that stops costs no instance"
    );
    let logs = cluster.client.execution("agent", &long).await["logs"].to_string();
    assert!(logs.contains("cleaned up"), "{logs}");
}

#[tokio::test]
async fn what_waits_never_begins_and_what_is_over_stays() {
    let cluster = Cluster::start().await;
    let one = json!({
        "agent_code": {"configuration": {"concurrent_executions": 1}},
        "deployment_config": {"auto_scaling": {"max_instances": 1}},
    });
    cluster
        .client
        .deploy_source(
            "agent",
            "import time\ndef handler(input):\n    time.sleep(input['s'])\n    return 1\n",
            one,
        )
        .await;
    let first = cluster
        .client
        .execute_async("agent", json!({"s": 600}))
        .await;
    cluster
        .client
        .execution_status("agent", &first, "running")
        .await;
    let waiting = cluster.client.execute_async("agent", json!({"s": 0})).await;
    assert_eq!(
        cancel(&cluster, "agent", &waiting).await["status"],
        "cancelled"
    );
    assert_eq!(
        cancel(&cluster, "agent", &first).await["status"],
        "cancelled"
    );
    let end = cluster.client.execution("agent", &waiting).await;
    assert_eq!(
        (&end["status"], &end["started_at"]),
        (&json!("cancelled"), &Value::Null),
        "{end:#}"
    );

    let done = cluster.client.execute("agent", json!({"s": 0})).await;
    let id = done["execution_id"].as_str().expect("an id");
    let answer = cancel(&cluster, "agent", id).await;
    assert_eq!(
        (&answer["status"], &answer["already"]),
        (&json!("completed"), &json!(true)),
        "{answer}"
    );
    let unknown = cluster
        .client
        .post("/api/v1/agents/agent/executions/nothing/cancel", &json!({}))
        .await;
    unknown.refused(404, "NOT_FOUND");
}

#[tokio::test]
async fn a_sync_caller_is_told_at_once() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source(
            "agent",
            "import time\ndef handler(input):\n    time.sleep(600)\n",
            json!({}),
        )
        .await;
    let body = fixtures::with(
        fixtures::call(json!({})),
        json!({"execution_id": "mine", "execution_options": {"timeout": 600}}),
    );
    let (answer, ()) = tokio::join!(cluster.client.execute_with("agent", &body), async {
        let running = || async {
            let answer = cluster
                .client
                .get("/api/v1/agents/agent/executions/mine")
                .await;
            if answer.status == 200 {
                Ok(())
            } else {
                Err(answer.text)
            }
        };
        phalanx_tests::wait::until("it is known", std::time::Duration::from_secs(20), running)
            .await;
        cancel(&cluster, "agent", "mine").await;
    });
    assert_eq!(answer.ok()["status"], "cancelled");
}
