//! What the group commit says: one statement for many rows, the same on both engines.

use super::{End, New, Progress, Start, Withdraw};
use crate::db::json;
use sqlx::{Database, Encode, QueryBuilder, Type};

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
