//! Executions: written in groups (see `write`), read by key, by list and by what is unfinished.

pub(crate) mod statements;
mod waiting;

use crate::{
    db::{Store, corrupt, document, failed, parsed, read, write},
    write::Op,
};
use domain::{
    Result, Timestamp,
    execution::{Attempt, Caller, Failure, Mode, Options, Priority, Status, Usage},
    id::{AccountId, AgentId, BootId, ExecutionId, InstanceId, NodeId, VersionId},
    waterfall::Waterfall,
};
use serde_json::value::RawValue;
use sqlx::Row;
use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

/// Which execution.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub account: AccountId,
    pub agent_id: AgentId,
    pub id: ExecutionId,
}

impl Key {
    pub(crate) fn words(&self) -> (&str, &str, &str) {
        (
            self.account.as_str(),
            self.agent_id.as_str(),
            self.id.as_str(),
        )
    }
}

/// An accepted execution.
#[derive(Debug, Clone)]
pub struct New {
    pub key: Key,
    pub version_id: VersionId,
    pub mode: Mode,
    pub priority: Priority,
    /// Of what the caller sent, where it chose the id itself.
    pub body_digest: Option<String>,
    pub caller: Caller,
    pub options: Options,
    pub input: Box<RawValue>,
    pub accepted_at: Timestamp,
}

/// An attempt begins: from queued at the attempt before.
#[derive(Debug, Clone)]
pub struct Start {
    pub key: Key,
    pub attempt: u32,
    pub at: Timestamp,
    pub holder: Holder,
}

/// Who runs an attempt.
#[derive(Debug, Clone)]
pub struct Holder {
    pub node_id: NodeId,
    pub boot_id: BootId,
}

/// An attempt ended: with the execution's end, or with `status` queued and a time to try again.
#[derive(Debug, Clone)]
pub struct End {
    pub key: Key,
    pub attempt: u32,
    pub status: Status,
    pub due_at: Timestamp,
    pub started_at: Option<Timestamp>,
    /// `None` exactly when `status` is queued.
    pub completed_at: Option<Timestamp>,
    pub attempts: Vec<Attempt>,
    pub instance_id: Option<InstanceId>,
    pub output: Option<Box<RawValue>>,
    pub error: Option<Failure>,
    pub duration_ms: f64,
    pub queue_ms: f64,
    /// Up to the handler's end.
    pub waterfall: Option<Waterfall>,
    pub recording: Option<Recording>,
    pub usage: Usage,
}

/// How long an end waits for its turn to be written, from the handler's end on. The row says it, so the commit itself is not in
/// it; clones are one, and what was said once stays.
#[derive(Debug, Clone)]
pub struct Recording {
    since: Instant,
    took: Arc<OnceLock<Duration>>,
}

impl Recording {
    pub fn since(since: Instant) -> Self {
        Self {
            since,
            took: Arc::default(),
        }
    }

    /// Whoever asks first is the one who writes.
    pub fn took(&self) -> Duration {
        *self.took.get_or_init(|| {
            let micros = self.since.elapsed().as_micros();
            Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
        })
    }
}

/// What was refused before any attempt of it began was never accepted: its inserter or its executor takes the row back.
#[derive(Debug, Clone)]
pub struct Withdraw {
    pub key: Key,
    /// The same id may have been accepted anew.
    pub accepted_at: Timestamp,
}

#[derive(Debug, Clone)]
pub struct Progress {
    pub key: Key,
    pub attempt: u32,
    pub percent: f64,
}

/// An execution as it is kept, without its input.
#[derive(Debug, Clone)]
pub struct Execution {
    pub key: Key,
    pub version_id: VersionId,
    pub mode: Mode,
    pub priority: Priority,
    pub status: Status,
    pub body_digest: Option<String>,
    pub caller: Caller,
    pub options: Options,
    pub accepted_at: Timestamp,
    pub due_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    pub attempt: u32,
    pub losses: u32,
    pub attempts: Vec<Attempt>,
    pub node_id: Option<NodeId>,
    pub boot_id: Option<BootId>,
    pub instance_id: Option<InstanceId>,
    pub progress: Option<f64>,
    pub output: Option<Box<RawValue>>,
    pub error: Option<Failure>,
    pub duration_ms: Option<f64>,
    pub queue_ms: Option<f64>,
    pub waterfall: Option<Waterfall>,
    pub usage: Usage,
}

/// Which executions of an agent, newest first.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub status: Option<Status>,
    pub session_id: Option<String>,
    /// Accepted in `[from, to)`.
    pub from: Option<Timestamp>,
    pub to: Option<Timestamp>,
}

const COLUMNS: &str = "account, agent_id, id, version_id, mode, priority, status, body_digest, caller, options, accepted_at, due_at, started_at, \
     completed_at, attempt, losses, attempts, node_id, boot_id, instance_id, progress, error, duration_ms, queue_ms, waterfall, cpu_ms, memory_peak_mb, tokens, \
     metrics, logs_dropped";

/// Reads one row of [`COLUMNS`] (and `output` where it was asked for), on either engine.
macro_rules! from_row {
    ($row:expr, $output:expr) => {{
        let row = $row;
        let text = |name: &str| row.try_get::<String, _>(name).map_err(failed);
        let maybe = |name: &str| row.try_get::<Option<String>, _>(name).map_err(failed);
        let number = |name: &str| row.try_get::<i64, _>(name).map_err(failed);
        let maybe_number = |name: &str| row.try_get::<Option<i64>, _>(name).map_err(failed);
        let figure = |name: &str| row.try_get::<Option<f64>, _>(name).map_err(failed);
        let output: Option<String> = if $output { maybe("output")? } else { None };
        Ok(Execution {
            key: Key {
                account: parsed(&text("account")?, "account")?,
                agent_id: parsed(&text("agent_id")?, "agent id")?,
                id: parsed(&text("id")?, "execution id")?,
            },
            version_id: parsed(&text("version_id")?, "version id")?,
            mode: parsed(&text("mode")?, "mode")?,
            priority: parsed(&text("priority")?, "priority")?,
            status: parsed(&text("status")?, "status")?,
            body_digest: maybe("body_digest")?,
            caller: document(&text("caller")?, "caller")?,
            options: document(&text("options")?, "options")?,
            accepted_at: Timestamp(number("accepted_at")?),
            due_at: Timestamp(number("due_at")?),
            started_at: maybe_number("started_at")?.map(Timestamp),
            completed_at: maybe_number("completed_at")?.map(Timestamp),
            attempt: u32::try_from(number("attempt")?).unwrap_or(u32::MAX),
            losses: u32::try_from(number("losses")?).unwrap_or(u32::MAX),
            attempts: document(&text("attempts")?, "attempts")?,
            node_id: maybe("node_id")?
                .map(|id| parsed(&id, "node id"))
                .transpose()?,
            boot_id: maybe("boot_id")?
                .map(|id| parsed(&id, "boot id"))
                .transpose()?,
            instance_id: maybe("instance_id")?
                .map(|id| parsed(&id, "instance id"))
                .transpose()?,
            progress: figure("progress")?,
            output: output
                .map(RawValue::from_string)
                .transpose()
                .map_err(|error| corrupt("output").because(error))?,
            error: maybe("error")?
                .map(|error| document(&error, "error"))
                .transpose()?,
            duration_ms: figure("duration_ms")?,
            queue_ms: figure("queue_ms")?,
            waterfall: maybe("waterfall")?
                .map(|waterfall| document(&waterfall, "waterfall"))
                .transpose()?,
            usage: Usage {
                cpu_ms: figure("cpu_ms")?,
                memory_peak_mb: figure("memory_peak_mb")?,
                tokens: maybe_number("tokens")?,
                metrics: maybe("metrics")?
                    .map(|metrics| document(&metrics, "metrics"))
                    .transpose()?
                    .unwrap_or_default(),
                logs_dropped: u64::try_from(number("logs_dropped")?).unwrap_or(0),
            },
        })
    }};
}

/// A page of an agent's executions, newest first, and their count; `columns` are held to `$7` and on. Both statements take
/// the same parameters.
pub(crate) fn list_sql<'a>(columns: impl Iterator<Item = &'a str>) -> (String, String) {
    let more: String = columns
        .enumerate()
        .map(|(at, column)| format!(" AND {column} = ${}", at + 7))
        .collect();
    let condition = format!(
        "account = $1 AND agent_id = $2 AND accepted_at >= 0 AND accepted_at >= $3 AND accepted_at < $4{more}"
    );
    (
        format!(
            "SELECT {COLUMNS} FROM executions WHERE {condition} ORDER BY accepted_at DESC, id DESC LIMIT $5 OFFSET $6"
        ),
        format!(
            "SELECT COUNT(*) FROM (SELECT 1 FROM executions WHERE {condition} LIMIT $5 OFFSET $6) AS all_of_them"
        ),
    )
}

pub(crate) fn one_sql() -> String {
    format!(
        "SELECT {COLUMNS}, output FROM executions WHERE account = $1 AND agent_id = $2 AND id = $3"
    )
}

pub(crate) fn unfinished_sql() -> String {
    format!(
        "SELECT {COLUMNS} FROM executions WHERE status IN ('queued', 'running') AND due_at < $1 ORDER BY due_at LIMIT $2"
    )
}

impl Store {
    /// Committed when it returns. `false`: there is an execution with this id already.
    pub async fn insert_execution(&self, new: New) -> Result<bool> {
        self.writer
            .write(|answer| Op::Insert(Box::new(new), answer))
            .await
    }

    /// `false`: it is not queued at the attempt before (another began it, or it ended).
    pub async fn start_execution(&self, start: Start) -> Result<bool> {
        self.writer
            .write(|answer| Op::Start(Box::new(start), answer))
            .await
    }

    /// `false`: it has its outcome already, or a later attempt, or there is no such row (yet).
    pub async fn end_execution(&self, end: End) -> Result<bool> {
        self.writer
            .write(|answer| Op::End(Box::new(end), answer))
            .await
    }

    /// The end of an execution that has no row yet, with the row; one that is there and open is ended. `false`: it has its
    /// outcome already, or a later attempt.
    pub async fn record_execution(&self, new: New, end: End) -> Result<bool> {
        self.writer
            .write(|answer| Op::Record(Box::new((new, end)), answer))
            .await
    }

    /// `false`: an attempt of it began, it has its outcome, or there is no such row (yet).
    pub async fn withdraw_execution(&self, withdraw: Withdraw) -> Result<bool> {
        self.writer
            .write(|answer| Op::Withdraw(Box::new(withdraw), answer))
            .await
    }

    /// Not waited for: only the newest figure matters.
    pub async fn note_progress(&self, progress: Progress) -> Result<()> {
        self.writer.send(Op::Progress(progress)).await
    }

    pub async fn execution(&self, key: &Key) -> Result<Option<Execution>> {
        let sql = sqlx::AssertSqlSafe(one_sql());
        let (account, agent, id) = key.words();
        read!(self, pool => {
            let row = sqlx::query(sql).bind(account).bind(agent).bind(id).fetch_optional(pool).await.map_err(failed)?;
            row.map(|row| from_row!(row, true)).transpose()
        })
    }

    pub async fn execution_input(&self, key: &Key) -> Result<Option<Box<RawValue>>> {
        let (account, agent, id) = key.words();
        let input: Option<(String,)> = read!(self, pool => sqlx::query_as("SELECT input FROM executions WHERE account = $1 AND agent_id = $2 AND id = $3")
            .bind(account).bind(agent).bind(id).fetch_optional(pool).await)
        .map_err(failed)?;
        input
            .map(|(text,)| RawValue::from_string(text))
            .transpose()
            .map_err(|error| corrupt("input").because(error))
    }

    /// One page, newest first, and how many there are in all.
    pub async fn executions(
        &self,
        account: &AccountId,
        agent: &AgentId,
        filter: &Filter,
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<Execution>, u64)> {
        // Only the conditions that are asked for: the count of an unfiltered list then reads nothing but the index.
        let words: Vec<(&str, &str)> = [
            ("status", filter.status.map(Status::as_str)),
            ("session_id", filter.session_id.as_deref()),
        ]
        .into_iter()
        .filter_map(|(column, word)| Some((column, word?)))
        .collect();
        let (page, count) = list_sql(words.iter().map(|(column, _)| *column));
        let from = filter.from.map_or(i64::MIN, |at| at.0);
        let to = filter.to.map_or(i64::MAX, |at| at.0);
        read!(self, pool => {
            let mut rows = sqlx::query(sqlx::AssertSqlSafe(page)).bind(account.as_str()).bind(agent.as_str()).bind(from).bind(to)
                .bind(i64::from(limit)).bind(i64::from(offset));
            let mut total = sqlx::query_as(sqlx::AssertSqlSafe(count)).bind(account.as_str()).bind(agent.as_str()).bind(from).bind(to)
                .bind(i64::MAX).bind(0_i64);
            for (_, word) in &words {
                rows = rows.bind(*word);
                total = total.bind(*word);
            }
            let rows = rows.fetch_all(pool).await.map_err(failed)?;
            let total: (i64,) = total.fetch_one(pool).await.map_err(failed)?;
            let executions = rows.into_iter().map(|row| from_row!(row, false)).collect::<Result<Vec<_>>>()?;
            Ok((executions, u64::try_from(total.0).unwrap_or(0)))
        })
    }

    /// Executions without an outcome that are due since before `due_before`, oldest first.
    pub async fn unfinished_executions(
        &self,
        due_before: Timestamp,
        limit: u32,
    ) -> Result<Vec<Execution>> {
        let sql = sqlx::AssertSqlSafe(unfinished_sql());
        read!(self, pool => {
            let rows = sqlx::query(sql).bind(due_before.0).bind(i64::from(limit)).fetch_all(pool).await.map_err(failed)?;
            rows.into_iter().map(|row| from_row!(row, false)).collect()
        })
    }

    /// How many executions of a version have no outcome yet.
    pub async fn open_executions_of_version(
        &self,
        account: &AccountId,
        version: &VersionId,
    ) -> Result<u64> {
        let sql = "SELECT COUNT(*) FROM executions WHERE status IN ('queued', 'running') AND account = $1 AND version_id = $2";
        let count: (i64,) = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(version.as_str()).fetch_one(pool).await).map_err(failed)?;
        Ok(u64::try_from(count.0).unwrap_or(0))
    }

    /// How many executions of an account wait or run, counted up to `most`.
    pub async fn open_executions(&self, account: &AccountId, most: u32) -> Result<u32> {
        let sql = "SELECT COUNT(*) FROM (SELECT 1 FROM executions WHERE status IN ('queued', 'running') AND account = $1 LIMIT $2) AS open";
        let (count,): (i64,) =
            read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(i64::from(most)).fetch_one(pool).await)
                .map_err(failed)?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Deletes at most `limit` executions that ended before `before`: how many went.
    pub async fn purge_executions(&self, before: Timestamp, limit: u32) -> Result<u64> {
        write!(self, pool => sqlx::query(PURGE).bind(before.0).bind(i64::from(limit)).execute(pool).await.map(|done| done.rows_affected()))
            .map_err(failed)
    }

    /// Executions that ended in `[from, to)` over all accounts, for system health.
    pub async fn count_ended_executions(&self, from: Timestamp, to: Timestamp) -> Result<u64> {
        let sql = "SELECT COUNT(*) FROM executions WHERE completed_at >= $1 AND completed_at < $2";
        let count: (i64,) =
            read!(self, pool => sqlx::query_as(sql).bind(from.0).bind(to.0).fetch_one(pool).await)
                .map_err(failed)?;
        Ok(u64::try_from(count.0).unwrap_or(0))
    }

    /// When the first of all accounts ended at `from` or later, if any did.
    pub async fn first_end_since(&self, from: Timestamp) -> Result<Option<Timestamp>> {
        let sql = "SELECT MIN(completed_at) FROM executions WHERE completed_at >= $1";
        let (first,): (Option<i64>,) =
            read!(self, pool => sqlx::query_as(sql).bind(from.0).fetch_one(pool).await)
                .map_err(failed)?;
        Ok(first.map(Timestamp))
    }
}

pub(crate) const PURGE: &str = "DELETE FROM executions WHERE (account, agent_id, id) IN \
     (SELECT account, agent_id, id FROM executions WHERE completed_at < $1 ORDER BY completed_at LIMIT $2)";
