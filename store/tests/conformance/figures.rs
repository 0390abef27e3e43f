//! What figures are made from.

use crate::world::{account, agent, end, key, mine, new, version};
use domain::{Result, Timestamp, execution::Status};
use std::collections::BTreeMap;
use store::Store;

pub async fn figures_are_half_open_and_ordered(store: &Store) -> Result<()> {
    for n in [5_i64, 3, 1, 2, 4] {
        let key = mine(&format!("e{n}"));
        let mut sent = new(&key, 1);
        sent.version_id = version(u128::from(n % 2 == 0));
        store.insert_execution(sent).await?;
        let mut done = end(
            &key,
            1,
            if n == 3 {
                Status::Timeout
            } else {
                Status::Completed
            },
            n * 100,
        );
        done.duration_ms = n as f64;
        if n == 2 {
            done.usage.metrics = BTreeMap::from([("quality".to_owned(), 0.25)]);
        }
        store.end_execution(done).await?;
    }
    store.insert_execution(new(&mine("open"), 1)).await?;
    let (account, agent) = (account("a"), agent("echo"));
    let rows = store
        .figures(&account, &agent, None, Timestamp(200), Timestamp(500), 100)
        .await?;
    let seen: Vec<_> = rows
        .iter()
        .map(|row| (row.completed_at.0, row.duration_ms))
        .collect();
    assert_eq!(seen, [(200, Some(2.0)), (300, Some(3.0)), (400, Some(4.0))]);
    assert_eq!(rows[1].status, Status::Timeout);
    assert_eq!(rows[0].metrics.as_deref(), Some("{\"quality\":0.25}"));
    let even = version(1);
    assert_eq!(
        store
            .figures(
                &account,
                &agent,
                Some(&even),
                Timestamp(0),
                Timestamp(900),
                100
            )
            .await?
            .len(),
        2
    );
    assert_eq!(
        store
            .figures(&account, &agent, None, Timestamp(0), Timestamp(900), 3)
            .await?
            .len(),
        3
    );
    Ok(())
}

pub async fn totals_per_agent(store: &Store) -> Result<()> {
    for (who, id, status, at) in [
        ("one", "e1", Status::Completed, 100),
        ("one", "e2", Status::Failed, 200),
        ("one", "e3", Status::Timeout, 210),
        ("one", "e4", Status::Cancelled, 220),
        ("two", "e1", Status::Cancelled, 300),
        ("old", "e1", Status::Completed, 50),
    ] {
        let key = key("a", who, id);
        store.insert_execution(new(&key, 1)).await?;
        store.end_execution(end(&key, 1, status, at)).await?;
    }
    store
        .insert_execution(new(&key("a", "open", "e1"), 1))
        .await?;
    let foreign = key("b", "one", "e1");
    store.insert_execution(new(&foreign, 1)).await?;
    store
        .end_execution(end(&foreign, 1, Status::Completed, 100))
        .await?;
    let totals = store
        .totals(&account("a"), &[], None, Timestamp(100))
        .await?;
    let seen: Vec<_> = totals
        .iter()
        .map(|t| {
            (
                t.agent_id.as_str(),
                t.total,
                t.failed,
                t.cancelled,
                t.first_at,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("one", 4, 2, 1, Some(Timestamp(100))),
            ("two", 1, 0, 1, Some(Timestamp(300)))
        ]
    );
    assert_eq!(totals[0].avg_ms, Some(5.0));
    let only = store
        .totals(
            &account("a"),
            &[agent("old"), agent("two")],
            Some(&version(1)),
            Timestamp(0),
        )
        .await?;
    assert_eq!(only.len(), 2);
    assert!(
        store
            .totals(&account("a"), &[], Some(&version(9)), Timestamp(0))
            .await?
            .is_empty()
    );
    Ok(())
}

pub async fn counts_over_all_accounts(store: &Store) -> Result<()> {
    for (who, at) in [("a", 100), ("b", 150), ("c", 200)] {
        let key = key(who, "echo", "e1");
        store.insert_execution(new(&key, 1)).await?;
        store
            .end_execution(end(&key, 1, Status::Completed, at))
            .await?;
    }
    assert_eq!(
        store
            .count_ended_executions(Timestamp(100), Timestamp(200))
            .await?,
        2
    );
    // A cancelled one that never ran has no latency.
    let waiting = mine("waiting");
    store.insert_execution(new(&waiting, 1)).await?;
    let failure = domain::execution::Failure::new(
        domain::execution::FailureCode::Cancelled,
        domain::execution::FailurePhase::Spawn,
        "c",
    );
    store
        .cancel_queued_execution(&waiting, &failure, Timestamp(900))
        .await?;
    let rows = store
        .figures(
            &waiting.account,
            &waiting.agent_id,
            None,
            Timestamp(900),
            Timestamp(901),
            9,
        )
        .await?;
    assert_eq!(
        (rows[0].status, rows[0].duration_ms),
        (Status::Cancelled, None)
    );
    Ok(())
}
