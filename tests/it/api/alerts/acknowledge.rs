//! POST /alerts/{id}/acknowledge

use super::{alert_that_is, eager, put, run, start};
use phalanx_tests::{Receiver, json};

#[tokio::test]
async fn who_takes_it_is_told_and_nobody_else() {
    let (cluster, receiver) = (start().await, Receiver::start().await);
    let client = &cluster.client;
    // The second level is a good while off: a slow machine gets there in time to take it.
    let policy = eager(&json!({
        "level_1": {"after_minutes": 0, "webhooks": [receiver.url("/one")]},
        "level_2": {"after_minutes": 10, "webhooks": [receiver.url("/two")]},
    }));
    put(client, "", &policy).await.ok();
    run(client, true, 6).await;
    receiver.first("/one", "alert.escalated").await;
    let alert = alert_that_is(client, "escalated").await;
    let url = format!(
        "/api/v1/alerts/{}/acknowledge",
        alert["alert_id"].as_str().expect("an id")
    );
    let faults = client
        .post(&url, &json!({"note": 5, "nota": "x"}))
        .await
        .faults();
    assert_eq!(faults.len(), 2, "{faults:#?}");
    let taken = client.post(&url, &json!({"note": "on it"})).await.ok();
    assert_eq!(
        (taken["status"].as_str(), taken["note"].as_str()),
        (Some("acknowledged"), Some("on it"))
    );
    assert!(
        taken["acknowledged_by"]
            .as_str()
            .is_some_and(|by| by.starts_with("key_")),
        "{taken:#}"
    );
    // The first one's word stays.
    let again = client.post(&url, &json!({"note": "me too"})).await.ok();
    assert_eq!(
        (&again["note"], &again["acknowledged_at"]),
        (&taken["note"], &taken["acknowledged_at"])
    );
    run(client, false, 30).await;
    let over = alert_that_is(client, "resolved").await;
    assert_eq!(over["acknowledged_by"], taken["acknowledged_by"]);
    receiver.first("/one", "alert.resolved").await;
    assert!(receiver.messages().iter().all(|one| one.path == "/one"));
    for unknown in ["alert_00000000000000000000000000000000", "x"] {
        client
            .post(&format!("/api/v1/alerts/{unknown}/acknowledge"), &json!({}))
            .await
            .refused(404, "NOT_FOUND");
    }
    let noted = client.get("/api/v1/audit").await.ok().to_string();
    assert!(
        noted.contains("alert.acknowledge") && noted.contains("alert_policy.replace"),
        "{noted}"
    );
}

#[tokio::test]
async fn what_nobody_took_in_time_cannot_be_taken() {
    let cluster = start().await;
    let client = &cluster.client;
    put(client, "", &eager(&json!({}))).await.ok();
    run(client, true, 6).await;
    let alert = alert_that_is(client, "firing").await;
    run(client, false, 30).await;
    alert_that_is(client, "resolved").await;
    let url = format!(
        "/api/v1/alerts/{}/acknowledge",
        alert["alert_id"].as_str().expect("an id")
    );
    client.post(&url, &json!({})).await.refused(409, "CONFLICT");
}
