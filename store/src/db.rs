//! The two engines behind one handle.
//!
//! SQLite: one writes at a time (the engine allows no more, and whoever waits here waits in order), some read; WAL, so that
//! readers never wait for a writer. Postgres: one pool does both. Beside the pools, the group commit has a connection of its own:
//! a pool's are asked whether they live whenever they are taken and given back.

use crate::{blobs::Blobs, clock::Clock, seal::Secrets, write::Writer};
use domain::{Error, Kind, Result, Secret, Timestamp};
use sqlx::{
    Connection as _, PgPool, SqlitePool,
    migrate::{Migration, MigrationType, Migrator},
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{sync::Mutex, task::JoinSet};

/// Where the rows are.
#[derive(Debug, Clone)]
pub enum Config {
    /// A file that this process alone uses.
    Sqlite {
        path: PathBuf,
    },
    Postgres {
        url: Secret,
        connections: u32,
    },
}

/// A handle to the rows; cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) db: Db,
    pub(crate) writer: Writer,
    pub(crate) secrets: Secrets,
    clock: Clock,
    _tasks: Arc<JoinSet<()>>,
    pub(crate) blobs: Option<Blobs>,
}

#[derive(Clone)]
pub(crate) enum Db {
    Lite {
        write: SqlitePool,
        read: SqlitePool,
        turn: Arc<Mutex<()>>,
    },
    Pg(PgPool),
}

/// Runs one expression against the pool for reading. Both arms must end in the same type.
macro_rules! read {
    ($store:expr, $pool:ident => $body:expr) => {
        match &$store.db {
            $crate::db::Db::Lite { read: $pool, .. } => $body,
            $crate::db::Db::Pg($pool) => $body,
        }
    };
}

/// Runs one expression against the pool for writing. Both arms must end in the same type.
macro_rules! write {
    ($store:expr, $pool:ident => $body:expr) => {
        match &$store.db {
            $crate::db::Db::Lite {
                write: $pool, turn, ..
            } => {
                let _turn = tokio::time::timeout($crate::db::WAIT, turn.lock())
                    .await
                    .map_err(|_| $crate::db::failed(sqlx::Error::PoolTimedOut))?;
                $body
            }
            $crate::db::Db::Pg($pool) => $body,
        }
    };
}

pub(crate) use {read, write};

/// How long a query waits for a connection, and SQLite for its lock.
pub(crate) const WAIT: Duration = Duration::from_secs(5);
const READERS: u32 = 4;
/// A connection that was used so lately is not asked whether it lives.
pub(crate) const TRUSTED: Duration = Duration::from_secs(1);

impl Store {
    /// Opens the rows and brings their schema up to date. Fails with what a person can do about it.
    pub async fn open(config: &Config, secrets: Secrets) -> Result<Self> {
        let db = match config {
            Config::Sqlite { path } => open_sqlite(path).await?,
            Config::Postgres { url, connections } => open_postgres(url, *connections).await?,
        };
        let (clock, mut tasks) = (Clock::default(), JoinSet::new());
        if let Db::Pg(pool) = &db {
            clock.measure(pool).await.map_err(failed)?;
            tasks.spawn(clock.clone().keep(pool.clone()));
        }
        let writer = Writer::start(db.clone());
        Ok(Self {
            db,
            writer,
            secrets,
            clock,
            _tasks: Arc::new(tasks),
            blobs: None,
        })
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The time that every process of this installation goes by.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The same in microseconds since the Unix epoch: for spans that begin in one process and end in another.
    pub fn now_us(&self) -> i64 {
        self.clock.now_us()
    }

    /// From here on large bytes go into an object store; `None`: into rows. What lies in rows already stays readable.
    #[must_use]
    pub fn with_blobs(mut self, blobs: Option<Blobs>) -> Self {
        self.blobs = blobs;
        self
    }

    pub fn blobs(&self) -> Option<&Blobs> {
        self.blobs.as_ref()
    }

    /// One round trip, for health.
    pub async fn ping(&self) -> Result<()> {
        let one: (i64,) =
            read!(self, pool => sqlx::query_as("SELECT CAST(1 AS BIGINT)").fetch_one(pool).await)
                .map_err(failed)?;
        debug_assert_eq!(one.0, 1);
        Ok(())
    }

    /// Open connections, for health.
    pub fn connections(&self) -> u32 {
        match &self.db {
            Db::Lite { write, read, .. } => write.size() + read.size(),
            Db::Pg(pool) => pool.size(),
        }
    }

    /// Returns when what was handed to the group commit before is on disk.
    pub async fn flush(&self) {
        self.writer.flush().await;
    }

    /// Writes what waits, then closes.
    pub async fn close(&self) {
        self.writer.flush().await;
        match &self.db {
            Db::Lite { write, read, .. } => {
                read.close().await;
                write.close().await;
            }
            Db::Pg(pool) => pool.close().await,
        }
    }
}

async fn open_sqlite(path: &PathBuf) -> Result<Db> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // A killed process loses nothing; a power cut may lose the last commits, never the file.
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(WAIT)
        .pragma("cache_size", "-65536")
        .pragma("temp_store", "memory")
        .pragma("wal_autocheckpoint", "4000");
    let opened = |error: sqlx::Error| {
        Error::unavailable(format!(
            "the database {} cannot be opened: {}",
            path.display(),
            words(&error)
        ))
        .because(error)
    };
    let write = SqlitePoolOptions::new()
        .max_connections(1)
        .test_before_acquire(false)
        .acquire_timeout(WAIT)
        .connect_with(options.clone())
        .await
        .map_err(opened)?;
    migrator().run(&write).await.map_err(migrated)?;
    let read = SqlitePoolOptions::new()
        .max_connections(READERS)
        .test_before_acquire(false)
        .acquire_timeout(WAIT)
        .connect_with(options.read_only(true))
        .await
        .map_err(opened)?;
    Ok(Db::Lite {
        write,
        read,
        turn: Arc::default(),
    })
}

async fn open_postgres(url: &str, connections: u32) -> Result<Db> {
    let pool = PgPoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(false)
        .before_acquire(|connection, state| {
            Box::pin(async move {
                if state.idle_for > TRUSTED {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .acquire_timeout(WAIT)
        .connect(url)
        .await
        .map_err(|error| unreachable(url, error))?;
    crate::schema::bring_up(&pool).await?;
    Ok(Db::Pg(pool))
}

pub(crate) fn unreachable(url: &str, error: sqlx::Error) -> Error {
    let hint = if names_a_missing_file(url, &error) {
        "; look for the files that sslrootcert, sslcert or sslkey of the URL name"
    } else {
        ""
    };
    let words = words(&error);
    Error::unavailable(format!("Postgres cannot be reached: {words}{hint}")).because(error)
}

fn names_a_missing_file(url: &str, error: &sqlx::Error) -> bool {
    let missing =
        matches!(error, sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::NotFound);
    missing
        && ["sslrootcert=", "sslcert=", "sslkey="]
            .iter()
            .any(|name| url.contains(name))
}

pub(crate) fn migrator() -> Migrator {
    let texts = [
        (1, "init", include_str!("../migrations/0001_init.sql")),
        (2, "blobs", include_str!("../migrations/0002_blobs.sql")),
        (3, "leases", include_str!("../migrations/0003_leases.sql")),
        (
            4,
            "rollouts",
            include_str!("../migrations/0004_rollouts.sql"),
        ),
        (5, "rollups", include_str!("../migrations/0005_rollups.sql")),
        (6, "alerts", include_str!("../migrations/0006_alerts.sql")),
        (7, "health", include_str!("../migrations/0007_health.sql")),
        (8, "keys", include_str!("../migrations/0008_keys.sql")),
        (
            9,
            "deliveries",
            include_str!("../migrations/0009_deliveries.sql"),
        ),
        (
            10,
            "figures",
            include_str!("../migrations/0010_figures.sql"),
        ),
        (
            11,
            "callbacks",
            include_str!("../migrations/0011_callbacks.sql"),
        ),
        (
            12,
            "webhook_secrets",
            include_str!("../migrations/0012_webhook_secrets.sql"),
        ),
        (13, "judged", include_str!("../migrations/0013_judged.sql")),
        (14, "listed", include_str!("../migrations/0014_listed.sql")),
        (
            15,
            "instances_of_agent",
            include_str!("../migrations/0015_instances_of_agent.sql"),
        ),
        (16, "limits", include_str!("../migrations/0016_limits.sql")),
        (
            19,
            "peppers",
            include_str!("../migrations/0019_peppers.sql"),
        ),
        (
            21,
            "system_lock",
            include_str!("../migrations/0021_system_lock.sql"),
        ),
        (
            22,
            "due_in_turn",
            include_str!("../migrations/0022_due_in_turn.sql"),
        ),
        (
            23,
            "starts_and_looks",
            include_str!("../migrations/0023_starts_and_looks.sql"),
        ),
        (
            24,
            "used_archives",
            include_str!("../migrations/0024_used_archives.sql"),
        ),
    ];
    let migrations = texts.into_iter().map(|(version, name, text)| {
        let text = sqlx::SqlStr::from_static(text);
        Migration::new(version, name.into(), MigrationType::Simple, text, false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    // A newer release may have been here: its migrations only add, so this one still works beside it.
    migrator.set_ignore_missing(true);
    migrator
}

pub(crate) fn migrated(error: sqlx::migrate::MigrateError) -> Error {
    Error::unavailable(format!(
        "the database's schema cannot be brought up to date: {error}"
    ))
    .because(error)
}

/// What a person may read of a database error: the database's own words, without the statement.
fn words(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(database) => database.message().to_owned(),
        sqlx::Error::PoolTimedOut => "no connection within 5 s".to_owned(),
        other => other.to_string(),
    }
}

/// Translates where it arises. A full disk or a lost server is said; the rest is for the log.
pub(crate) fn failed(error: sqlx::Error) -> Error {
    let message = words(&error);
    let full = message.contains("disk is full") || message.contains("No space left");
    let gone = matches!(
        &error,
        sqlx::Error::PoolTimedOut
            | sqlx::Error::Io(_)
            | sqlx::Error::PoolClosed
            // A connection that breaks in the middle of a word.
            | sqlx::Error::Protocol(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::BeginFailed
    ) || full
        || message.contains("is locked")
        || is_away(&error);
    if full {
        return Error::unavailable("the database's disk is full; free some room").because(error);
    }
    if gone {
        return Error::unavailable("the database does not answer; try again").because(error);
    }
    Error::new(Kind::Internal, "the database refused a statement").because(error)
}

/// A server that starts, ends, fails over or has no connection left: the same statement may go through in a moment.
/// By SQLSTATE, appendix A of Postgres' manual: 08 connection, 25006 read-only, 55000 closed, 53 resources, 57P intervention.
fn is_away(error: &sqlx::Error) -> bool {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| {
        let code = code.as_ref();
        // SQLite's codes are small numbers.
        code.len() == 5
            && (["25006", "55000"].contains(&code)
                || ["08", "53", "57P"]
                    .iter()
                    .any(|class| code.starts_with(class)))
    })
}

/// A row that holds what we never wrote.
pub(crate) fn corrupt(what: &str) -> Error {
    Error::internal(format!("a row holds a bad {what}"))
}

pub(crate) fn parsed<T: std::str::FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse().map_err(|_| corrupt(what))
}

pub(crate) fn document<T: serde::de::DeserializeOwned>(text: &str, what: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| corrupt(what).because(error))
}

pub(crate) fn json<T: serde::Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::internal("a value cannot be written as JSON").because(error))
}
