//! POST /agents/{id}/execute with `async`

use phalanx_tests::{Cluster, fixtures, json};
use std::time::Duration;

#[tokio::test]
async fn accepted_at_once_and_ended_once() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    let body = fixtures::with(
        fixtures::call(json!({"a": 1})),
        json!({"execution_options": {"async": true}}),
    );
    let accepted = cluster.client.execute_with("echo", &body).await.ok();
    assert_eq!(accepted["status"], "queued", "{accepted:#}");
    assert!(
        accepted["estimated_completion"].is_string() && accepted.get("callback_url").is_some(),
        "{accepted:#}"
    );
    let url = accepted["status_url"].as_str().expect("a URL");
    cluster.client.get(url).await.ok();
    let end = cluster
        .client
        .execution_end("echo", accepted["execution_id"].as_str().expect("an id"))
        .await;
    assert_eq!(
        (&end["status"], &end["result"]["output"]),
        (&json!("completed"), &json!({"a": 1})),
        "{end:#}"
    );
    assert_eq!(end["attempts"].as_array().map(Vec::len), Some(1), "{end:#}");
}

#[tokio::test]
async fn what_fails_is_tried_again_and_every_attempt_is_kept() {
    let cluster = Cluster::start().await;
    let source = "
import os
def handler(input, context):
    if context.attempt < input.get('good_at', 99):
        if input.get('crash'):
            os._exit(7)
        raise ValueError(f'attempt {context.attempt}')
    return context.attempt
";
    cluster
        .client
        .deploy_source("flaky", source, json!({}))
        .await;
    let call = |parameters, retries: u32| {
        let options = json!({"execution_options": {"async": true, "retry_config": {"max_retries": retries, "retry_delay": 0}}});
        fixtures::with(fixtures::call(parameters), options)
    };
    let ended = async |parameters, retries| {
        let accepted = cluster
            .client
            .execute_with("flaky", &call(parameters, retries))
            .await
            .ok();
        cluster
            .client
            .execution_end("flaky", accepted["execution_id"].as_str().expect("an id"))
            .await
    };
    let good = ended(json!({"good_at": 3}), 3).await;
    assert_eq!(
        (&good["status"], &good["result"]["output"], &good["attempt"]),
        (&json!("completed"), &json!(3), &json!(3)),
        "{good:#}"
    );
    let attempts = good["attempts"].as_array().expect("a list");
    assert_eq!(attempts.len(), 3, "{good:#}");
    assert!(
        attempts[0]["error"]["message"]
            .as_str()
            .expect("text")
            .contains("attempt 1"),
        "{good:#}"
    );
    assert!(attempts[2]["error"].is_null(), "{good:#}");

    let crashed = ended(json!({"good_at": 2, "crash": true}), 3).await;
    assert_eq!(
        (&crashed["status"], &crashed["attempts"][0]["error"]["code"]),
        (&json!("completed"), &json!("INSTANCE_CRASHED")),
        "{crashed:#}"
    );

    let bad = ended(json!({}), 2).await;
    assert_eq!(
        (&bad["status"], &bad["attempt"]),
        (&json!("failed"), &json!(3)),
        "{bad:#}"
    );
    let none = ended(json!({}), 0).await;
    assert_eq!(
        (&none["status"], &none["attempt"]),
        (&json!("failed"), &json!(1)),
        "{none:#}"
    );

    // A sync caller has its handler repeated only when it says so.
    let sync = cluster.client.execute("flaky", json!({"good_at": 2})).await;
    assert_eq!(
        (&sync["status"], &sync["attempt"]),
        (&json!("failed"), &json!(1)),
        "{sync:#}"
    );
    let asked = fixtures::with(
        call(json!({"good_at": 2}), 1),
        json!({"execution_options": {"async": false}}),
    );
    assert_eq!(
        cluster.client.execute_with("flaky", &asked).await.ok()["result"]["output"],
        2
    );
}

#[tokio::test]
async fn the_pause_between_attempts_grows() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source(
            "bad",
            "def handler(input):\n    raise ValueError('no')\n",
            json!({}),
        )
        .await;
    let options = json!({"execution_options": {"async": true, "retry_config": {"max_retries": 2, "retry_delay": 1, "backoff_multiplier": 2.0}}});
    let accepted = cluster
        .client
        .execute_with("bad", &fixtures::with(fixtures::call(json!({})), options))
        .await
        .ok();
    let end = cluster
        .client
        .execution_end("bad", accepted["execution_id"].as_str().expect("an id"))
        .await;
    let at = |n: usize| {
        let text = end["attempts"][n]["started_at"]
            .as_str()
            .unwrap_or_else(|| panic!("{end:#}"));
        // hh:mm:ss.mmm of one run: enough to subtract.
        let part = |from: usize, to: usize| text[from..to].parse::<f64>().expect("digits");
        part(11, 13) * 3600.0 + part(14, 16) * 60.0 + part(17, 23)
    };
    let (first, second) = (
        (at(1) - at(0)).rem_euclid(86_400.0),
        (at(2) - at(1)).rem_euclid(86_400.0),
    );
    // Jitter may shorten a pause; the second is the longer by its factor.
    assert!(
        first > 0.4 && first < 4.0 && second > 0.9 && second < 8.0,
        "{first} {second}"
    );
}

#[tokio::test]
async fn high_priority_goes_first_and_low_is_not_forgotten() {
    let cluster = Cluster::start().await;
    let source = "import time\norder = []\ndef handler(input):\n    if input.get('list'):\n        return order\n    time.sleep(input.get('sleep', 0.01))\n    order.append(input['n'])\n";
    let one = json!({
        "agent_code": {"configuration": {"concurrent_executions": 1}},
        "deployment_config": {"auto_scaling": {"max_instances": 1}},
    });
    cluster.client.deploy_source("agent", source, one).await;
    let send = async |n: u32, priority: &str, sleep: f64| {
        let options = json!({"execution_options": {"async": true, "priority": priority}});
        let accepted = cluster
            .client
            .execute_with(
                "agent",
                &fixtures::with(fixtures::call(json!({"n": n, "sleep": sleep})), options),
            )
            .await
            .ok();
        accepted["execution_id"].as_str().expect("an id").to_owned()
    };
    let first = send(0, "normal", 1.5).await;
    cluster
        .client
        .execution_status("agent", &first, "running")
        .await;
    let mut ids = Vec::new();
    for (n, priority) in [
        (1, "low"),
        (2, "normal"),
        (3, "high"),
        (4, "low"),
        (5, "high"),
        (6, "normal"),
    ] {
        ids.push(send(n, priority, 0.01).await);
    }
    for id in &ids {
        assert_eq!(
            cluster.client.execution_end("agent", id).await["status"],
            "completed"
        );
    }
    assert_eq!(
        cluster.client.output("agent", json!({"list": true})).await,
        json!([0, 3, 5, 2, 6, 1, 4])
    );
}

#[tokio::test]
async fn its_time_runs_out_for_it_as_well() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source(
            "slow",
            "import time\ndef handler(input):\n    time.sleep(60)\n",
            json!({}),
        )
        .await;
    let body = fixtures::with(
        fixtures::call(json!({})),
        json!({"execution_options": {"async": true, "timeout": 1}}),
    );
    let accepted = cluster.client.execute_with("slow", &body).await.ok();
    let end = tokio::time::timeout(
        Duration::from_secs(20),
        cluster
            .client
            .execution_end("slow", accepted["execution_id"].as_str().expect("an id")),
    )
    .await;
    let end = end.expect("soon after its second");
    assert_eq!(
        (&end["status"], &end["result"]["error"]["code"]),
        (&json!("timeout"), &json!("HANDLER_TIMEOUT")),
        "{end:#}"
    );
}
