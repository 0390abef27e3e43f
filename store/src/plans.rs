//! What every execution costs must not grow with how many there are: SQLite's plans for the statements on its path.

use crate::{
    Config, Secrets, Store,
    db::Db,
    executions::{self, End, Holder, Key, New, Progress, Start, Withdraw},
    logs,
};
use domain::{
    Timestamp,
    execution::{Caller, Mode, Options, Priority, Status, Usage},
    id::{BootId, NodeId, VersionId},
};
use serde_json::value::RawValue;
use sqlx::{Row, SqlitePool};

fn key(n: usize) -> Key {
    Key {
        account: "a".parse().expect("an id"),
        agent_id: format!("agent-{}", n % 10).parse().expect("an id"),
        id: format!("e{n}").parse().expect("an id"),
    }
}

fn new(n: usize) -> New {
    New {
        key: key(n),
        version_id: VersionId::from_uuid(uuid::Uuid::nil()),
        mode: Mode::Async,
        priority: Priority::Normal,
        body_digest: None,
        caller: Caller::default(),
        options: Options {
            mode: Mode::Async,
            priority: Priority::Normal,
            timeout_s: 30,
            retry: domain::retry::Policy::default(),
            retry_explicit: false,
            trace: true,
        },
        input: RawValue::from_string("{}".into()).expect("JSON"),
        accepted_at: Timestamp(n as i64),
    }
}

fn end(n: usize) -> End {
    End {
        key: key(n),
        attempt: 1,
        status: Status::Completed,
        due_at: Timestamp(0),
        started_at: None,
        completed_at: Some(Timestamp(n as i64)),
        attempts: Vec::new(),
        instance_id: None,
        output: None,
        error: None,
        duration_ms: 1.0,
        queue_ms: 1.0,
        usage: Usage::default(),
    }
}

async fn plan(pool: &SqlitePool, sql: String) -> String {
    let sql = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let rows = sqlx::query(sql).fetch_all(pool).await.expect("a plan");
    let steps = rows.iter().map(|row| row.get::<String, _>("detail"));
    steps.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn nothing_on_the_path_of_an_execution_scans_the_executions() {
    let directory = std::env::temp_dir().join(format!("phalanx-plans-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let config = Config::Sqlite {
        path: directory.join("store.db"),
    };
    let store = Store::open(&config, Secrets::new(&[7; 32]).expect("32 bytes"))
        .await
        .expect("opens");
    let Db::Lite { write, .. } = &store.db else {
        panic!("SQLite")
    };
    let count = 100_000;
    let mut transaction = write.begin().await.expect("begins");
    for from in (0..count).step_by(500) {
        let rows: Vec<New> = (from..from + 500).map(new).collect();
        New::statement(rows.iter())
            .build()
            .execute(&mut *transaction)
            .await
            .expect("inserts");
        let rows: Vec<End> = (from..from + 500)
            .filter(|n| n % 100 != 0)
            .map(end)
            .collect();
        End::statement(rows.iter())
            .build()
            .execute(&mut *transaction)
            .await
            .expect("ends");
    }
    transaction.commit().await.expect("commits");

    let start = Start {
        key: key(1),
        attempt: 1,
        at: Timestamp(1),
        holder: Holder {
            node_id: NodeId::from_uuid(uuid::Uuid::nil()),
            boot_id: BootId::from_uuid(uuid::Uuid::nil()),
        },
    };
    let progress = Progress {
        key: key(1),
        attempt: 1,
        percent: 1.0,
    };
    let starts = vec![start.clone(); 50];
    let ends: Vec<End> = (0..50).map(end).collect();
    let withdrawals: Vec<Withdraw> = (0..500)
        .map(|n| Withdraw {
            key: key(n),
            accepted_at: Timestamp(0),
        })
        .collect();
    let (page, total) = executions::list_sql(std::iter::empty());
    let (filtered, _) = executions::list_sql(["status", "session_id"].into_iter());
    // With and without what ANALYZE learns.
    for analyzed in [false, true] {
        if analyzed {
            sqlx::query("ANALYZE")
                .execute(write)
                .await
                .expect("analyzes");
        }
        let statements: [(&str, String); 13] = [
            (
                "start one",
                Start::statement::<sqlx::Sqlite>(std::iter::once(&start))
                    .sql()
                    .as_str()
                    .to_owned(),
            ),
            (
                "start many",
                Start::statement::<sqlx::Sqlite>(starts.iter())
                    .sql()
                    .as_str()
                    .to_owned(),
            ),
            (
                "end one",
                End::statement::<sqlx::Sqlite>(std::iter::once(&ends[0]))
                    .sql()
                    .as_str()
                    .to_owned(),
            ),
            (
                "end many",
                End::statement::<sqlx::Sqlite>(ends.iter())
                    .sql()
                    .as_str()
                    .to_owned(),
            ),
            (
                "withdraw many",
                Withdraw::statement::<sqlx::Sqlite>(withdrawals.iter())
                    .sql()
                    .as_str()
                    .to_owned(),
            ),
            (
                "progress",
                progress
                    .statement::<sqlx::Sqlite>()
                    .sql()
                    .as_str()
                    .to_owned(),
            ),
            ("page", page.clone()),
            ("count", total.clone()),
            ("filtered page", filtered.clone()),
            ("unfinished", executions::unfinished_sql()),
            ("what ended", crate::rollups::ENDED.to_owned()),
            ("purge", executions::PURGE.to_owned()),
            ("purge of logs", logs::PURGE.to_owned()),
        ];
        for (name, sql) in statements {
            let steps = plan(write, sql).await;
            let scans = steps
                .lines()
                .filter(|step| {
                    step.starts_with("SCAN e")
                        || step.starts_with("SCAN executions")
                        || step.starts_with("SCAN logs")
                })
                .filter(|step| !step.contains("LIMIT"));
            assert_eq!(scans.count(), 0, "{name} (analyzed: {analyzed}):\n{steps}");
            if name.starts_with("start") || name.starts_with("end") || name == "progress" {
                assert!(
                    steps.contains("(account=? AND agent_id=? AND id=?)"),
                    "{name} (analyzed: {analyzed}):\n{steps}"
                );
            }
            if name == "page" || name == "unfinished" || name == "what ended" {
                assert!(
                    !steps.contains("TEMP B-TREE"),
                    "{name} sorts (analyzed: {analyzed}):\n{steps}"
                );
            }
        }
    }
    store.close().await;
    std::fs::remove_dir_all(directory).expect("the directory");
}
