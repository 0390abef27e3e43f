//! Which webhooks are due: receivers in turn, at one cost, and past rows that cannot be sent.

use crate::{
    deliveries::{all_due, kept, taken},
    world::{World, account, agent},
};
use domain::{Result, Timestamp, id::DeliveryId, webhook::Status};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use store::deliveries::{Attempt, Due, Filter, Shares, Turn};

const A: &str = "https://a.example/";
const NOW: Timestamp = Timestamp(5000);

fn names(due: &[Due]) -> Vec<(&str, &str)> {
    let each = due
        .iter()
        .map(|one| (one.account.as_str(), one.host.as_str()));
    each.collect()
}

pub async fn receivers_have_their_turns(world: &World) -> Result<()> {
    let store = &world.store;
    for n in 1..=5 {
        kept(store, n, "a", A, 2000).await?;
    }
    kept(store, 6, "a", "https://b.example/", 2000).await?;
    // Of this one nothing is due yet.
    kept(store, 7, "a", "https://c.example/", 9000).await?;
    kept(store, 8, "a", "https://d.example/", 2000).await?;
    kept(store, 9, "b", A, 3000).await?;
    kept(store, 10, "b", "https://z.example/", 3000).await?;
    let (host_a, host_b) = ("a.example:443", "b.example:443");
    let (host_d, host_z) = ("d.example:443", "z.example:443");
    let mut shares = Shares {
        of_host: 2,
        hosts: 10,
        all: 100,
    };
    let begin = Turn::default();
    let (all, turn) = store.due_in_turn(NOW, (&begin, false), shares).await?;
    let expected = [
        ("a", host_a),
        ("a", host_a),
        ("a", host_b),
        ("a", host_d),
        ("b", host_a),
        ("b", host_z),
    ];
    assert_eq!(names(&all.due), expected);
    assert_eq!(turn, begin, "it came round");
    assert_eq!(all.due[0].bytes, 8, "{{\"n\": 1}}");
    // Of each account some receivers only.
    shares.hosts = 1;
    let (some, _) = store.due_in_turn(NOW, (&begin, true), shares).await?;
    assert_eq!(
        names(&some.due),
        [("a", host_a), ("a", host_a), ("b", host_a)]
    );
    // A few at a time: in the end everybody was seen.
    let few = Shares {
        of_host: 1,
        hosts: 10,
        all: 2,
    };
    let (mut seen, mut turn) = (Vec::new(), begin.clone());
    loop {
        let (some, next) = store.due_in_turn(NOW, (&turn, false), few).await?;
        seen.extend(some.due);
        turn = next;
        if turn == begin {
            break;
        }
        assert!(seen.len() < 20, "it never comes round: {seen:?}");
    }
    assert_eq!(names(&seen), expected[1..]);
    let after_a = Turn {
        account: "a".to_owned(),
        host: host_a.to_owned(),
    };
    let (next, _) = store.due_in_turn(NOW, (&after_a, true), few).await?;
    assert_eq!(names(&next.due), [("b", host_a), ("b", host_z)]);
    Ok(())
}

pub async fn a_row_that_cannot_be_sent_is_over_and_holds_up_nobody(world: &World) -> Result<()> {
    let store = &world.store;
    for n in 1..=5 {
        kept(store, n, "a", A, 2000).await?;
    }
    // One of them was tried before.
    let first = taken(store, 2000).await?;
    let bad = Attempt {
        attempt: 1,
        at: Timestamp(2001),
        duration_ms: 1,
        status: Some(500),
        error: None,
    };
    let again = Some(Timestamp(2002));
    assert!(
        store
            .attempted(&first, &bad, Status::Pending, again)
            .await?
    );
    let id = |n| DeliveryId::from_uuid(uuid::Uuid::from_u128(n));
    world
        .write(&format!(
            "UPDATE deliveries SET attempts = -1 WHERE id = '{}'; UPDATE deliveries SET status = 'paused' WHERE id = '{}'; \
             UPDATE deliveries SET account = 'not an account' WHERE id = '{}'; UPDATE deliveries SET id = 'nothing' WHERE id = '{}'",
            id(1), id(2), id(3), id(4)
        ))
        .await;
    let looked = store.due_deliveries(NOW, 100).await?;
    assert_eq!(looked.due.len(), 1, "the good one");
    assert_eq!(looked.due[0].id, id(5));
    let mut why: Vec<_> = looked
        .unreadable
        .iter()
        .map(|one| one.why.as_str())
        .collect();
    why.sort_unstable();
    let all = ["account", "attempts", "delivery id", "status"];
    assert_eq!(why, all.map(|what| format!("a row holds a bad {what}")));
    for one in &looked.unreadable {
        assert!(store.refuse_delivery(&one.id, &one.why, NOW).await?);
        assert!(!store.refuse_delivery(&one.id, &one.why, NOW).await?);
    }
    assert_eq!(all_due(store, 5000).await?.len(), 1);
    // Whoever asks is told.
    let (mine, echo) = (account("a"), agent("echo"));
    for n in [1, 2] {
        let told = store.callback(&mine, &echo, &id(n)).await?;
        let (one, attempts) = told.expect("there");
        assert_eq!((one.status, one.due_at), (Status::Failed, None));
        let tried = u32::from(first.id == one.id);
        assert_eq!(attempts.len() as u32, 1 + tried, "{attempts:?}");
        let last = attempts.last().expect("an attempt");
        assert_eq!((last.attempt, last.at), (1 + tried, NOW));
        let error = last.error.as_deref().expect("a reason");
        assert!(error.starts_with("a row holds a bad"), "{error}");
    }
    let filter = Filter {
        execution_id: Some("e5".to_owned()),
        ..Filter::default()
    };
    let (good, _) = store.callbacks(&mine, &echo, &filter, (0, 10)).await?;
    assert_eq!(good[0].0.status, Status::Pending);
    Ok(())
}

/// Many more of what is due: 40 receivers of one account, one of another, and as many that are not due yet.
async fn crowd(world: &World, from: u32, to: u32) {
    let text = format!(
        "WITH RECURSIVE n (i) AS (SELECT CAST({from} AS BIGINT) UNION ALL SELECT i + 1 FROM n WHERE i < {to}) \
         INSERT INTO deliveries (id, account, subject, event, level, round, url, body, secret, sealed_for, status, attempts, created_at, due_at, \
           agent_id, execution_id, host, tried_before) \
         SELECT 'msg_' || SUBSTR('00000000000000000000000000000000' || CAST(i AS TEXT), LENGTH(CAST(i AS TEXT)) + 1), \
           CASE WHEN i % 2 = 0 THEN 'crowd' ELSE 'later' END, CAST(i AS TEXT), event, level, round, url, body, secret, sealed_for, status, 0, \
           created_at, CASE WHEN i % 2 = 0 THEN 1000 + i % 1000 ELSE 9000 + i END, agent_id, execution_id, 'h' || CAST(i % 80 AS TEXT), 0 \
         FROM deliveries, n WHERE subject = 'a/echo/e1'"
    );
    world.write(&text).await;
    world.write("ANALYZE deliveries").await;
}

/// The quickest of some looks of each kind: what else runs on the host makes none quicker.
async fn quickest(world: &World) -> Result<Duration> {
    let shares = Shares {
        of_host: 4,
        hosts: 1000,
        all: 256,
    };
    let mut quickest = Duration::MAX;
    for _ in 0..15 {
        let begun = Instant::now();
        let first = world.store.due_deliveries(NOW, 256).await?;
        let after = Turn::default();
        let (turns, _) = world
            .store
            .due_in_turn(NOW, (&after, false), shares)
            .await?;
        quickest = quickest.min(begun.elapsed());
        assert_eq!(first.due.len(), 256);
        let accounts: BTreeSet<&str> = turns.due.iter().map(|one| one.account.as_str()).collect();
        assert_eq!(accounts, ["a", "crowd"].into());
    }
    Ok(quickest)
}

pub async fn a_look_costs_the_same_however_many_are_due(world: &World) -> Result<()> {
    kept(&world.store, 1, "a", A, 2000).await?;
    crowd(world, 1000, 3000).await;
    let few = quickest(world).await?;
    crowd(world, 3001, 103_000).await;
    let many = quickest(world).await?;
    assert!(
        many < 4 * few,
        "{few:?} with 1,000 due, {many:?} with 51,000"
    );
    Ok(())
}
