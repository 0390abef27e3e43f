//! What is old goes, and nothing else.

use crate::world::{Ran, World, now};
use domain::{Timestamp, execution::Status, log};
use monitor::Config;
use std::time::{Duration, Instant};
use store::{executions::Filter, logs::Entry};

#[tokio::test(flavor = "multi_thread")]
async fn deletes_only_what_is_old() {
    let day = 24 * 3600 * 1000;
    let world = World::new(Config {
        first_purge_after: Duration::from_millis(100),
        // However slowly the rows below are written: a later purge finds them.
        purge_every: Duration::from_millis(300),
        ..Config::default()
    })
    .await;
    let (account, agent) = ("a".parse().expect("an id"), "echo".parse().expect("an id"));
    for (n, ago) in [0, 29 * day, 31 * day, 400 * day].into_iter().enumerate() {
        let ran = Ran {
            at: now() - ago,
            status: Status::Completed,
            duration_ms: Some(1.0),
            version: 1,
            metrics: Default::default(),
        };
        let line = log::Line {
            timestamp: Timestamp(now() - ago),
            level: log::Level::Info,
            message: "x".into(),
            context: None,
        };
        let entry = Entry {
            account: "a".parse().expect("an id"),
            agent_id: "echo".parse().expect("an id"),
            execution_id: None,
            seq: 0,
            line,
        };
        world
            .deps
            .store
            .append_logs(vec![entry])
            .await
            .expect("writes");
        world.ended(("a", "echo", &format!("e{n}")), ran).await;
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let store = &world.deps.store;
        let (rows, total) = store
            .executions(&account, &agent, &Filter::default(), 0, 9)
            .await
            .expect("reads");
        let lines = store
            .agent_logs(&account, &agent, Timestamp(0), 9)
            .await
            .expect("reads");
        // The page and its count are two reads: a purge may fall between.
        if total == 2 && rows.len() == 2 && lines.len() == 2 {
            let ids: Vec<_> = rows.iter().map(|row| row.key.id.as_str()).collect();
            assert_eq!(ids, ["e0", "e1"]);
            break;
        }
        assert!(
            Instant::now() < deadline,
            "{total} executions and {} lines are left",
            lines.len()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.close().await;
}
