//! Dead letters: listed with their rows, put back once, of one account only. The test is the worker that gives up.

use super::world::World;
use bus::{Delivery, Message, Priority, Subject, Work, WorkOptions, typed::deployments};
use domain::{
    id::{AccountId, VersionId},
    key::Permission,
};
use proto::convert::Execute;
use serde_json::{Value, json};
use std::time::Duration;

const LETTERS: &str = "/api/v1/dead-letters";
const EXECUTE: &str = "/api/v1/agents/mine/execute";

async fn next(work: &mut Work) -> Delivery {
    let delivery = tokio::time::timeout(Duration::from_secs(20), work.next()).await;
    delivery.expect("in time").expect("not drained")
}

async fn work_of(world: &World, version: &VersionId) -> Work {
    let account = AccountId::default_account();
    let subject = Subject::work(account.as_str(), version.as_str(), Priority::Normal);
    let options = WorkOptions {
        max_in_flight: 10,
        ..WorkOptions::default()
    };
    world.bus.work(&subject, options).await.expect("work")
}

/// Async executions whose messages are dead letters now.
async fn dead(world: &World, version: &VersionId, ids: &[&str]) -> Work {
    let mut work = work_of(world, version).await;
    for id in ids {
        let body = json!({"execution_id": id, "execution_options": {"async": true}});
        assert_eq!(world.post(EXECUTE, &body).await.status, 200);
        next(&mut work).await.bury().await.expect("buried");
    }
    work
}

async fn letters(world: &World) -> Vec<Value> {
    let list = world.get(LETTERS).await;
    assert_eq!(list.status, 200, "{list:?}");
    list.body["dead_letters"]
        .as_array()
        .expect("a list")
        .clone()
}

fn redrive(letter: &Value) -> String {
    format!(
        "{LETTERS}/{}/redrive",
        letter["id"].as_str().expect("a name")
    )
}

#[tokio::test]
async fn listed_newest_first_with_their_rows() {
    let world = World::new().await;
    let version = world.serving("mine").await;
    assert!(letters(&world).await.is_empty());
    dead(&world, &version, &["one", "two", "three"]).await;
    let list = letters(&world).await;
    let first = &list[0];
    assert_eq!(
        json!([
            first["kind"],
            first["agent_id"],
            first["version"],
            first["execution_id"],
            first["deployment_id"],
            first["deliveries"],
            first["status"]
        ]),
        json!(["execution", "mine", "1.0.0", "three", null, 1, "queued"])
    );
    assert!(
        first["dead_at"]
            .as_str()
            .is_some_and(|at| at.ends_with('Z')),
        "{first}"
    );
    let page = world.get(&format!("{LETTERS}?page=2&limit=2")).await.body;
    assert_eq!(page["dead_letters"], json!([list[2]]));
    assert_eq!(
        page["pagination"],
        json!({"page": 2, "limit": 2, "total": 3, "total_pages": 2})
    );
    assert_eq!(world.get(&format!("{LETTERS}?limit=0")).await.status, 400);
}

#[tokio::test]
async fn put_back_once_and_not_after_the_end() {
    let world = World::new().await;
    let version = world.serving("mine").await;
    let mut work = dead(&world, &version, &["one"]).await;
    let letter = letters(&world).await.remove(0);
    let back = world.post(&redrive(&letter), &json!({})).await;
    assert_eq!((back.status, &back.body), (200, &letter));
    assert!(letters(&world).await.is_empty());
    let again = world.post(&redrive(&letter), &json!({})).await;
    assert_eq!((again.status, again.code()), (404, "NOT_FOUND"));
    let delivery = next(&mut work).await;
    let execute = Execute::decode(delivery.message.payload.clone()).expect("an execute");
    assert_eq!(
        (execute.execution_id.as_str(), delivery.deliveries),
        ("one", 1)
    );
    let twice = tokio::time::timeout(Duration::from_millis(200), work.next()).await;
    assert!(twice.is_err(), "it was put back twice");

    delivery.bury().await.expect("buried");
    let cancel = "/api/v1/agents/mine/executions/one/cancel";
    assert_eq!(world.post(cancel, &json!({})).await.status, 200);
    let letter = letters(&world).await.remove(0);
    assert_eq!(letter["status"], "cancelled");
    let late = world.post(&redrive(&letter), &json!({})).await;
    assert_eq!((late.status, late.code()), (409, "CONFLICT"));
    let words = late.body["error"]["message"].as_str().expect("words");
    assert!(
        words.contains("one has ended meanwhile as cancelled"),
        "{words}"
    );
    assert_eq!(
        letters(&world).await.len(),
        1,
        "it is still there to look at"
    );

    let audit = world.get("/api/v1/audit").await.body;
    let noted: Vec<_> = audit["records"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|record| record["action"] == "dead_letter.redrive")
        .map(|record| record["outcome"].as_str().expect("a word"))
        .collect();
    assert_eq!(noted, ["CONFLICT", "NOT_FOUND", "ok"]);
}

#[tokio::test]
async fn deployments_and_what_cannot_be_read() {
    let world = World::new().await;
    let accepted = world.deploy("mine", "1.0.0").await.body;
    let mut work = world
        .bus
        .work(&deployments(), WorkOptions::default())
        .await
        .expect("work");
    next(&mut work).await.bury().await.expect("buried");
    let version = world.route("mine", "1.0.0").await;
    let mut lane = work_of(&world, &version).await;
    let account = AccountId::default_account();
    let subject = Subject::work(account.as_str(), version.as_str(), Priority::Normal);
    let garbage = Message::new(&b"\xff\xff garbage"[..]);
    world
        .bus
        .enqueue(&subject, "g", garbage)
        .await
        .expect("stored");
    next(&mut lane).await.bury().await.expect("buried");
    let list = letters(&world).await;
    let told: Vec<_> = list
        .iter()
        .map(|one| {
            json!([
                one["kind"],
                one["agent_id"],
                one["deployment_id"],
                one["status"]
            ])
        })
        .collect();
    let deployment = &accepted["deployment_id"];
    assert_eq!(
        told,
        [
            json!(["execution", null, null, null]),
            json!(["deployment", "mine", deployment, "deploying"])
        ]
    );
    for letter in &list {
        assert_eq!(world.post(&redrive(letter), &json!({})).await.status, 200);
    }
    next(&mut work).await;
    next(&mut lane).await;
    assert!(letters(&world).await.is_empty());
}

#[tokio::test]
async fn only_ones_own_and_only_with_the_permission() {
    let mut world = World::new().await;
    let version = world.serving("mine").await;
    dead(&world, &version, &["one"]).await;
    let accepted = world.bus.work(&deployments(), WorkOptions::default()).await;
    next(&mut accepted.expect("work"))
        .await
        .bury()
        .await
        .expect("buried");
    let ours = letters(&world).await;
    assert_eq!(ours.len(), 2);
    let all = [Permission::SystemHealth, Permission::KeyManage];
    let theirs: AccountId = "theirs".parse().expect("an account");
    let ours_key = std::mem::take(&mut world.key);
    world.key = world.key_of(theirs, &all, None).await;
    assert!(letters(&world).await.is_empty());
    for letter in &ours {
        let refused = world.post(&redrive(letter), &json!({})).await;
        assert_eq!((refused.status, refused.code()), (404, "NOT_FOUND"));
    }
    world.key = world.key_with(&[Permission::SystemHealth], None).await;
    assert_eq!(letters(&world).await, ours);
    assert_eq!(world.post(&redrive(&ours[0]), &json!({})).await.status, 403);
    world.key = world.key_with(&[Permission::AgentMonitor], None).await;
    assert_eq!(world.get(LETTERS).await.status, 403);
    world.key = world.key_with(&all, Some(&["mine"])).await;
    assert_eq!(world.get(LETTERS).await.status, 403);
    assert_eq!(world.post(&redrive(&ours[0]), &json!({})).await.status, 403);
    world.key = ours_key;
    for nothing in ["0", "999999", "-1", "x"] {
        let path = format!("{LETTERS}/{nothing}/redrive");
        assert_eq!(world.post(&path, &json!({})).await.status, 404, "{nothing}");
    }
    assert_eq!(letters(&world).await, ours);
}
