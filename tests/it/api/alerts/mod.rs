//! /alerts
mod acknowledge;
mod delete_policy;
mod list;
mod policy;
mod replace_policy;

use phalanx_tests::{Answer, Client, Cluster, Options, Value, json, receiver::SENT_WITHIN, wait};
use reqwest::Method;

const SOURCE: &str = "def handler(input):\n    if input.get('bad'):\n        raise ValueError('bad')\n    return 1\n";

/// Webhooks may go to this host.
fn open() -> Options {
    Options::default().set("PHALANX__WEBHOOKS__PRIVATE", "127.0.0.0/8:*")
}

async fn start() -> Cluster {
    let cluster = Cluster::start_with(open()).await;
    cluster
        .client
        .deploy_source("agent", SOURCE, json!({}))
        .await;
    cluster
}

async fn put(client: &Client, query: &str, policy: &Value) -> Answer {
    let request = client.request(Method::PUT, &format!("/api/v1/alerts/policy{query}"));
    client.send(request.json(policy)).await.expect("an answer")
}

/// Failures raise one at once, and nothing else does; it is over as soon as they are few.
fn eager(escalation: &Value) -> Value {
    let off = json!({"enabled": false});
    json!({
        "rules": {
            "error_rate": {"threshold": 0.5, "for_minutes": 0, "minimum_samples": 4},
            "latency": off, "availability": off, "resource": off,
        },
        "escalation": escalation,
        "resolve_after_minutes": 0,
    })
}

async fn run(client: &Client, bad: bool, times: u32) {
    for _ in 0..times {
        client.execute("agent", json!({"bad": bad})).await;
    }
}

/// The agent's one alert, once it is so.
async fn alert_that_is(client: &Client, status: &str) -> Value {
    wait::until(&format!("an alert is {status}"), SENT_WITHIN, || async {
        let list = client.get("/api/v1/alerts?agent_id=agent").await.ok();
        let alerts = list["alerts"].as_array().expect("a list");
        assert!(alerts.len() <= 1, "{list:#}");
        match alerts.first() {
            Some(alert) if alert["status"] == status => Ok(alert.clone()),
            _ => Err(format!("{list:#}")),
        }
    })
    .await
}
