//! GET /alerts

use super::{SOURCE, alert_that_is, eager, open, put, run, start};
use phalanx_tests::{
    Client, Cluster, Receiver, Value, json,
    receiver::{SENT_WITHIN, verified},
    wait,
};

/// The notifications of the agent's one alert, once those of these URLs are so: URL and status.
async fn notified(client: &Client, wanted: &[(&str, &str)]) -> Value {
    wait::until("webhooks are sent", SENT_WITHIN, || async {
        let list = client.get("/api/v1/alerts").await.ok();
        let sent = list["alerts"][0]["notifications"].clone();
        let is = |(url, status): &(&str, &str)| {
            let all = sent.as_array().into_iter().flatten();
            all.clone()
                .any(|one| one["url"] == *url && one["status"] == *status)
        };
        if wanted.iter().all(is) {
            Ok(sent)
        } else {
            Err(format!("{list:#}"))
        }
    })
    .await
}

#[tokio::test]
async fn rises_with_figures_escalates_and_is_over() {
    let (cluster, receiver) = (start().await, Receiver::start().await);
    let client = &cluster.client;
    assert_eq!(
        client.get("/api/v1/alerts").await.ok()["pagination"]["total"],
        0
    );
    let (one, gone, two, three) = (
        receiver.url("/one"),
        receiver.url("/gone"),
        receiver.url("/two"),
        receiver.url("/three"),
    );
    receiver.answers("/one", &["503 Busy", "204 No Content"]);
    receiver.answers("/gone", &["410 Gone"]);
    // Nobody is followed elsewhere.
    receiver.answers(
        "/two",
        &["302 Found\r\nlocation: /elsewhere", "204 No Content"],
    );
    let policy = eager(&json!({
        "level_1": {"after_minutes": 0, "webhooks": [one, gone]},
        "level_2": {"after_minutes": 0.05, "webhooks": [two]},
        "level_3": {"after_minutes": 1440, "webhooks": [three]},
    }));
    let secret = put(client, "", &policy).await.ok()["webhook_secret"]
        .as_str()
        .expect("shown once")
        .to_owned();
    run(client, true, 6).await;
    let alert = alert_that_is(client, "escalated").await;
    assert_eq!(
        (alert["rule"].as_str(), alert["agent_id"].as_str()),
        (Some("error_rate"), Some("agent"))
    );
    let figures = &alert["figures"];
    assert_eq!(
        (figures["value"].as_f64(), figures["threshold"].as_f64()),
        (Some(1.0), Some(0.5))
    );
    assert!(
        (4..=6).contains(&figures["samples"].as_u64().expect("a count")),
        "{figures}"
    );
    let first = receiver.first("/one", "alert.escalated").await;
    assert_eq!(first.document()["data"]["figures"], *figures);
    assert_eq!(first.document()["data"]["alert_id"], alert["alert_id"]);
    receiver.first("/two", "alert.escalated").await;
    let sent = notified(
        client,
        &[
            (&one, "delivered"),
            (&gone, "disabled"),
            (&two, "delivered"),
        ],
    )
    .await;
    let of = |url: &str| {
        sent.as_array()
            .expect("a list")
            .iter()
            .find(|one| one["url"] == url)
            .cloned()
            .expect(url)
    };
    let codes = |of: &Value| -> Vec<Value> {
        of["attempts"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one["status_code"].clone())
            .collect()
    };
    assert_eq!(codes(&of(&one)), [503, 204]);
    assert_eq!(codes(&of(&gone)), [410]);
    assert_eq!(codes(&of(&two)), [302, 204]);
    // The same message with every attempt, signed anew.
    let attempts = receiver.of("/one", "alert.escalated");
    assert_eq!(
        attempts[0].headers["webhook-id"],
        attempts[1].headers["webhook-id"]
    );
    assert_eq!(
        of(&one)["id"].as_str(),
        Some(attempts[0].headers["webhook-id"].as_str())
    );

    run(client, false, 30).await;
    let over = alert_that_is(client, "resolved").await;
    assert!(over["resolved_at"].is_string(), "{over:#}");
    for path in ["/one", "/two"] {
        receiver.first(path, "alert.resolved").await;
    }
    let all = receiver.messages();
    assert!(
        all.iter()
            .all(|one| !["/three", "/elsewhere"].contains(&one.path.as_str())),
        "{all:#?}"
    );
    assert!(
        receiver.of("/gone", "alert.resolved").is_empty(),
        "it said that it is gone"
    );
    verified(&secret, &all).expect("every signature is good");
    let mut changed = all[0].clone();
    changed.body.push(' ');
    verified(&secret, &[changed]).expect_err("a body that was changed is not ours");

    let count = |status: &'static str| async move {
        client
            .get(&format!("/api/v1/alerts?status={status}"))
            .await
            .ok()["pagination"]["total"]
            .clone()
    };
    assert_eq!(
        (count("resolved").await, count("firing").await),
        (json!(1), json!(0))
    );
    let faults = client
        .get("/api/v1/alerts?status=loud&agent_id=A&x=1")
        .await
        .faults();
    assert_eq!(faults.len(), 3, "{faults:#?}");
}

#[tokio::test]
async fn survives_a_kill_and_catches_up_without_a_storm() {
    let (mut cluster, receiver) = (Cluster::embedded(open()).await, Receiver::start().await);
    cluster
        .client
        .deploy_source("agent", SOURCE, json!({}))
        .await;
    let one = receiver.url("/1");
    let level = |n: u32, after: f64| json!({"after_minutes": after, "webhooks": [receiver.url(&format!("/{n}"))]});
    let policy = eager(
        &json!({"level_1": level(1, 0.0), "level_2": level(2, 0.2), "level_3": level(3, 0.25)}),
    );
    put(&cluster.client, "?agent_id=agent", &policy).await.ok();
    run(&cluster.client, true, 6).await;
    receiver.first("/1", "alert.escalated").await;
    notified(&cluster.client, &[(&one, "delivered")]).await;
    let before = alert_that_is(&cluster.client, "escalated").await;
    cluster.kill9();
    // Away for longer than the levels wait, by the clock: both are due when it is back.
    cluster.parts[0].clock_apart_s = Some(90);
    cluster.restart().await;
    for path in ["/2", "/3"] {
        receiver.first(path, "alert.escalated").await;
    }
    let after = alert_that_is(&cluster.client, "escalated").await;
    assert_eq!(
        (
            &before["alert_id"],
            &before["figures"],
            &before["opened_at"]
        ),
        (&after["alert_id"], &after["figures"], &after["opened_at"])
    );
    assert_eq!(after["level"], 3);
    for path in ["/1", "/2", "/3"] {
        assert_eq!(
            receiver.of(path, "alert.escalated").len(),
            1,
            "{path}: {:#?}",
            receiver.messages()
        );
    }
}
