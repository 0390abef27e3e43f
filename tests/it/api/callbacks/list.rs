//! GET /agents/{id}/callbacks

use super::{SOURCE, callback_is, callback_that, codes, start, told};
use phalanx_tests::{Cluster, Receiver, Value, json, receiver::verified};

/// RFC 3339 to milliseconds, of one day.
fn millis(time: &Value) -> i64 {
    let text = time.as_str().expect("a time");
    let (_, clock) = text.split_once('T').expect("RFC 3339");
    let parts: Vec<f64> = clock
        .trim_end_matches('Z')
        .split(':')
        .map(|part| part.parse().expect("a number"))
        .collect();
    ((parts[0] * 3600.0 + parts[1] * 60.0 + parts[2]) * 1000.0) as i64
}

#[tokio::test]
async fn every_end_is_told_once_and_signed() {
    let ((cluster, secret), receiver) = (start().await, Receiver::start().await);
    let client = &cluster.client;
    let url = receiver.url("/end");
    // Nobody asked.
    client
        .execute_with("agent", &json!({"execution_id": "silent"}))
        .await
        .ok();
    let body = |id: &str, bad: bool, background: bool| {
        json!({"execution_id": id, "input_data": {"parameters": {"bad": bad}},
            "execution_options": {"async": background, "callback_url": url, "retry_config": {"max_retries": 0}}})
    };
    let accepted = client
        .execute_with("agent", &body("async", false, true))
        .await
        .ok();
    assert_eq!(accepted["callback_url"], url.as_str());
    client
        .execute_with("agent", &body("sync", false, false))
        .await
        .ok();
    client
        .execute_with("agent", &body("failed", true, true))
        .await
        .ok();
    // Asked for once more, it is the same one.
    client
        .execute_with("agent", &body("sync", false, false))
        .await
        .ok();
    for (id, event) in [
        ("async", "execution.completed"),
        ("sync", "execution.completed"),
        ("failed", "execution.failed"),
    ] {
        let one = callback_is(client, id, "delivered").await;
        assert_eq!((&one["event"], &one["url"]), (&json!(event), &json!(url)));
        assert_eq!(codes(&one), [204], "{one:#}");
        assert!(one["next_attempt_at"].is_null());
        let found: Vec<_> = receiver
            .at("/end")
            .into_iter()
            .filter(|message| message.document()["execution_id"] == id)
            .collect();
        assert_eq!(found.len(), 1, "{found:#?}");
        let message = &found[0];
        assert_eq!(message.document(), client.execution("agent", id).await);
        assert_eq!(message.headers["webhook-id"], one["callback_id"]);
        assert_eq!(message.headers["content-type"], "application/json");
        assert!(!message.headers.contains_key("authorization"));
    }
    verified(&secret, &receiver.messages()).expect("every signature is good");
    let mut forged = receiver.messages()[0].clone();
    forged.body = forged.body.replace("async", "other");
    forged.body.push(' ');
    verified(&secret, &[forged]).expect_err("a body that was changed is not ours");

    let path = "/api/v1/agents/agent/callbacks";
    let list = client.get(&format!("{path}?limit=2")).await.ok();
    assert_eq!(list["pagination"]["total"], 3, "{list:#}");
    assert_eq!(list["callbacks"].as_array().map(Vec::len), Some(2));
    let none = client.get(&format!("{path}?status=pending")).await.ok();
    assert_eq!(none["pagination"]["total"], 0);
    let faults = client
        .get(&format!("{path}?status=loud&x=1"))
        .await
        .faults();
    assert_eq!(faults.len(), 2, "{faults:#?}");
    client
        .get("/api/v1/agents/nobody/callbacks")
        .await
        .refused(404, "NOT_FOUND");
}

#[tokio::test]
async fn who_is_busy_is_asked_later_and_nobody_is_followed() {
    let ((cluster, secret), receiver) = (start().await, Receiver::start().await);
    let client = &cluster.client;
    receiver.answers("/busy", &["503 Busy\r\nretry-after: 1800"]);
    receiver.answers(
        "/moved",
        &["302 Found\r\nlocation: /elsewhere", "204 No Content"],
    );
    told(client, "busy", &receiver.url("/busy")).await;
    told(client, "moved", &receiver.url("/moved")).await;
    let tried = |one: &Value| !codes(one).is_empty();
    let busy = callback_that(client, "busy", "tried", tried).await;
    assert_eq!(
        (&busy["status"], codes(&busy)),
        (&json!("pending"), vec![json!(503)])
    );
    let day = 24 * 3600 * 1000;
    let waits = millis(&busy["next_attempt_at"]) - millis(&busy["attempts"][0]["at"]);
    let waits = waits.rem_euclid(day);
    assert!((1_800_000..1_900_000).contains(&waits), "{waits}: {busy:#}");
    let moved = callback_is(client, "moved", "delivered").await;
    assert_eq!(codes(&moved), [302, 204]);
    assert!(receiver.at("/elsewhere").is_empty());
    let twice = receiver.at("/moved");
    assert_eq!(
        twice[0].headers["webhook-id"],
        twice[1].headers["webhook-id"]
    );
    assert_eq!(twice[0].body, twice[1].body);
    verified(&secret, &twice).expect("signed anew with every attempt");
}

#[tokio::test]
async fn who_is_gone_is_sent_nothing_more() {
    let ((cluster, _), receiver) = (start().await, Receiver::start().await);
    let client = &cluster.client;
    let url = receiver.url("/gone");
    receiver.answers("/gone", &["410 Gone", "204 No Content"]);
    told(client, "first", &url).await;
    let first = callback_is(client, "first", "disabled").await;
    assert_eq!(codes(&first), [410]);
    told(client, "second", &url).await;
    let second = callback_is(client, "second", "disabled").await;
    assert_eq!(codes(&second).len(), 0, "{second:#}");
    // Another receiver on the same host is none of its business.
    told(client, "other", &receiver.url("/other")).await;
    callback_is(client, "other", "delivered").await;
    assert_eq!(receiver.at("/gone").len(), 1);
    let id = second["callback_id"].as_str().expect("an id");
    let path = format!("/api/v1/agents/agent/callbacks/{id}/redeliver");
    client.post(&path, &json!({})).await.ok();
    callback_is(client, "second", "delivered").await;
    told(client, "third", &url).await;
    callback_is(client, "third", "delivered").await;
}

#[tokio::test]
async fn one_that_never_answers_holds_up_nobody() {
    let ((cluster, _), slow) = (start().await, Receiver::start().await);
    let (client, quick) = (&cluster.client, Receiver::start().await);
    slow.answers("/slow", &["never"]);
    for n in 0..12 {
        told(client, &format!("slow-{n}"), &slow.url("/slow")).await;
    }
    slow.arrived("/slow", 4).await;
    told(client, "quick", &quick.url("/quick")).await;
    let one = callback_is(client, "quick", "delivered").await;
    let took = millis(&one["attempts"][0]["at"]) - millis(&one["created_at"]);
    let took = took.rem_euclid(24 * 3600 * 1000);
    assert!(
        took < 10_000,
        "a receiver that is up waited {took} ms: {one:#}"
    );
    let failed = |one: &Value| !one["attempts"][0]["error"].is_null();
    let one = callback_that(client, "slow-0", "given up for now", failed).await;
    assert_eq!(
        (&one["status"], codes(&one)),
        (&json!("pending"), vec![json!(null)])
    );
}

#[tokio::test]
async fn what_is_not_public_is_refused_when_asked_and_when_sent() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    client.deploy_source("agent", SOURCE, json!({})).await;
    for url in [
        "http://hooks.example.org/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://[2002:7f00:1::]/",
        "https://[fe80::1%25eth0]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://localhost/",
        "https://localhost./",
        "https://127.0.0.1./",
        "https://①②⑦.⓪.⓪.①/",
        "https://user@hooks.example.org/",
        "https://user:word@hooks.example.org/",
        "https://hooks.example.org:22/",
        "https://hooks.example.org:6379/",
        "file:///etc/passwd",
        "hooks.example.org",
    ] {
        for background in [false, true] {
            let options = json!({"async": background, "callback_url": url});
            let body = json!({"execution_options": options});
            let faults = client.execute_with("agent", &body).await.faults();
            assert_eq!(faults.len(), 1, "{url}: {faults:#?}");
            assert!(
                faults[0].starts_with("execution_options.callback_url: "),
                "{faults:#?}"
            );
        }
    }
    let ran = client.get("/api/v1/agents/agent/executions").await.ok();
    assert_eq!(ran["pagination"]["total"], 0, "{ran:#}");
    // Names are judged by what they resolve to when it is sent; of what that is, or whether it is, nothing is told.
    let mut words = Vec::new();
    for (id, url) in [
        ("loopback", "https://ip6-localhost:8443/"),
        ("nowhere", "https://nowhere.invalid/"),
    ] {
        told(client, id, url).await;
        let tried = |one: &Value| !codes(one).is_empty();
        let one = callback_that(client, id, "tried", tried).await;
        assert_eq!(codes(&one), [json!(null)], "{one:#}");
        words.push(one["attempts"][0]["error"].clone());
    }
    assert_eq!(words[0], words[1]);
    assert_eq!(
        words[0],
        "the receiver's host has no address that webhooks may go to"
    );
}
