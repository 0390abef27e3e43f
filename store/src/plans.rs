//! What every execution costs must not grow with how many there are: the plans for the statements on its path.

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
use sqlx::{
    Arguments as _, AssertSqlSafe, Connection as _, Execute as _, Executor as _, PgConnection,
    Postgres, QueryBuilder, Row, SqlitePool, postgres::PgArguments,
};

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
            callback_url: None,
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
        waterfall: None,
        recording: None,
        usage: Usage::default(),
    }
}

fn start() -> Start {
    Start {
        key: key(1),
        attempt: 1,
        at: Timestamp(1),
        holder: Holder {
            node_id: NodeId::from_uuid(uuid::Uuid::nil()),
            boot_id: BootId::from_uuid(uuid::Uuid::nil()),
        },
    }
}

fn progress() -> Progress {
    Progress {
        key: key(1),
        attempt: 1,
        percent: 1.0,
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

    let (start, progress) = (start(), progress());
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
        let statements: [(&str, String); 16] = [
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
            ("samples", crate::rollouts::ENDED.to_owned()),
            ("orders", crate::rollouts::ORDERS.to_owned()),
            ("failed checks", crate::rollouts::FAILED_CHECKS.to_owned()),
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
                        || step.starts_with("SCAN deployment_orders")
                        || step.starts_with("SCAN instances")
                })
                .filter(|step| !step.contains("LIMIT"));
            assert_eq!(scans.count(), 0, "{name} (analyzed: {analyzed}):\n{steps}");
            if name.starts_with("start") || name.starts_with("end") || name == "progress" {
                assert!(
                    steps.contains("(account=? AND agent_id=? AND id=?)"),
                    "{name} (analyzed: {analyzed}):\n{steps}"
                );
            }
            if ["page", "unfinished", "what ended", "samples", "orders"].contains(&name) {
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

async fn pg_plan(connection: &mut PgConnection, sql: &str, arguments: PgArguments) -> String {
    let sql = AssertSqlSafe(format!("EXPLAIN {sql}"));
    let query = sqlx::query_with(sql, arguments).persistent(false);
    let rows = query.fetch_all(connection).await.expect("a plan");
    let steps = rows.iter().map(|row| row.get::<String, _>(0));
    steps.collect::<Vec<_>>().join("\n")
}

async fn built(connection: &mut PgConnection, mut statement: QueryBuilder<Postgres>) -> String {
    let mut query = statement.build();
    let arguments = query.take_arguments().expect("arguments");
    let sql = query.sql();
    pg_plan(connection, sql.as_str(), arguments.unwrap_or_default()).await
}

/// Postgres knows nothing of a table that was never analyzed, and a connection keeps the plan that it made then.
#[tokio::test]
async fn postgres_finds_an_execution_by_its_key_whatever_it_knows() {
    let url = std::env::var("PHALANX_TEST_POSTGRES_URL").expect("tests/run starts a Postgres");
    let schema = format!("plans_{}", uuid::Uuid::now_v7().as_simple());
    let mut connection = PgConnection::connect(&url).await.expect("connects");
    let schemas = |verb: &str, how: &str| AssertSqlSafe(format!("{verb} SCHEMA {schema} {how}"));
    let made = connection.execute(schemas("CREATE", "")).await;
    made.expect("a schema");
    let mark = if url.contains('?') { '&' } else { '?' };
    let config = Config::Postgres {
        url: format!("{url}{mark}options=-csearch_path%3D{schema}").into(),
        connections: 2,
    };
    let store = Store::open(&config, Secrets::new(&[7; 32]).expect("32 bytes"))
        .await
        .expect("opens");
    let path = || AssertSqlSafe(format!("SET search_path = {schema}"));
    connection.execute(path()).await.expect("a path");
    // Nobody analyzes it meanwhile.
    let alone = "ALTER TABLE executions SET (autovacuum_enabled = off)";
    connection.execute(alone).await.expect("altered");

    let (start, progress) = (start(), progress());
    let starts = vec![start.clone(); 24];
    let ends: Vec<End> = (0..24).map(end).collect();
    let mut count = 0;
    for more in [0, 300, 20_000] {
        for from in (count..count + more).step_by(100) {
            let rows: Vec<New> = (from..from + 100).map(new).collect();
            let mut statement = New::statement::<Postgres>(rows.iter());
            let inserted = statement.build().execute(&mut connection).await;
            inserted.expect("inserts");
        }
        count += more;
        let group = [
            ("start one", Start::statement(std::iter::once(&start))),
            ("start many", Start::statement(starts.iter())),
            ("end one", End::statement(std::iter::once(&ends[0]))),
            ("end many", End::statement(ends.iter())),
            ("progress", progress.statement()),
        ];
        // As the group commit's connection is set.
        let set = connection.execute(crate::write::BY_KEY).await;
        set.expect("settings");
        for (name, statement) in group {
            let steps = built(&mut connection, statement).await;
            assert!(by_key(&steps), "{name}, {count} rows:\n{steps}");
        }
        connection.execute("RESET ALL").await.expect("settings");
        connection.execute(path()).await.expect("a path");
        let one = words(&["a", "agent-1", "e1"], &[]);
        let steps = pg_plan(&mut connection, &executions::one_sql(), one).await;
        assert!(
            count == 0 || by_key(&steps),
            "read one, {count} rows:\n{steps}"
        );
        let (page, _) = executions::list_sql(std::iter::empty());
        let arguments = words(&["a", "agent-1"], &[0, i64::MAX, 10, 0]);
        let steps = pg_plan(&mut connection, &page, arguments).await;
        assert!(
            count < 1000 || steps.contains("executions_listed"),
            "page, {count} rows:\n{steps}"
        );
    }
    store.close().await;
    let dropped = connection.execute(schemas("DROP", "CASCADE")).await;
    dropped.expect("dropped");
}

fn words(words: &[&str], numbers: &[i64]) -> PgArguments {
    let mut arguments = PgArguments::default();
    for word in words {
        arguments.add(*word).expect("added");
    }
    for number in numbers {
        arguments.add(*number).expect("added");
    }
    arguments
}

fn by_key(steps: &str) -> bool {
    steps.contains("executions_pkey")
        && !["executions_listed", "executions_open", "Seq Scan"]
            .iter()
            .any(|other| steps.contains(other))
}
