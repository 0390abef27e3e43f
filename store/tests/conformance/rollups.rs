//! Cells, and how far the executions are in them.

use crate::world::{account, agent, end, key, mine, new, version};
use domain::{
    Result, Timestamp,
    execution::{Failure, FailureCode, FailurePhase, Status},
    rollup::{Cell, Span},
};
use std::time::Duration;
use store::{
    Store,
    executions::Key as Execution,
    leases::ROLLER,
    rollups::{Key, Of, Position, Which},
};

const TTL: Duration = Duration::from_secs(60);

async fn ended(store: &Store, key: &Execution, status: Status, at: i64) -> Result<()> {
    store.insert_execution(new(key, 1)).await?;
    assert!(store.end_execution(end(key, 1, status, at)).await?);
    Ok(())
}

fn cell_key(agent_name: &str, n: u128, span: Span, start: i64) -> Key {
    Key {
        of: Of {
            account: account("a"),
            agent_id: agent(agent_name),
            version_id: version(n),
        },
        span,
        start: Timestamp(start),
    }
}

pub async fn ended_executions_by_their_end(store: &Store) -> Result<()> {
    for (id, at) in [
        ("e1", 59_999),
        ("e2", 60_000),
        ("e3", 60_001),
        ("e4", 120_000),
    ] {
        ended(store, &mine(id), Status::Completed, at).await?;
    }
    ended(store, &key("b", "echo", "e1"), Status::Failed, 60_000).await?;
    store.insert_execution(new(&mine("open"), 1)).await?;
    let (from, to) = (Timestamp(60_000), Timestamp(120_000));
    let rows = store.ended(from, to, 9).await?;
    let at: Vec<i64> = rows.iter().map(|(_, ended)| ended.completed_at.0).collect();
    assert_eq!(at, [60_000, 60_000, 60_001]);
    assert_eq!(rows[2].0, cell_key("echo", 1, Span::Minute, 0).of);
    assert_eq!(
        (rows[2].1.duration_ms, rows[2].1.queue_ms),
        (Some(5.0), Some(0.5))
    );
    assert_eq!(store.ended(from, to, 2).await?.len(), 2);
    let minutes = store
        .ended_per_minute(Timestamp(0), Timestamp(120_000))
        .await?;
    assert_eq!(minutes.len(), 2);
    assert_eq!(minutes[&Timestamp(60_000)], 3);
    Ok(())
}

pub async fn cells_are_written_with_their_position(store: &Store) -> Result<()> {
    let lease = store.acquire(ROLLER, "one", TTL).await?.expect("free");
    let before = store.rollup_position().await?;
    assert_eq!((before.at, before.rev), (Timestamp(0), 0));
    ended(store, &mine("e1"), Status::Completed, 61_000).await?;
    ended(store, &mine("e2"), Status::Timeout, 62_000).await?;
    let mut cell = Cell::default();
    for (_, one) in store.ended(Timestamp(0), Timestamp(90_000), 9).await? {
        cell.add(&one);
    }
    let minute = cell_key("echo", 1, Span::Minute, 60_000);
    let other = cell_key("echo", 2, Span::Minute, 60_000);
    let ever = cell_key("echo", 1, Span::Ever, 0);
    let cells = [
        (minute.clone(), cell.clone()),
        (other.clone(), cell.clone()),
        (ever.clone(), cell.clone()),
    ];
    let after = Position {
        at: Timestamp(90_000),
        ..before
    };
    assert!(store.write_cells(&lease, &before, &after, &cells).await?);
    let position = store.rollup_position().await?;
    assert_eq!((position.at, position.rev), (Timestamp(90_000), 1));
    // Of a revision that is over, and under a lease that is not held: nothing.
    let mut twice = cell.clone();
    twice.merge(&cell);
    let more = [(minute.clone(), twice.clone())];
    assert!(!store.write_cells(&lease, &before, &after, &more).await?);
    store.release(&lease).await?;
    assert!(!store.write_cells(&lease, &position, &after, &more).await?);
    let keys = [
        minute.clone(),
        other,
        ever,
        cell_key("echo", 9, Span::Day, 0),
    ];
    let found = store.cells(&keys).await?;
    assert_eq!(found.len(), 3);
    assert_eq!(found[&minute], cell);
    assert_eq!(store.rollup_position().await?, position);
    let per_minute = store
        .rolled_per_minute(Timestamp(0), Timestamp(60_001))
        .await?;
    assert_eq!(per_minute[&Timestamp(60_000)], 4, "both versions");
    assert_eq!(store.minute_cells(Timestamp(60_000)).await?.len(), 2);
    // The same cell again is written over.
    let lease = store.acquire(ROLLER, "two", TTL).await?.expect("free");
    assert!(
        store
            .write_cells(&lease, &position, &position, &more)
            .await?
    );
    assert_eq!(
        store.cells(std::slice::from_ref(&minute)).await?[&minute],
        twice
    );
    Ok(())
}

pub async fn cells_are_read_by_agent_span_and_time_and_purged(store: &Store) -> Result<()> {
    let lease = store.acquire(ROLLER, "one", TTL).await?.expect("free");
    ended(store, &mine("e1"), Status::Failed, 61_000).await?;
    let mut cell = Cell::default();
    cell.add(&store.ended(Timestamp(0), Timestamp(90_000), 9).await?[0].1);
    let mut cells = Vec::new();
    for start in [0, 60_000, 120_000] {
        for (name, n) in [("echo", 1), ("echo", 2), ("other", 1)] {
            cells.push((cell_key(name, n, Span::Minute, start), cell.clone()));
        }
    }
    cells.push((cell_key("echo", 1, Span::Hour, 0), cell.clone()));
    let position = store.rollup_position().await?;
    assert!(
        store
            .write_cells(&lease, &position, &position, &cells)
            .await?
    );
    let (account, echo) = (account("a"), [agent("echo")]);
    let mut which = Which {
        account: &account,
        agents: &echo,
        version: None,
        span: Span::Minute,
        from: Timestamp(60_000),
        to: Timestamp(180_000),
    };
    let read = store.cells_of(&which).await?;
    let starts: Vec<i64> = read.iter().map(|(_, _, start, _)| start.0).collect();
    assert_eq!(starts, [60_000, 60_000, 120_000, 120_000]);
    assert_eq!(read[0].3, cell);
    let counts = store.counts_of(&which).await?;
    assert_eq!(counts.len(), 2, "versions are together");
    let first = &counts[0];
    assert_eq!(
        (first.total, first.failed, first.cancelled, first.ran),
        (2, 2, 0, 2)
    );
    assert_eq!(
        (first.duration_ms, first.first_at),
        (10.0, Timestamp(61_000))
    );
    let one = version(2);
    which.version = Some(&one);
    assert_eq!(store.cells_of(&which).await?.len(), 2);
    which.version = None;
    which.agents = &[];
    assert_eq!(store.counts_of(&which).await?.len(), 4);
    let before = Timestamp(60_001);
    assert_eq!(store.purge_cells(Span::Minute, before, 4).await?, 4);
    assert_eq!(store.purge_cells(Span::Minute, before, 4).await?, 2);
    which.from = Timestamp(0);
    assert_eq!(store.counts_of(&which).await?.len(), 2);
    which.span = Span::Hour;
    assert_eq!(store.counts_of(&which).await?.len(), 1);
    Ok(())
}

pub async fn what_never_ran_has_no_latency(store: &Store) -> Result<()> {
    for (who, at) in [("a", 100), ("b", 150), ("c", 200)] {
        ended(store, &key(who, "echo", "e1"), Status::Completed, at).await?;
    }
    let (from, to) = (Timestamp(100), Timestamp(200));
    assert_eq!(store.count_ended_executions(from, to).await?, 2);
    let waiting = mine("waiting");
    store.insert_execution(new(&waiting, 1)).await?;
    let failure = Failure::new(FailureCode::Cancelled, FailurePhase::Spawn, "c");
    store
        .cancel_queued_execution(&waiting, &failure, Timestamp(900))
        .await?;
    let rows = store.ended(Timestamp(900), Timestamp(901), 9).await?;
    assert_eq!(rows[0].1.status, Status::Cancelled);
    assert_eq!(rows[0].1.duration_ms, None);
    Ok(())
}
