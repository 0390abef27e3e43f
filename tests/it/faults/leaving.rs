//! Told to leave: what runs may finish, the doors close, nothing is left, and everything is there again.

use nix::sys::signal::Signal;
use phalanx_tests::{Cluster, Options, Shape, fixtures, json, wait};
use std::time::Duration;

#[tokio::test]
async fn requests_in_flight_finish_and_the_rest_is_there_again() {
    let mut cluster = Cluster::embedded(Options::default()).await;
    let source =
        "import time\ndef handler(input):\n    time.sleep(input['s'])\n    return input['s']\n";
    cluster
        .client
        .deploy_source("slow", source, json!({}))
        .await;
    let zero = json!({"deployment_config": {"auto_scaling": {"min_instances": 0}}});
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, zero)
        .await;
    let client = cluster.client.clone();
    let body = fixtures::with(
        fixtures::call(json!({"s": 2})),
        json!({"execution_id": "in-flight"}),
    );
    let leave = async {
        wait::until("it is under way", Duration::from_secs(20), || async {
            let answer = cluster
                .client
                .get("/api/v1/agents/slow/executions/in-flight")
                .await;
            if answer.status == 200 && answer.body()["status"] == "running" {
                Ok(())
            } else {
                Err(answer.text)
            }
        })
        .await;
        let queued = cluster
            .client
            .execute_async("slow", json!({"s": 0.1}))
            .await;
        cluster.signal(Signal::SIGTERM);
        queued
    };
    let (answer, queued) = tokio::join!(client.execute_with("slow", &body), leave);
    assert_eq!(answer.ok()["result"]["output"], 2, "{}", answer.text);
    let status = cluster.ended();
    assert!(status.success(), "{status}\n{}", cluster.log());
    assert!(
        cluster.agent_processes().is_empty(),
        "{:?}",
        cluster.agent_processes()
    );

    cluster.restart().await;
    assert_eq!(
        cluster.client.execution_end("slow", &queued).await["status"],
        "completed"
    );
    assert_eq!(
        cluster.client.output("echo", json!({"a": 1})).await,
        json!({"a": 1})
    );
    assert_eq!(cluster.client.output("slow", json!({"s": 0})).await, 0);
}

/// Nobody hears that they are gone: nothing is refused, nothing is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_told_to_leave_leaves_though_database_and_bus_are_silent() {
    let shape = Shape {
        gateways: 1,
        deployers: 1,
        executors: 1,
        monitors: 1,
    };
    let options = ["PHALANX__GATEWAY__DRAIN_S", "PHALANX__EXECUTOR__DRAIN_S"]
        .into_iter()
        .fold(Options::default(), |options, name| options.set(name, "1"));
    let mut cluster = Cluster::with_bad_days(shape, options).await;
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    let wires = cluster.backing.as_ref().expect("a cluster").wires();
    wires.nats.hold();
    wires.postgres.hold();
    for name in ["gateway-1", "deployer-1", "executor-1", "monitor-1"] {
        cluster.part(name).signal(Signal::SIGTERM);
    }
    for name in ["gateway-1", "deployer-1", "executor-1", "monitor-1"] {
        let status = cluster.part(name).ended();
        assert!(status.success(), "{name}: {status}\n{}", cluster.log());
    }
    assert!(
        cluster.agent_processes().is_empty(),
        "{:?}",
        cluster.agent_processes()
    );
    let wires = cluster.backing.as_ref().expect("a cluster").wires();
    wires.nats.mend();
    wires.postgres.mend();
    for name in ["gateway-1", "deployer-1", "executor-1", "monitor-1"] {
        cluster.part(name).spawn();
    }
    cluster.all_ready().await;
    let input = json!({"a": 1});
    assert_eq!(cluster.client.output("echo", input.clone()).await, input);
}
