//! A store of one's own on either engine, and the values that cases write.

use domain::{
    Timestamp,
    execution::{Caller, Mode, Options, Priority, Status, Usage},
    id::{AccountId, AgentId, VersionId},
    retry,
};
use serde_json::value::RawValue;
use std::{
    env, fs,
    path::PathBuf,
    process,
    sync::atomic::{AtomicU32, Ordering},
};
use store::{
    Config, Secrets, Store,
    executions::{End, Holder, Key, New, Start},
};

pub struct World {
    pub store: Store,
    config: Config,
    directory: Option<PathBuf>,
    schema: Option<(String, String)>,
}

const POSTGRES: &str = "PHALANX_TEST_POSTGRES_URL";
static WORLDS: AtomicU32 = AtomicU32::new(0);

pub fn secrets() -> Secrets {
    Secrets::new(&[7; 32]).expect("32 bytes")
}

impl World {
    pub async fn sqlite(case: &str) -> Self {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let name = format!("phalanx-store-{}-{number}-{case}", process::id());
        let directory = env::temp_dir().join(name);
        fs::create_dir_all(&directory).expect("a directory for the test");
        let config = Config::Sqlite {
            path: directory.join("store.db"),
        };
        Self {
            store: Store::open(&config, secrets()).await.expect("opens"),
            config,
            directory: Some(directory),
            schema: None,
        }
    }

    pub async fn postgres(case: &str) -> Self {
        let Ok(url) = env::var(POSTGRES) else {
            panic!("{POSTGRES} is not set: run `tests/run`, which starts a Postgres and sets it");
        };
        let schema = format!("t_{}_{case}", uuid::Uuid::now_v7().as_simple());
        // Postgres cuts names at 63 bytes.
        let schema = schema[..schema.len().min(63)].to_owned();
        statement(&url, &format!("CREATE SCHEMA {schema}")).await;
        let mark = if url.contains('?') { '&' } else { '?' };
        let config = Config::Postgres {
            url: format!("{url}{mark}options=-csearch_path%3D{schema}").into(),
            connections: 4,
        };
        Self {
            store: Store::open(&config, secrets()).await.expect("opens"),
            config,
            directory: None,
            schema: Some((url, schema)),
        }
    }

    /// The same rows, for whoever has these secrets.
    pub async fn another(&self, secrets: Secrets) -> Store {
        Store::open(&self.config, secrets).await.expect("opens")
    }

    /// What nobody's code would write.
    pub async fn write(&self, sql: &str) {
        match &self.config {
            Config::Sqlite { path } => {
                use sqlx::{ConnectOptions as _, Connection as _};
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
                let mut connection = options.connect().await.expect("opens");
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
                    .execute(&mut connection)
                    .await
                    .expect("written");
                connection.close().await.expect("closes");
            }
            Config::Postgres { url, .. } => statement(url, sql).await,
        }
    }

    pub async fn close(self) {
        self.store.close().await;
        if let Some(directory) = self.directory {
            fs::remove_dir_all(directory).expect("the test's directory");
        }
        if let Some((url, schema)) = self.schema {
            statement(&url, &format!("DROP SCHEMA {schema} CASCADE")).await;
        }
    }
}

pub async fn statement(url: &str, sql: &str) {
    use sqlx::Connection;
    let mut connection = sqlx::PgConnection::connect(url)
        .await
        .unwrap_or_else(|error| panic!("the server of {POSTGRES} cannot be reached: {error}"));
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(&mut connection)
        .await
        .expect("the test's statement");
    connection.close().await.expect("closes");
}

pub fn account(name: &str) -> AccountId {
    name.parse().expect("an account id")
}

pub fn agent(name: &str) -> AgentId {
    name.parse().expect("an agent id")
}

pub fn version(n: u128) -> VersionId {
    VersionId::from_uuid(uuid::Uuid::from_u128(n))
}

pub fn json(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("JSON")
}

pub fn key(account_name: &str, agent_name: &str, id: &str) -> Key {
    Key {
        account: account(account_name),
        agent_id: agent(agent_name),
        id: id.parse().expect("an execution id"),
    }
}

/// An execution of account `a`, agent `echo`.
pub fn mine(id: &str) -> Key {
    key("a", "echo", id)
}

pub fn options(mode: Mode) -> Options {
    Options {
        mode,
        priority: Priority::Normal,
        timeout_s: 30,
        retry: retry::Policy::default(),
        retry_explicit: false,
        trace: true,
        callback_url: None,
    }
}

pub fn new(key: &Key, at: i64) -> New {
    New {
        key: key.clone(),
        version_id: version(1),
        mode: Mode::Async,
        priority: Priority::Normal,
        body_digest: None,
        caller: Caller::default(),
        options: options(Mode::Async),
        input: json("{}"),
        accepted_at: Timestamp(at),
    }
}

pub fn holder(n: u128) -> Holder {
    Holder {
        node_id: domain::id::NodeId::from_uuid(uuid::Uuid::from_u128(n)),
        boot_id: domain::id::BootId::from_uuid(uuid::Uuid::from_u128(n)),
    }
}

pub fn start(key: &Key, attempt: u32, at: i64) -> Start {
    Start {
        key: key.clone(),
        attempt,
        at: Timestamp(at),
        holder: holder(1),
    }
}

pub fn end(key: &Key, attempt: u32, status: Status, at: i64) -> End {
    End {
        key: key.clone(),
        attempt,
        status,
        due_at: Timestamp(at),
        started_at: Some(Timestamp(at - 5)),
        completed_at: (status != Status::Queued).then_some(Timestamp(at)),
        attempts: Vec::new(),
        instance_id: None,
        output: (status == Status::Completed).then(|| json("42")),
        error: None,
        duration_ms: 5.0,
        queue_ms: 0.5,
        waterfall: None,
        recording: None,
        usage: Usage::default(),
    }
}
