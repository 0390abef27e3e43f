//! POST /agents/{id}/webhook-secret/rotate

use crate::callbacks::{callback_is, start, told};
use phalanx_tests::{
    Client, Receiver, Value, json,
    receiver::{Message, verified},
};

const PATH: &str = "/api/v1/agents/agent/webhook-secret/rotate";

async fn rotated(client: &Client, body: &Value) -> String {
    let made = client.post(PATH, body).await.ok();
    let secret = made["webhook_secret"].as_str().expect("shown once");
    assert!(secret.starts_with("whsec_"), "{made:#}");
    assert!(made["old_secret_until"].is_string());
    secret.to_owned()
}

async fn sent(client: &Client, receiver: &Receiver, id: &str) -> Vec<Message> {
    let path = format!("/{id}");
    told(client, id, &receiver.url(&path)).await;
    callback_is(client, id, "delivered").await;
    receiver.at(&path)
}

#[tokio::test]
async fn both_secrets_sign_in_the_grace() {
    let ((cluster, first), receiver) = (start().await, Receiver::start().await);
    let client = &cluster.client;
    let before = sent(client, &receiver, "before").await;
    verified(&first, &before).expect("the first");
    let second = rotated(client, &json!({})).await;
    assert_ne!(first, second);
    let meanwhile = sent(client, &receiver, "meanwhile").await;
    let signatures = meanwhile[0].headers["webhook-signature"].clone();
    let signatures: Vec<&str> = signatures.split(' ').collect();
    assert_eq!(signatures.len(), 2, "{signatures:?}");
    assert!(signatures.iter().all(|one| one.starts_with("v1,")));
    verified(&first, &meanwhile).expect("the old one still");
    verified(&second, &meanwhile).expect("the new one already");
    verified(&second, &before).expect_err("it was not there then");
    // It has leaked.
    let third = rotated(client, &json!({"grace_hours": 0})).await;
    let after = sent(client, &receiver, "after").await;
    verified(&third, &after).expect("the new one");
    for old in [&first, &second] {
        verified(old, &after).expect_err("it does not count any longer");
    }
    let faults = client
        .post(PATH, &json!({"grace_hours": 169, "x": 1}))
        .await
        .faults();
    assert_eq!(faults.len(), 2, "{faults:#?}");
    client
        .post("/api/v1/agents/nobody/webhook-secret/rotate", &json!({}))
        .await
        .refused(404, "NOT_FOUND");
    let audit = client.get("/api/v1/audit").await;
    assert!(
        audit.text.contains("webhook_secret.rotate"),
        "{}",
        audit.text
    );
    for secret in [&first, &second, &third] {
        assert!(!cluster.log().contains(secret.as_str()));
    }
}
