//! /agents/{id}/callbacks
mod list;
mod redeliver;

use phalanx_tests::{Client, Cluster, Options, Value, json, receiver::SENT_WITHIN, wait};

pub const SOURCE: &str = "def handler(input):\n    print('ran')\n    if input.get('bad'):\n        raise ValueError('bad')\n    return input\n";

/// Webhooks may go to this host.
pub fn open() -> Options {
    Options::default().set("PHALANX__WEBHOOKS__PRIVATE", "127.0.0.0/8:*")
}

/// A world with an agent, and its webhook secret.
pub async fn start() -> (Cluster, String) {
    let cluster = Cluster::start_with(open()).await;
    let accepted = cluster
        .client
        .deploy_source("agent", SOURCE, json!({}))
        .await;
    let secret = accepted["security"]["webhook_secret"].as_str();
    let secret = secret.expect("shown once").to_owned();
    (cluster, secret)
}

/// Executes it, and somebody is told.
pub async fn told(client: &Client, id: &str, url: &str) -> Value {
    let body = json!({"execution_id": id, "execution_options": {"callback_url": url}});
    client.execute_with("agent", &body).await.ok()
}

/// The one callback of an execution, once it is so.
pub async fn callback_that(
    client: &Client,
    execution: &str,
    what: &str,
    is: impl Fn(&Value) -> bool,
) -> Value {
    let path = format!("/api/v1/agents/agent/callbacks?execution_id={execution}");
    wait::until(
        &format!("the callback of {execution} is {what}"),
        SENT_WITHIN,
        || async {
            let list = client.get(&path).await.ok();
            let all = list["callbacks"].as_array().expect("a list");
            assert!(all.len() <= 1, "{list:#}");
            match all.first() {
                Some(one) if is(one) => Ok(one.clone()),
                _ => Err(format!("{list:#}")),
            }
        },
    )
    .await
}

pub async fn callback_is(client: &Client, execution: &str, status: &str) -> Value {
    callback_that(client, execution, status, |one| one["status"] == status).await
}

/// What receivers answered to each attempt.
pub fn codes(of: &Value) -> Vec<Value> {
    let attempts = of["attempts"].as_array().expect("a list");
    attempts
        .iter()
        .map(|one| one["status_code"].clone())
        .collect()
}
