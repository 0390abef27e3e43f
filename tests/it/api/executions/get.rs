//! GET /agents/{id}/executions/{execution_id}

use phalanx_tests::{Cluster, Options, Value, json, wait};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

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

/// The phases of a document, each at least nothing, and what its times say: `queue_time` is the first six.
fn waterfall(performance: &Value) -> HashMap<String, f64> {
    let phases: HashMap<String, f64> =
        serde_json::from_value(performance["waterfall"].clone()).expect("eight figures");
    assert_eq!(phases.len(), 8, "{performance:#}");
    assert!(phases.values().all(|ms| *ms >= 0.0), "{performance:#}");
    let before = ["gateway", "queue", "placement", "spawn", "import", "init"];
    let queue: f64 = before.iter().map(|name| phases[*name]).sum();
    let figure = |name: &str| performance[name].as_f64().expect("a number");
    assert!(
        (queue - figure("queue_time")).abs() < 0.001,
        "{performance:#}"
    );
    assert!(
        (phases["handler"] - figure("duration")).abs() < 0.002,
        "{performance:#}"
    );
    phases
}

#[tokio::test]
async fn every_execution_shows_where_its_time_went() {
    let options = Options::default().set("PHALANX__EXECUTOR__IDLE_S", "1");
    let cluster = Cluster::start_with(options).await;
    let client = &cluster.client;
    let source = "import time\ntime.sleep(0.3)\ndef handler(input):\n    time.sleep(input['s'])\n    return 1\n";
    // What is forked imports nothing.
    let one = json!({"agent_code": {"configuration": {"concurrent_executions": 1, "warm_start": false}},
        "deployment_config": {"auto_scaling": {"min_instances": 0, "max_instances": 1}}});
    client.deploy_source("slow", source, one).await;
    // A warm one or a cold one: what it shows fits what its caller saw, and is what is read later.
    let begun = Instant::now();
    let answer = client.execute("slow", json!({"s": 0.2})).await;
    let wall = begun.elapsed().as_secs_f64() * 1000.0;
    let phases = waterfall(&answer["performance"]);
    let total: f64 = phases.values().sum();
    assert!(total <= wall + 5.0, "{total} of {wall}: {answer:#}");
    assert!(
        phases["handler"] >= 200.0 && phases["gateway"] > 0.0,
        "{answer:#}"
    );
    let id = answer["execution_id"].as_str().expect("an id");
    let read = client.execution("slow", id).await;
    assert_eq!(
        read["performance"]["waterfall"],
        answer["performance"]["waterfall"]
    );
    // Nobody is there any more: the next one waits for a start, and the one behind it for its seat.
    wait::until("nothing runs", Duration::from_secs(30), || async {
        let now = client.get("/api/v1/agents/slow/instances").await.ok();
        match now["instances"].as_array() {
            Some(instances) if instances.is_empty() => Ok(()),
            _ => Err(now.to_string()),
        }
    })
    .await;
    let first = client.execute_async("slow", json!({"s": 0.5})).await;
    let second = client.execute_async("slow", json!({"s": 0})).await;
    let first = client.execution_end("slow", &first).await;
    let second = client.execution_end("slow", &second).await;
    let (cold, behind) = (
        waterfall(&first["performance"]),
        waterfall(&second["performance"]),
    );
    assert!(cold["spawn"] > 0.0 && cold["import"] >= 250.0, "{first:#}");
    assert_eq!(first["performance"]["instance_start"], "spawned");
    let waited = behind["queue"] + behind["import"] + behind["spawn"];
    assert!(waited >= 450.0, "{second:#}");
}
