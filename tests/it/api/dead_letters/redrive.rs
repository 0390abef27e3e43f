//! POST /dead-letters/{id}/redrive

use super::World;
use phalanx_tests::{Value, json};

fn redrive(letter: &Value) -> String {
    let id = letter["id"].as_str().expect("a name");
    format!("/api/v1/dead-letters/{id}/redrive")
}

#[tokio::test]
async fn back_on_its_lane_where_the_executor_takes_it_again() {
    let world = World::start().await;
    world.poison();
    let letter = world.letters(1).await.remove(0);
    let back = world.client().post(&redrive(&letter), &json!({})).await;
    assert_eq!(back.ok(), letter);
    // It cannot be read this time either.
    let again = world.letters(1).await.remove(0);
    assert_ne!(again["id"], letter["id"]);
    let late = world.client().post(&redrive(&letter), &json!({})).await;
    late.refused(404, "NOT_FOUND");
}

#[tokio::test]
async fn not_once_its_execution_has_ended() {
    let world = World::start().await;
    let client = world.client();
    let mut nats = world.nats();
    nats.subscribe(&format!("phalanx.v1.default.{}", world.lane));
    let id = client.execute_async("echo", json!({})).await;
    let message = nats.next();
    client.execution_end("echo", &id).await;
    nats.publish(&format!("phalanx.v1.default.dead.{}", world.lane), &message);
    let letter = world.letters(1).await.remove(0);
    assert_eq!(
        json!([letter["agent_id"], letter["execution_id"], letter["status"]]),
        json!(["echo", id, "completed"])
    );
    let refused = client.post(&redrive(&letter), &json!({})).await;
    refused.refused(409, "CONFLICT");
    assert_eq!(world.letters(1).await, [letter]);
}
