//! Keys that are due, that replace themselves, and that open nothing any more.

use super::world::{Answer, World};
use bus::{Bus, Limits};
use domain::{Timestamp, id::KeyId, key::Permission};
use serde_json::json;
use std::time::{Duration, Instant};

/// Every gateway refuses a revoked key within this.
const WITHIN: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(60);

/// A reader's key that is due at, and its id.
async fn due(world: &World, at: i64, auto_rotation: bool) -> (String, KeyId) {
    let id = KeyId::from_uuid(uuid::Uuid::now_v7());
    let (own, now) = (id.clone(), world.store.now().0);
    let secret = world.key_like(|new| {
        new.id = own;
        new.permissions = [Permission::AgentMonitor].into();
        new.rotate_at = Some(Timestamp(now + at));
        new.expires_at = Some(Timestamp(now + at + 86_400_000));
        new.auto_rotation = auto_rotation;
    });
    (secret.await, id)
}

async fn read(world: &World, base: &str, key: &str) -> Answer {
    let request = world.request("GET", &format!("{base}/api/v1/agents"));
    world.send(request.bearer_auth(key)).await
}

async fn rotate(world: &World, key: &str, id: &KeyId) -> Answer {
    let request = world.request("POST", &format!("/api/v1/keys/{id}/rotate"));
    world.send(request.bearer_auth(key).json(&json!({}))).await
}

#[tokio::test]
async fn a_key_that_is_due_replaces_itself_once() {
    let world = World::new().await;
    let (old, id) = due(&world, -5000, true).await;
    let told = read(&world, "", &old).await;
    assert!(told.header("deprecation").starts_with('@') && !told.header("sunset").is_empty());
    let link = told.header("link");
    assert!(
        link.ends_with(&format!(
            "/api/v1/keys/{id}/rotate>; rel=\"successor-version\""
        )),
        "{link}"
    );
    let path = link.split(['<', '>']).nth(1).expect("a link").to_owned();
    let made = world
        .send(
            world
                .request("POST", &path)
                .bearer_auth(&old)
                .json(&json!({})),
        )
        .await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.body["permissions"], json!(["agent:monitor"]));
    assert_eq!(made.body["auto_rotation"], true);
    let new = made.body["api_key"].as_str().expect("a secret");
    let fresh = read(&world, "", new).await;
    assert_eq!((fresh.status, fresh.header("deprecation")), (200, ""));
    // The old one works on for its grace and says so, and has no other successor.
    let grace = read(&world, "", &old).await;
    assert_eq!((grace.status, grace.header("link")), (200, ""));
    assert!(!grace.header("deprecation").is_empty());
    let twice = rotate(&world, &old, &id).await;
    assert_eq!((twice.status, twice.code()), (409, "CONFLICT"));
    let audit = world.get("/api/v1/audit").await.body;
    let records = audit["records"].as_array().expect("a list");
    let outcomes: Vec<_> = records
        .iter()
        .filter(|one| one["action"] == "key.rotate")
        .map(|one| &one["outcome"])
        .collect();
    assert_eq!(outcomes, ["CONFLICT", "ok"], "{audit:#}");
}

#[tokio::test]
async fn no_other_key_replaces_itself() {
    let world = World::new().await;
    let (early, early_id) = due(&world, 86_400_000, true).await;
    let (manual, manual_id) = due(&world, -5000, false).await;
    let (ready, ready_id) = due(&world, -5000, true).await;
    assert_eq!(read(&world, "", &manual).await.header("link"), "");
    assert_eq!(read(&world, "", &early).await.header("deprecation"), "");
    for (key, id) in [
        (&early, &early_id),
        (&manual, &manual_id),
        (&ready, &manual_id),
        (&manual, &ready_id),
    ] {
        let answer = rotate(&world, key, id).await;
        assert_eq!(
            (answer.status, answer.code()),
            (403, "FORBIDDEN"),
            "{answer:?}"
        );
        let message = answer.body["error"]["message"].as_str().expect("words");
        assert!(message.contains("key:manage"), "{message}");
    }
}

#[tokio::test]
async fn a_key_that_somebody_replaced_is_deprecated_from_then_on() {
    let world = World::new().await;
    let (old, id) = due(&world, 86_400_000, true).await;
    assert_eq!(rotate(&world, &world.key, &id).await.status, 201);
    let told = read(&world, "", &old).await;
    assert!(
        told.status == 200 && told.header("deprecation").starts_with('@'),
        "{told:?}"
    );
}

/// The second gateway hears nothing of what the first one says.
#[tokio::test]
async fn a_revoked_key_opens_nothing_at_a_gateway_that_is_cut_off() {
    let mut world = World::new().await;
    let deployed = world.deploy("mine", "1.0.0").await.body;
    let deployment = deployed["deployment_id"].as_str().expect("an id");
    let second = world.second(Bus::memory(Limits::default())).await;
    let (secret, id) = due(&world, 86_400_000, true).await;
    assert_eq!(read(&world, &second, &secret).await.status, 200);
    let follow = format!("{second}/api/v1/agents/mine/deployments/{deployment}?follow=true");
    let stream = world.request("GET", &follow).bearer_auth(&secret).send();
    let mut stream = stream.await.expect("a stream");
    assert_eq!(stream.status(), 200);
    let mut ended =
        Box::pin(async move { while stream.chunk().await.expect("a chunk").is_some() {} });
    let early = tokio::time::timeout(WITHIN / 2, &mut ended).await;
    assert!(early.is_err(), "it goes on while its key is good");

    let revoked = world.delete(&format!("/api/v1/keys/{id}")).await;
    assert_eq!(revoked.status, 200, "{revoked:?}");
    let since = Instant::now();
    loop {
        let sent = since.elapsed();
        let answer = read(&world, &second, &secret).await;
        if answer.status == 401 {
            break;
        }
        assert!(sent < WITHIN, "it opens after {sent:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // And who followed something by it follows no longer.
    tokio::time::timeout(PATIENCE, ended)
        .await
        .expect("the stream ends");
}
