//! What nobody gets further with: a bound for every way to go round.

use super::{World, key, now};
use bus::{DeadLetter, Message, Subject, WorkOptions, typed};
use domain::{
    Timestamp,
    execution::{FailureCode, MOST_DELIVERIES, MOST_LOSSES, Mode, Status},
    id::{AccountId, BootId, NodeId},
};
use proto::convert::Execute;
use std::time::Duration;
use store::executions::{Holder, Start};

const ECHO: &str = "def handler(input):\n    return input\n";
const WITHIN: Duration = Duration::from_secs(30);
const HOUR: i64 = 3_600_000;

fn lane(world: &World) -> Subject {
    let priority = typed::priority(domain::execution::Priority::Normal);
    let account = AccountId::default_account();
    Subject::work(account.as_str(), world.version_id().as_str(), priority)
}

/// Handed over, and given up so often before any executor hears of it.
async fn worn(world: &World, execute: &Execute, deliveries: u32) {
    let sent = world.bus.enqueue_execution(execute, execute.accepted_at);
    sent.await.expect("stored");
    let options = WorkOptions {
        max_deliver: u32::MAX,
        ..WorkOptions::default()
    };
    let mut work = world.bus.work(&lane(world), options).await.expect("work");
    for _ in 0..deliveries {
        let delivery = tokio::time::timeout(WITHIN, work.next()).await;
        let delivery = delivery.expect("in time").expect("not drained");
        delivery.retry(Duration::ZERO).await.expect("put back");
    }
}

async fn letter(world: &World) -> DeadLetter {
    let end = tokio::time::Instant::now() + WITHIN;
    loop {
        let account = AccountId::default_account();
        let mut letters = world
            .bus
            .dead_letters(account.as_str())
            .await
            .expect("a list");
        if letters.len() == 1 {
            return letters.remove(0);
        }
        assert!(tokio::time::Instant::now() < end, "{letters:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delivered_too_often_it_rests_until_it_is_redriven() {
    let world = World::new().await;
    let execute = world.execution("7", Mode::Async, 10);
    world.insert(&execute).await;
    worn(&world, &execute, MOST_DELIVERIES).await;
    world.version(ECHO, |_| {}).await;
    let dead = letter(&world).await;
    assert_eq!(dead.deliveries, MOST_DELIVERIES + 1);
    let row = world.row(&execute).await;
    let left = row.due_at.0 - now().0;
    assert_eq!((row.status, row.attempt), (Status::Queued, 0));
    assert!(left > 23 * HOUR, "a sweep would take it up: {row:?}");
    assert!(world.bus.redrive(dead.id).await.expect("put back"));
    let row = world.ended(&execute).await;
    assert_eq!((row.status, row.attempt), (Status::Completed, 1));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_delivery_is_worked_on() {
    let world = World::new().await;
    let execute = world.execution("7", Mode::Async, 10);
    world.insert(&execute).await;
    worn(&world, &execute, MOST_DELIVERIES - 1).await;
    world.version(ECHO, |_| {}).await;
    assert_eq!(world.ended(&execute).await.status, Status::Completed);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_a_dead_letter_with_its_bytes() {
    let world = World::new().await;
    let garbage = Message::new(&b"\xff\xff garbage"[..]);
    let stored = world.bus.enqueue(&lane(&world), "g", garbage.clone()).await;
    stored.expect("stored");
    world.version(ECHO, |_| {}).await;
    let dead = letter(&world).await;
    let kept = world.bus.dead_letter(dead.id).await.expect("asked");
    assert_eq!((dead.deliveries, kept.expect("kept").1), (1, garbage));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_processes_are_lost_too_often_has_that_for_its_end() {
    let world = World::new().await;
    let execute = world.execution("7", Mode::Async, 10);
    world.insert(&execute).await;
    let holder = Holder {
        node_id: NodeId::from_uuid(uuid::Uuid::from_u128(8)),
        boot_id: BootId::from_uuid(uuid::Uuid::from_u128(9)),
    };
    for attempt in 1..=MOST_LOSSES + 1 {
        let start = Start {
            key: key(&execute),
            attempt,
            at: now(),
            holder: holder.clone(),
        };
        assert!(world.store.start_execution(start).await.expect("rows"));
        if attempt <= MOST_LOSSES {
            // No sweep of this test's time takes it up.
            let later = Timestamp(now().0 + HOUR);
            let key = key(&execute);
            let lost = world.store.lose_execution(&key, attempt, &[], later);
            assert!(lost.await.expect("rows"));
        }
    }
    worn(&world, &execute, 1).await;
    world.version(ECHO, |_| {}).await;
    let row = world.ended(&execute).await;
    let error = row.error.expect("a cause");
    assert_eq!(
        (row.status, row.attempt, error.code),
        (
            Status::Failed,
            MOST_LOSSES + 1,
            FailureCode::InstanceCrashed
        )
    );
    assert_eq!(error.message, "the process that ran it ended too often");
    let account = AccountId::default_account();
    let letters = world
        .bus
        .dead_letters(account.as_str())
        .await
        .expect("a list");
    assert!(letters.is_empty(), "its end says it all: {letters:?}");
    world.end().await;
}
