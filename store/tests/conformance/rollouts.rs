//! What rollouts are steered by.

use crate::{
    health::ready,
    world::{account, agent, end, key, mine, new, version},
};
use domain::{
    Result, Timestamp,
    execution::{Failure, FailureCode, FailurePhase, Status},
    id::DeploymentId,
    rollout::Order,
};
use store::{
    Store,
    rollouts::{Given, MOST_ORDERS, Window},
};

fn deployment(n: u128) -> DeploymentId {
    DeploymentId::from_uuid(uuid::Uuid::from_u128(n))
}

pub async fn orders_come_in_their_sequence(store: &Store) -> Result<()> {
    let given = |order, at| Given {
        order,
        created_by: "key_1".into(),
        at: Timestamp(at),
    };
    // Two of the same moment are told apart by their ids.
    let orders = [
        ("o4", given(Order::Abort, 20)),
        ("o3", given(Order::Resume, 10)),
        ("o2", given(Order::Pause, 10)),
        ("o9", given(Order::Promote, 5)),
    ];
    for (id, order) in &orders {
        store
            .order_deployment(&account("a"), &deployment(1), id, order)
            .await?;
    }
    let (a, first) = (account("a"), deployment(1));
    let twice = store.order_deployment(&a, &first, "o4", &orders[0].1);
    assert!(twice.await.is_err(), "the same order twice");
    let words: Vec<Order> = store
        .orders(&deployment(1))
        .await?
        .iter()
        .map(|one| one.order)
        .collect();
    assert_eq!(
        words,
        [Order::Promote, Order::Pause, Order::Resume, Order::Abort]
    );
    assert!(store.orders(&deployment(2)).await?.is_empty());
    for n in 0..=MOST_ORDERS {
        let order = given(Order::Pause, 1);
        store
            .order_deployment(&account("a"), &deployment(3), &format!("p{n:05}"), &order)
            .await?;
    }
    assert_eq!(store.orders(&deployment(3)).await?.len(), MOST_ORDERS);
    Ok(())
}

pub async fn samples_by_their_end_and_their_acceptance(store: &Store) -> Result<()> {
    for (id, accepted, ended) in [
        ("e1", 10, 99),
        ("e2", 10, 100),
        ("e3", 9, 150),
        ("e4", 11, 199),
        ("e5", 12, 200),
    ] {
        let one = mine(id);
        store.insert_execution(new(&one, accepted)).await?;
        assert!(
            store
                .end_execution(end(&one, 1, Status::Completed, ended))
                .await?
        );
    }
    for other in [key("b", "echo", "e1"), key("a", "other", "e1")] {
        store.insert_execution(new(&other, 10)).await?;
        assert!(
            store
                .end_execution(end(&other, 1, Status::Failed, 150))
                .await?
        );
    }
    store.insert_execution(new(&mine("open"), 10)).await?;
    let window = Window {
        since: Timestamp(10),
        from: Timestamp(100),
        to: Timestamp(200),
    };
    let (a, echo) = (account("a"), agent("echo"));
    let ended = |rows: Vec<store::rollouts::Ended>| -> Vec<i64> {
        rows.iter().map(|one| one.completed_at.0).collect()
    };
    let all = store.samples(&a, &echo, window, 10).await?;
    assert_eq!(
        (
            all[0].version_id.as_str(),
            all[0].status,
            all[0].duration_ms
        ),
        (version(1).as_str(), Status::Completed, Some(5.0))
    );
    assert_eq!(ended(all), [100, 199]);
    assert_eq!(ended(store.samples(&a, &echo, window, 1).await?), [100]);
    Ok(())
}

pub async fn failed_checks_of_who_lives_or_ended_since(store: &Store) -> Result<()> {
    let failure = || {
        Some(Failure::new(
            FailureCode::InstanceCrashed,
            FailurePhase::Handler,
            "x",
        ))
    };
    // Lives; ended since, after checks that failed; ended since by a failure; ended well; ended before; and another version's.
    let rows = [
        (1, 2, None, None, 1),
        (2, 3, Some(100), failure(), 1),
        (3, 0, Some(101), failure(), 1),
        (4, 0, Some(102), None, 1),
        (5, 9, Some(99), failure(), 1),
        (6, 9, None, None, 2),
    ];
    for (n, failed_checks, ended_at, failure, of) in rows {
        let mut one = ready(n);
        one.version_id = version(of);
        (one.failed_checks, one.failure) = (failed_checks, failure);
        one.ended_at = ended_at.map(Timestamp);
        store.keep_instance(&one).await?;
    }
    let count = store.failed_checks(&version(1), Timestamp(100)).await?;
    assert_eq!(count, 2 + 3 + 1);
    assert_eq!(store.failed_checks(&version(9), Timestamp(0)).await?, 0);
    let living = store
        .living_instances(&account("a"), &agent("echo"))
        .await?;
    let checks: Vec<u32> = living.iter().map(|one| one.failed_checks).collect();
    assert_eq!(checks, [2, 9]);
    Ok(())
}
