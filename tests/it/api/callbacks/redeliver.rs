//! POST /agents/{id}/callbacks/{cid}/redeliver

use super::{callback_is, callback_that, codes, start, told};
use phalanx_tests::{Receiver, Value, json, receiver::verified};

#[tokio::test]
async fn is_sent_again_as_it_was() {
    let ((cluster, secret), receiver) = (start().await, Receiver::start().await);
    let client = &cluster.client;
    told(client, "e1", &receiver.url("/again")).await;
    let first = callback_is(client, "e1", "delivered").await;
    let id = first["callback_id"].as_str().expect("an id");
    let path = format!("/api/v1/agents/agent/callbacks/{id}/redeliver");
    let again = client.post(&path, &json!({})).await.ok();
    assert_eq!(again["callback_id"], first["callback_id"]);
    let twice = |one: &Value| one["status"] == "delivered" && codes(one).len() == 2;
    let one = callback_that(client, "e1", "sent twice", twice).await;
    assert_eq!(codes(&one), [204, 204]);
    let sent = receiver.at("/again");
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0].body, sent[1].body);
    assert_eq!(sent[0].headers["webhook-id"], sent[1].headers["webhook-id"]);
    verified(&secret, &sent).expect("signed");

    client
        .post(
            "/api/v1/agents/agent/callbacks/nothing/redeliver",
            &json!({}),
        )
        .await
        .refused(404, "NOT_FOUND");
    client
        .deploy_source("other", super::SOURCE, json!({}))
        .await;
    client
        .post(
            &format!("/api/v1/agents/other/callbacks/{id}/redeliver"),
            &json!({}),
        )
        .await
        .refused(404, "NOT_FOUND");
    let reader = client
        .post(
            "/api/v1/keys",
            &json!({"name": "reader", "permissions": ["agent:monitor"]}),
        )
        .await;
    let reader = client.with_key(reader.body()["api_key"].as_str().expect("a key"));
    reader.get("/api/v1/agents/agent/callbacks").await.ok();
    reader
        .post(&path, &json!({}))
        .await
        .refused(403, "FORBIDDEN");
}
