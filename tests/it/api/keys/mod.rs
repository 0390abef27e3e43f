//! /keys
mod change;
mod create;
mod list;
mod revoke;
mod rotate;

use phalanx_tests::{Client, Value, json};

/// A new key of these permissions: what was answered, and a client that holds it.
async fn make(client: &Client, body: &Value) -> (Value, Client) {
    let answer = client.post("/api/v1/keys", body).await;
    assert_eq!(answer.status, 201, "{:#}", answer.body());
    let made = answer.body();
    let holder = client.with_key(made["api_key"].as_str().expect("a secret"));
    (made, holder)
}

fn reader() -> Value {
    json!({"name": "a reader", "permissions": ["agent:monitor"]})
}

/// Not its own: an installation has one account until there are endpoints for more.
const UNKNOWN: &str = "key_00000000000000000000000000000000";
