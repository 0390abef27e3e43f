//! POST /keys/{id}/rotate

use super::{UNKNOWN, make, reader};
use phalanx_tests::{Cluster, json, wait};
use std::time::Duration;

#[tokio::test]
async fn both_work_until_the_old_one_ends() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (made, old) = make(client, &reader()).await;
    let id = made["key_id"].as_str().expect("an id");
    let rotate = format!("/api/v1/keys/{id}/rotate");
    let answer = client.post(&rotate, &json!({})).await;
    assert_eq!(answer.status, 201, "{:#}", answer.body());
    let body = answer.body();
    assert_eq!(
        json!([body["name"], body["permissions"], body["auto_rotation"]]),
        json!([made["name"], made["permissions"], true])
    );
    assert_ne!(body["key_id"], made["key_id"]);
    let new = client.with_key(body["api_key"].as_str().expect("a secret"));
    old.get("/api/v1/agents").await.ok();
    new.get("/api/v1/agents").await.ok();
    let list = client.get("/api/v1/keys").await.ok();
    let kept = list["keys"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|key| key["key_id"] == id);
    assert_eq!(kept.expect("the old one")["replaced_by"], body["key_id"]);
    client
        .post(&rotate, &json!({}))
        .await
        .refused(409, "CONFLICT");
}

#[tokio::test]
async fn without_grace_the_old_one_ends_at_once() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (made, old) = make(client, &reader()).await;
    old.get("/api/v1/agents").await.ok();
    let rotate = format!(
        "/api/v1/keys/{}/rotate",
        made["key_id"].as_str().expect("an id")
    );
    assert_eq!(
        client.post(&rotate, &json!({"grace_days": 0})).await.status,
        201
    );
    wait::until("the old one ends", Duration::from_secs(10), || async {
        let answer = old.get("/api/v1/agents").await;
        (answer.status == 401)
            .then_some(())
            .ok_or_else(|| answer.status.to_string())
    })
    .await;
    client
        .post(&rotate, &json!({"grace_days": 31}))
        .await
        .faults();
    let unknown = format!("/api/v1/keys/{UNKNOWN}/rotate");
    client
        .post(&unknown, &json!({}))
        .await
        .refused(404, "NOT_FOUND");
}
