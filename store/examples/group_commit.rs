//! Executions per second through the group commit: insert, then end, each waited for.
//!
//! `cargo run --release -p store --example group_commit [postgres-url]`

use domain::{
    Timestamp,
    execution::{Caller, Mode, Options, Priority, Status, Usage},
    id::VersionId,
};
use serde_json::value::RawValue;
use std::time::Instant;
use store::{
    Config, Secrets, Store,
    executions::{End, Key, New},
};
use tokio::task::JoinSet;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "a program that prints figures")]
async fn main() -> domain::Result<()> {
    let directory = std::env::temp_dir().join(format!("phalanx-throughput-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for the database");
    let config = match std::env::args().nth(1) {
        Some(url) => Config::Postgres {
            url: url.into(),
            connections: 8,
        },
        None => Config::Sqlite {
            path: directory.join("store.db"),
        },
    };
    let store = Store::open(&config, Secrets::new(&[7; 32])?).await?;
    for (callers, each) in [(1, 5_000), (64, 1_000), (512, 200)] {
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for caller in 0..callers {
            let store = store.clone();
            tasks.spawn(async move {
                for n in 0..each {
                    run(&store, &format!("r{callers}-{caller}-{n}")).await?;
                }
                domain::Result::Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("no panic")?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        let rate = f64::from(callers * each) / seconds;
        println!(
            "{callers:>4} callers: {rate:>8.0} executions/s (insert + end), {:>7.3} ms each",
            seconds * 1000.0 / f64::from(each)
        );
    }
    store.close().await;
    std::fs::remove_dir_all(directory).expect("the database's directory");
    Ok(())
}

async fn run(store: &Store, id: &str) -> domain::Result<()> {
    let key = Key {
        account: "throughput".parse().expect("an id"),
        agent_id: "echo".parse().expect("an id"),
        id: format!("{id}-{}", std::process::id())
            .parse()
            .expect("an id"),
    };
    let new = New {
        key: key.clone(),
        version_id: VersionId::from_uuid(uuid::Uuid::nil()),
        mode: Mode::Sync,
        priority: Priority::Normal,
        body_digest: None,
        caller: Caller::default(),
        options: Options {
            mode: Mode::Sync,
            priority: Priority::Normal,
            timeout_s: 30,
            retry: domain::retry::Policy::default(),
            retry_explicit: false,
            trace: true,
            callback_url: None,
        },
        input: json("{\"text\":\"hello\"}"),
        accepted_at: Timestamp(1_700_000_000_000),
    };
    assert!(store.insert_execution(new).await?);
    let end = End {
        key,
        attempt: 1,
        status: Status::Completed,
        due_at: Timestamp(1_700_000_000_000),
        started_at: Some(Timestamp(1_700_000_000_001)),
        completed_at: Some(Timestamp(1_700_000_000_005)),
        attempts: Vec::new(),
        instance_id: None,
        output: Some(json("{\"text\":\"hello\"}")),
        error: None,
        duration_ms: 4.0,
        queue_ms: 1.0,
        waterfall: None,
        recording: None,
        usage: Usage::default(),
    };
    assert!(store.end_execution(end).await?);
    Ok(())
}

fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("JSON")
}
