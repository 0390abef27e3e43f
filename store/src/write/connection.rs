//! The connection of the group commit and the statements of a batch on it.

use super::{Batch, Changed};
use crate::{
    db::{Db, TRUSTED, WAIT, failed},
    executions::{End, New, Start, Withdraw, statements},
    logs::Entry,
};
use domain::Result;
use sqlx::{Connection as _, Executor, PgConnection, SqliteConnection};
use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

/// Rows in one statement, the largest of [`statements::SIZES`].
const ROWS: usize = 64;
/// Rows are found by their key. A plan that Postgres made while the table was small, and keeps, would read all of it.
pub(crate) const BY_KEY: &str =
    "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";

pub(super) struct Connection {
    db: Db,
    open: Option<Open>,
    used: Instant,
}

enum Open {
    Lite(SqliteConnection),
    Pg(PgConnection),
}

impl Open {
    async fn answers(&mut self) -> bool {
        match self {
            Self::Lite(_) => true,
            Self::Pg(connection) => connection.ping().await.is_ok(),
        }
    }
}

impl Connection {
    /// Connects when there is something to write.
    pub fn new(db: Db) -> Self {
        Self {
            db,
            open: None,
            used: Instant::now(),
        }
    }

    /// All of the batch or, with an error, nothing of it. After an error the connection is not used again.
    pub async fn commit(&mut self, batch: &Batch) -> Result<Changed> {
        if batch.len() == 0 {
            return Ok(Changed::default());
        }
        let done = self.try_commit(batch).await;
        self.used = Instant::now();
        done.map_err(failed)
    }

    async fn try_commit(&mut self, batch: &Batch) -> Result<Changed, sqlx::Error> {
        let _turn = match &self.db {
            Db::Lite { turn, .. } => Some(turn.clone().lock_owned().await),
            Db::Pg(_) => None,
        };
        let mut open = tokio::time::timeout(WAIT, self.connected())
            .await
            .map_err(|_| sqlx::Error::PoolTimedOut)??;
        let changed = match &mut open {
            Open::Lite(connection) => commit_lite(connection, batch).await?,
            Open::Pg(connection) => commit_pg(connection, batch).await?,
        };
        self.open = Some(open);
        Ok(changed)
    }

    async fn connected(&mut self) -> Result<Open, sqlx::Error> {
        let closed = match &self.db {
            Db::Lite { write, .. } => write.is_closed(),
            Db::Pg(pool) => pool.is_closed(),
        };
        if closed {
            return Err(sqlx::Error::PoolClosed);
        }
        if let Some(mut open) = self.open.take() {
            let trusted = self.used.elapsed() < TRUSTED;
            if trusted || open.answers().await {
                return Ok(open);
            }
        }
        Ok(match &self.db {
            Db::Lite { write, .. } => {
                Open::Lite(SqliteConnection::connect_with(&write.connect_options()).await?)
            }
            Db::Pg(pool) => {
                let mut connection = PgConnection::connect_with(&pool.connect_options()).await?;
                connection.execute(BY_KEY).await?;
                Open::Pg(connection)
            }
        })
    }
}

/// Runs one kind of a batch's keyed writes: statements of at most [`ROWS`] rows, no key twice in one of them.
macro_rules! keyed {
    ($connection:expr, $writes:expr, $statement:path, $one:ident => $key:expr, $row:expr, $changed:expr) => {
        for round in rounds($writes.iter().map(|$one| $key.words())) {
            for places in round.chunks(ROWS) {
                let mut query = $statement(places.iter().map(|at| &$writes[*at]).map(|$one| $row));
                let rows = query
                    .build_query_as::<(String, String, String)>()
                    .fetch_all(&mut *$connection)
                    .await?;
                let rows: HashSet<(String, String, String)> = rows.into_iter().collect();
                $changed.extend(places.iter().filter(|at| {
                    let $one = &$writes[**at];
                    let key = $key.words();
                    rows.contains(&(key.0.to_owned(), key.1.to_owned(), key.2.to_owned()))
                }));
            }
        }
    };
}

/// The statements of a batch on one connection.
macro_rules! apply {
    ($connection:expr, $batch:expr) => {{
        let mut changed = Changed::default();
        keyed!($connection, $batch.inserts, New::statement, one => one.0.key, one.0.as_ref(), changed.inserts);
        keyed!($connection, $batch.starts, Start::statement, one => one.0.key, one.0.as_ref(), changed.starts);
        keyed!($connection, $batch.ends, End::statement, one => one.0.key, one.0.as_ref(), changed.ends);
        keyed!($connection, $batch.records, statements::record, one => one.0.0.key, (&one.0.0, &one.0.1), changed.records);
        keyed!($connection, $batch.withdrawals, Withdraw::statement, one => one.0.key, one.0.as_ref(), changed.withdrawals);
        for progress in &$batch.progress {
            progress
                .statement()
                .build()
                .execute(&mut *$connection)
                .await?;
        }
        for chunk in $batch.logs.chunks(ROWS) {
            Entry::statement(chunk)
                .build()
                .persistent(false)
                .execute(&mut *$connection)
                .await?;
        }
        changed
    }};
}

async fn commit_lite(
    connection: &mut SqliteConnection,
    batch: &Batch,
) -> Result<Changed, sqlx::Error> {
    if is_one_statement(batch) {
        return Ok(apply!(connection, batch));
    }
    let mut transaction = connection.begin().await?;
    let changed = apply!(transaction, batch);
    transaction.commit().await?;
    Ok(changed)
}

async fn commit_pg(connection: &mut PgConnection, batch: &Batch) -> Result<Changed, sqlx::Error> {
    if is_one_statement(batch) {
        return Ok(apply!(connection, batch));
    }
    let mut transaction = connection.begin().await?;
    let changed = apply!(transaction, batch);
    transaction.commit().await?;
    Ok(changed)
}

/// One statement is a transaction of its own: two calls less.
fn is_one_statement(batch: &Batch) -> bool {
    fn one<'a>(keys: impl ExactSizeIterator<Item = (&'a str, &'a str, &'a str)>) -> bool {
        keys.len() <= ROWS && rounds(keys).len() == 1
    }
    let all = batch.len();
    all == 1
        || (batch.inserts.len() == all && one(batch.inserts.iter().map(|one| one.0.key.words())))
        || (batch.starts.len() == all && one(batch.starts.iter().map(|one| one.0.key.words())))
        || (batch.ends.len() == all && one(batch.ends.iter().map(|one| one.0.key.words())))
        || (batch.records.len() == all && one(batch.records.iter().map(|one| one.0.0.key.words())))
}

/// The places of a batch in rounds, no key twice in one round: a statement cannot write one row twice, and which of two
/// writers wins is for their order to say.
fn rounds<'a>(keys: impl Iterator<Item = (&'a str, &'a str, &'a str)>) -> Vec<Vec<usize>> {
    let mut seen: HashMap<(&str, &str, &str), usize> = HashMap::new();
    let mut rounds: Vec<Vec<usize>> = Vec::new();
    for (at, key) in keys.enumerate() {
        let times = seen.entry(key).or_default();
        if rounds.len() == *times {
            rounds.push(Vec::new());
        }
        rounds[*times].push(at);
        *times += 1;
    }
    rounds
}
