//! `kill -9` of whoever drives a rollout, at every step of it: the next process goes on at that step.

use phalanx_tests::{
    Client, Cluster, Options, Shape, Value, fixtures, json,
    rollouts::{source, update},
    wait,
};
use std::time::Duration;

/// Ends it as a power cut would, and starts it again: the deployer, where it is a process of its own, else everything.
async fn killed(cluster: &mut Cluster) {
    if cluster.backing.is_some() {
        let part = cluster.part("deployer-1");
        part.kill9();
        part.spawn();
        cluster.all_ready().await;
    } else {
        cluster.kill9();
        cluster.restart().await;
    }
}

/// When the phases began, and those that are over ended.
fn times(document: &Value) -> Vec<(String, String, String)> {
    let phases = document["phases"].as_array().expect("a list").iter();
    let begun = phases.filter(|phase| phase["started_at"].is_string());
    begun
        .map(|phase| {
            let word = |name: &str| phase[name].to_string();
            (word("name"), word("started_at"), word("completed_at"))
        })
        .collect()
}

/// What was over stays as it was, and what ran goes on as the same.
fn goes_on(before: &Value, after: &Value) {
    for (was, is) in times(before).iter().zip(times(after)) {
        assert_eq!((&was.0, &was.1), (&is.0, &is.1), "{after:#}");
        if was.2 != "null" {
            assert_eq!(was.2, is.2, "{after:#}");
        }
    }
}

async fn in_phase(client: &Client, path: &str, phase: &str) -> Value {
    client
        .deployment_until(path, &format!("it is in phase {phase}"), |document| {
            document["current_phase"] == phase
        })
        .await
}

#[tokio::test]
async fn a_canary_goes_on_at_the_step_where_its_deployer_was_killed() {
    let options = Options::default().set("PHALANX__DEPLOYER__WATCH_S", "600");
    let mut cluster = Cluster::start_with(options).await;
    let path = cluster.client.half_a_canary(600).await;
    // At once: somewhere before its callers move.
    killed(&mut cluster).await;
    cluster.client.share(&path, 50.0).await;

    let before = in_phase(&cluster.client, &path, "canary").await;
    killed(&mut cluster).await;
    let judged = before["rollout"]["verdicts"].as_array().map_or(0, Vec::len);
    let after = cluster
        .client
        .deployment_until(&path, "it is judged by the next process", |document| {
            let verdicts = document["rollout"]["verdicts"].as_array();
            verdicts.is_some_and(|verdicts| !verdicts.is_empty() && verdicts.len() >= judged)
                && document["updated_at"].as_str() > before["updated_at"].as_str()
        })
        .await;
    assert_eq!(
        (
            &after["current_phase"],
            &after["rollout"]["traffic_percentage"]
        ),
        (&json!("canary"), &json!(50.0)),
        "{after:#}"
    );
    goes_on(&before, &after);

    // In the middle of the shift, or a moment before or after it.
    assert_eq!(cluster.client.order(&path, "promote").await.status, 202);
    killed(&mut cluster).await;
    let shifted = cluster.client.share(&path, 100.0).await;
    goes_on(&after, &shifted);
    assert_eq!(cluster.client.output("mine", json!({})).await["v"], "2");

    cluster.client.deployment_status(&path, "deployed").await;

    // While the version before is kept warm.
    let body = update("blue_green", &source("3", "pass"), json!({}));
    let path = cluster.client.update("mine", "3.0.0", &body).await;
    cluster.client.share(&path, 100.0).await;
    let before = in_phase(&cluster.client, &path, "retire").await;
    killed(&mut cluster).await;
    let after = cluster
        .client
        .deployment_until(&path, "the watch goes on", |document| {
            document["updated_at"].as_str() > before["updated_at"].as_str()
        })
        .await;
    assert_eq!(after["status"], "deploying", "{after:#}");
    goes_on(&before, &after);

    // On the way back.
    assert_eq!(cluster.client.order(&path, "abort").await.status, 202);
    killed(&mut cluster).await;
    let end = cluster.client.deployment_status(&path, "rolled_back").await;
    goes_on(&after, &end);
    assert_eq!(cluster.client.output("mine", json!({})).await["v"], "2");
}

/// The bus is gone while callers move, the database is gone while they move back: what was begun is finished when it is there again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_in_the_middle_of_a_rollout_only_delays_it() {
    let shape = Shape {
        gateways: 2,
        deployers: 1,
        executors: 1,
        monitors: 1,
    };
    let options = Options::default().set("PHALANX__DEPLOYER__WATCH_S", "600");
    let cluster = Cluster::with_bad_days(shape, options).await;
    let wires = cluster.backing.as_ref().expect("a cluster").wires();
    let client = &cluster.client;
    let path = client.half_a_canary(600).await;
    client.share(&path, 50.0).await;

    // Nobody can be told: gateways find the new traffic by reading it.
    wires.nats.cut();
    assert_eq!(client.order(&path, "promote").await.status, 202);
    tokio::time::sleep(Duration::from_secs(2)).await;
    wires.nats.mend();
    client.share(&path, 100.0).await;
    answered_by(&cluster, "2").await;
    client.deployment_status(&path, "deployed").await;

    let body = update("blue_green", &source("3", "pass"), json!({}));
    let path = client.update("mine", "3.0.0", &body).await;
    client.share(&path, 100.0).await;
    in_phase(client, &path, "retire").await;
    answered_by(&cluster, "3").await;
    // The order is a row: written or refused, never half.
    assert_eq!(client.order(&path, "abort").await.status, 202);
    wires.postgres.cut();
    tokio::time::sleep(Duration::from_secs(3)).await;
    wires.postgres.mend();
    wait::until("the database is back", Duration::from_secs(60), || async {
        match client.try_get(&path).await {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => Err(answer.text),
            Err(error) => Err(error),
        }
    })
    .await;
    client.deployment_status(&path, "rolled_back").await;
    answered_by(&cluster, "2").await;
}

/// Every gateway sends its callers to this version: requests go to each in turn.
async fn answered_by(cluster: &Cluster, version: &str) {
    wait::until("callers have moved", Duration::from_secs(30), || async {
        for _ in 0..8 {
            let call = fixtures::call(json!({}));
            let answer = cluster.client.execute_with("mine", &call).await;
            if answer.status != 200 || answer.body()["result"]["output"]["v"] != version {
                return Err(answer.text);
            }
        }
        Ok(())
    })
    .await;
}
