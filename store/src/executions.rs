//! Executions: written in groups (see `write`), read by key, by list and by what is unfinished.

mod waiting;

use crate::{
    db::{Store, corrupt, document, failed, json, parsed, read, write},
    write::Op,
};
use domain::{
    Result, Timestamp,
    execution::{Attempt, Caller, Failure, Mode, Options, Priority, Status, Usage},
    id::{AccountId, AgentId, BootId, ExecutionId, InstanceId, NodeId, VersionId},
};
use serde_json::value::RawValue;
use sqlx::{Database, Encode, QueryBuilder, Row, Type};

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
    pub usage: Usage,
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

impl New {
    pub(crate) fn statement<'a, DB>(rows: impl Iterator<Item = &'a Self>) -> QueryBuilder<DB>
    where
        DB: Database,
        String: Type<DB> + for<'q> Encode<'q, DB>,
        Option<String>: Type<DB> + for<'q> Encode<'q, DB>,
        i64: Type<DB> + for<'q> Encode<'q, DB>,
    {
        let mut query = QueryBuilder::new(
            "INSERT INTO executions (account, agent_id, id, version_id, mode, priority, status, body_digest, session_id, caller, options, input, \
             accepted_at, due_at, attempt, losses, attempts, logs_dropped) ",
        );
        query.push_values(rows, |mut row, new| {
            row.push_bind(new.key.account.as_str().to_owned())
                .push_bind(new.key.agent_id.as_str().to_owned())
                .push_bind(new.key.id.as_str().to_owned())
                .push_bind(new.version_id.as_str().to_owned())
                .push_bind(new.mode.as_str().to_owned())
                .push_bind(new.priority.as_str().to_owned())
                .push("'queued'")
                .push_bind(new.body_digest.clone())
                .push_bind(new.caller.session_id.clone())
                .push_bind(json(&new.caller).unwrap_or_default())
                .push_bind(json(&new.options).unwrap_or_default())
                .push_bind(new.input.get().to_owned())
                .push_bind(new.accepted_at.0)
                .push_bind(new.accepted_at.0)
                .push("0, 0, '[]', 0");
        });
        query.push(" ON CONFLICT DO NOTHING RETURNING account, agent_id, id");
        query
    }
}

/// Rows that are written once, with their end.
pub(crate) fn whole<'a, DB>(rows: impl Iterator<Item = (&'a New, &'a End)>) -> QueryBuilder<DB>
where
    DB: Database,
    String: Type<DB> + for<'q> Encode<'q, DB>,
    Option<String>: Type<DB> + for<'q> Encode<'q, DB>,
    i64: Type<DB> + for<'q> Encode<'q, DB>,
    Option<i64>: Type<DB> + for<'q> Encode<'q, DB>,
    f64: Type<DB> + for<'q> Encode<'q, DB>,
    Option<f64>: Type<DB> + for<'q> Encode<'q, DB>,
{
    let mut query = QueryBuilder::new(
        "INSERT INTO executions (account, agent_id, id, version_id, mode, priority, session_id, caller, options, input, accepted_at, losses, \
         attempt, status, due_at, started_at, completed_at, attempts, instance_id, output, error, duration_ms, queue_ms, cpu_ms, memory_peak_mb, \
         tokens, metrics, logs_dropped) ",
    );
    query.push_values(rows, |mut row, (new, end)| {
        let usage = &end.usage;
        row.push_bind(new.key.account.as_str().to_owned())
            .push_bind(new.key.agent_id.as_str().to_owned())
            .push_bind(new.key.id.as_str().to_owned())
            .push_bind(new.version_id.as_str().to_owned())
            .push_bind(new.mode.as_str().to_owned())
            .push_bind(new.priority.as_str().to_owned())
            .push_bind(new.caller.session_id.clone())
            .push_bind(json(&new.caller).unwrap_or_default())
            .push_bind(json(&new.options).unwrap_or_default())
            .push_bind(new.input.get().to_owned())
            .push_bind(new.accepted_at.0)
            .push("0")
            .push_bind(i64::from(end.attempt))
            .push_bind(end.status.as_str().to_owned())
            .push_bind(end.due_at.0)
            .push_bind(end.started_at.map(|at| at.0))
            .push_bind(end.completed_at.map(|at| at.0))
            .push_bind(json(&end.attempts).unwrap_or_default())
            .push_bind(end.instance_id.as_ref().map(|id| id.as_str().to_owned()))
            .push_bind(end.output.as_ref().map(|output| output.get().to_owned()))
            .push_bind(end.error.as_ref().and_then(|error| json(error).ok()))
            .push_bind(end.duration_ms)
            .push_bind(end.queue_ms)
            .push_bind(usage.cpu_ms)
            .push_bind(usage.memory_peak_mb)
            .push_bind(usage.tokens)
            .push_bind(if usage.metrics.is_empty() {
                None
            } else {
                json(&usage.metrics).ok()
            })
            .push_bind(i64::try_from(usage.logs_dropped).unwrap_or(i64::MAX));
    });
    query.push(" ON CONFLICT DO NOTHING RETURNING account, agent_id, id");
    query
}

impl Start {
    pub(crate) fn statement<'a, DB>(rows: impl Iterator<Item = &'a Self>) -> QueryBuilder<DB>
    where
        DB: Database,
        String: Type<DB> + for<'q> Encode<'q, DB>,
        i64: Type<DB> + for<'q> Encode<'q, DB>,
    {
        let mut query = QueryBuilder::new(
            "UPDATE executions AS e SET status = 'running', attempt = v.column4, started_at = v.column5, node_id = v.column6, boot_id = v.column7 FROM (",
        );
        query.push_values(rows, |mut row, start| {
            row.push_bind(start.key.account.as_str().to_owned())
                .push_bind(start.key.agent_id.as_str().to_owned())
                .push_bind(start.key.id.as_str().to_owned())
                .push_bind(i64::from(start.attempt))
                .push_bind(start.at.0)
                .push_bind(start.holder.node_id.as_str().to_owned())
                .push_bind(start.holder.boot_id.as_str().to_owned());
        });
        query.push(
            ") AS v WHERE e.account = v.column1 AND e.agent_id = v.column2 AND e.id = v.column3 AND e.status = 'queued' \
             AND e.attempt = v.column4 - 1 RETURNING account, agent_id, id",
        );
        query
    }
}

impl End {
    pub(crate) fn statement<'a, DB>(rows: impl Iterator<Item = &'a Self>) -> QueryBuilder<DB>
    where
        DB: Database,
        String: Type<DB> + for<'q> Encode<'q, DB>,
        Option<String>: Type<DB> + for<'q> Encode<'q, DB>,
        i64: Type<DB> + for<'q> Encode<'q, DB>,
        Option<i64>: Type<DB> + for<'q> Encode<'q, DB>,
        f64: Type<DB> + for<'q> Encode<'q, DB>,
        Option<f64>: Type<DB> + for<'q> Encode<'q, DB>,
    {
        let mut query = QueryBuilder::new(
            "UPDATE executions AS e SET attempt = v.column4, status = v.column5, due_at = v.column6, started_at = v.column7, completed_at = v.column8, \
             attempts = v.column9, instance_id = v.column10, output = v.column11, error = v.column12, duration_ms = v.column13, queue_ms = v.column14, \
             cpu_ms = v.column15, memory_peak_mb = v.column16, tokens = v.column17, metrics = v.column18, logs_dropped = v.column19 FROM (",
        );
        query.push_values(rows, |mut row, end| {
            let usage = &end.usage;
            row.push_bind(end.key.account.as_str().to_owned())
                .push_bind(end.key.agent_id.as_str().to_owned())
                .push_bind(end.key.id.as_str().to_owned())
                .push_bind(i64::from(end.attempt))
                .push_bind(end.status.as_str().to_owned())
                .push_bind(end.due_at.0)
                .push_bind(end.started_at.map(|at| at.0))
                .push_bind(end.completed_at.map(|at| at.0))
                .push_bind(json(&end.attempts).unwrap_or_default())
                .push_bind(end.instance_id.as_ref().map(|id| id.as_str().to_owned()))
                .push_bind(end.output.as_ref().map(|output| output.get().to_owned()))
                .push_bind(end.error.as_ref().and_then(|error| json(error).ok()))
                .push_bind(end.duration_ms)
                .push_bind(end.queue_ms)
                .push_bind(usage.cpu_ms)
                .push_bind(usage.memory_peak_mb)
                .push_bind(usage.tokens)
                .push_bind(if usage.metrics.is_empty() {
                    None
                } else {
                    json(&usage.metrics).ok()
                })
                .push_bind(i64::try_from(usage.logs_dropped).unwrap_or(i64::MAX));
        });
        query.push(
            ") AS v WHERE e.account = v.column1 AND e.agent_id = v.column2 AND e.id = v.column3 AND e.status IN ('queued', 'running') \
             AND e.attempt <= v.column4 RETURNING account, agent_id, id",
        );
        query
    }
}

impl Withdraw {
    pub(crate) fn statement<'a, DB>(rows: impl Iterator<Item = &'a Self>) -> QueryBuilder<DB>
    where
        DB: Database,
        String: Type<DB> + for<'q> Encode<'q, DB>,
        i64: Type<DB> + for<'q> Encode<'q, DB>,
    {
        let mut query = QueryBuilder::new(
            "DELETE FROM executions WHERE status = 'queued' AND attempt = 0 AND (",
        );
        // Not `IN (VALUES …)`: SQLite scans the whole table for that.
        let mut terms = query.separated(" OR ");
        for row in rows {
            terms
                .push("(account = ")
                .push_bind_unseparated(row.key.account.as_str().to_owned())
                .push_unseparated(" AND agent_id = ")
                .push_bind_unseparated(row.key.agent_id.as_str().to_owned())
                .push_unseparated(" AND id = ")
                .push_bind_unseparated(row.key.id.as_str().to_owned())
                .push_unseparated(" AND accepted_at = ")
                .push_bind_unseparated(row.accepted_at.0)
                .push_unseparated(")");
        }
        query.push(") RETURNING account, agent_id, id");
        query
    }
}

impl Progress {
    pub(crate) fn statement<DB>(&self) -> QueryBuilder<DB>
    where
        DB: Database,
        String: Type<DB> + for<'q> Encode<'q, DB>,
        i64: Type<DB> + for<'q> Encode<'q, DB>,
        f64: Type<DB> + for<'q> Encode<'q, DB>,
    {
        let mut query = QueryBuilder::new("UPDATE executions SET progress = ");
        query
            .push_bind(self.percent)
            .push(" WHERE account = ")
            .push_bind(self.key.account.as_str().to_owned());
        query
            .push(" AND agent_id = ")
            .push_bind(self.key.agent_id.as_str().to_owned());
        query
            .push(" AND id = ")
            .push_bind(self.key.id.as_str().to_owned());
        query
            .push(" AND status = 'running' AND attempt = ")
            .push_bind(i64::from(self.attempt));
        query
    }
}

const COLUMNS: &str = "account, agent_id, id, version_id, mode, priority, status, body_digest, caller, options, accepted_at, due_at, started_at, \
     completed_at, attempt, losses, attempts, node_id, boot_id, instance_id, progress, error, duration_ms, queue_ms, cpu_ms, memory_peak_mb, tokens, \
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
    let condition =
        format!("account = $1 AND agent_id = $2 AND accepted_at >= $3 AND accepted_at < $4{more}");
    (
        format!(
            "SELECT {COLUMNS} FROM executions WHERE {condition} ORDER BY accepted_at DESC, id DESC LIMIT $5 OFFSET $6"
        ),
        format!(
            "SELECT COUNT(*) FROM (SELECT 1 FROM executions WHERE {condition} LIMIT $5 OFFSET $6) AS all_of_them"
        ),
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
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS}, output FROM executions WHERE account = $1 AND agent_id = $2 AND id = $3"
        ));
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
}

pub(crate) const PURGE: &str = "DELETE FROM executions WHERE (account, agent_id, id) IN \
     (SELECT account, agent_id, id FROM executions WHERE completed_at < $1 ORDER BY completed_at LIMIT $2)";
