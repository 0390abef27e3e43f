//! What the group commit says: one statement for many rows, the same on both engines. It is parsed once for each size: where
//! there are fewer rows than its size, the rest is null and written nowhere.
//!
//! A status is asked for through COALESCE: the index of open executions must not look like a way to one row, as it does while
//! the table is small.

use super::{End, New, Progress, Recording, Start, Withdraw};
use crate::db::json;
use domain::waterfall::Waterfall;
use sqlx::{Database, Encode, QueryBuilder, Type, query_builder::Separated};

/// How many rows a statement may be made for.
pub(crate) const SIZES: [usize; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];

/// The rows, and nothing in the places that are left of the next of [`SIZES`].
fn filled<'a, T>(
    rows: impl ExactSizeIterator<Item = T> + 'a,
) -> impl Iterator<Item = Option<T>> + 'a
where
    T: 'a,
{
    let size = SIZES
        .into_iter()
        .find(|size| *size >= rows.len())
        .unwrap_or(rows.len());
    let empty = size - rows.len();
    rows.map(Some).chain((0..empty).map(|_| None))
}

fn text(words: &str) -> String {
    words.to_owned()
}

/// The columns that an execution has from its acceptance.
const ACCEPTED: &str = "account, agent_id, id, version_id, mode, priority, body_digest, session_id, caller, options, input, accepted_at, callback_owed";

fn push_accepted<DB>(row: &mut Separated<'_, DB, &'static str>, new: Option<&New>)
where
    DB: Database,
    Option<String>: Type<DB> + for<'q> Encode<'q, DB>,
    Option<i64>: Type<DB> + for<'q> Encode<'q, DB>,
{
    row.push_bind(new.map(|new| text(new.key.account.as_str())))
        .push_bind(new.map(|new| text(new.key.agent_id.as_str())))
        .push_bind(new.map(|new| text(new.key.id.as_str())))
        .push_bind(new.map(|new| text(new.version_id.as_str())))
        .push_bind(new.map(|new| text(new.mode.as_str())))
        .push_bind(new.map(|new| text(new.priority.as_str())))
        .push_bind(new.and_then(|new| new.body_digest.clone()))
        .push_bind(new.and_then(|new| new.caller.session_id.clone()))
        .push_bind(new.map(|new| json(&new.caller).unwrap_or_default()))
        .push_bind(new.map(|new| json(&new.options).unwrap_or_default()))
        .push_bind(new.map(|new| text(new.input.get())))
        .push_bind(new.map(|new| new.accepted_at.0))
        .push_bind(new.and_then(|new| new.options.callback_url.as_ref().map(|_| 1_i64)));
}

/// The columns that the end of an attempt writes.
const ENDED: [&str; 17] = [
    "attempt",
    "status",
    "due_at",
    "started_at",
    "completed_at",
    "attempts",
    "instance_id",
    "output",
    "error",
    "duration_ms",
    "queue_ms",
    "waterfall",
    "cpu_ms",
    "memory_peak_mb",
    "tokens",
    "metrics",
    "logs_dropped",
];

fn push_end<DB>(row: &mut Separated<'_, DB, &'static str>, end: Option<&End>)
where
    DB: Database,
    Option<String>: Type<DB> + for<'q> Encode<'q, DB>,
    Option<i64>: Type<DB> + for<'q> Encode<'q, DB>,
    Option<f64>: Type<DB> + for<'q> Encode<'q, DB>,
{
    let usage = end.map(|end| &end.usage);
    row.push_bind(end.map(|end| i64::from(end.attempt)))
        .push_bind(end.map(|end| text(end.status.as_str())))
        .push_bind(end.map(|end| end.due_at.0))
        .push_bind(end.and_then(|end| end.started_at).map(|at| at.0))
        .push_bind(end.and_then(|end| end.completed_at).map(|at| at.0))
        .push_bind(end.map(|end| json(&end.attempts).unwrap_or_default()))
        .push_bind(end.and_then(|end| Some(text(end.instance_id.as_ref()?.as_str()))))
        .push_bind(end.and_then(|end| Some(text(end.output.as_ref()?.get()))))
        .push_bind(end.and_then(|end| json(end.error.as_ref()?).ok()))
        .push_bind(end.map(|end| end.duration_ms))
        .push_bind(end.map(|end| end.queue_ms))
        .push_bind(end.and_then(|end| json(&end.whole_waterfall()?).ok()))
        .push_bind(usage.and_then(|usage| usage.cpu_ms))
        .push_bind(usage.and_then(|usage| usage.memory_peak_mb))
        .push_bind(usage.and_then(|usage| usage.tokens))
        .push_bind(
            usage
                .filter(|usage| !usage.metrics.is_empty())
                .and_then(|usage| json(&usage.metrics).ok()),
        )
        .push_bind(usage.map(|usage| i64::try_from(usage.logs_dropped).unwrap_or(i64::MAX)));
}

impl New {
    pub(crate) fn statement<'a, DB>(
        rows: impl ExactSizeIterator<Item = &'a Self> + 'a,
    ) -> QueryBuilder<DB>
    where
        DB: Database,
        Option<String>: Type<DB> + for<'q> Encode<'q, DB>,
        Option<i64>: Type<DB> + for<'q> Encode<'q, DB>,
    {
        let mut query = QueryBuilder::new(format!(
            "INSERT INTO executions ({ACCEPTED}, due_at, status, attempt, losses, attempts, logs_dropped) SELECT * FROM ("
        ));
        query.push_values(filled(rows), |mut row, new| {
            push_accepted(&mut row, new);
            row.push_bind(new.map(|new| new.accepted_at.0))
                .push("'queued', 0, 0, '[]', 0");
        });
        query.push(") AS v WHERE column1 IS NOT NULL ON CONFLICT DO NOTHING RETURNING account, agent_id, id");
        query
    }
}

/// Rows that are written with their end; one that is there and open gets it.
pub(crate) fn record<'a, DB>(
    rows: impl ExactSizeIterator<Item = (&'a New, &'a End)> + 'a,
) -> QueryBuilder<DB>
where
    DB: Database,
    Option<String>: Type<DB> + for<'q> Encode<'q, DB>,
    Option<i64>: Type<DB> + for<'q> Encode<'q, DB>,
    Option<f64>: Type<DB> + for<'q> Encode<'q, DB>,
{
    let mut query = QueryBuilder::new(format!(
        "INSERT INTO executions AS e ({ACCEPTED}, {}, losses) SELECT * FROM (",
        ENDED.join(", ")
    ));
    query.push_values(filled(rows), |mut row, one| {
        push_accepted(&mut row, one.map(|(new, _)| new));
        push_end(&mut row, one.map(|(_, end)| end));
        row.push("0");
    });
    let sets = ENDED
        .map(|column| format!("{column} = excluded.{column}"))
        .join(", ");
    query.push(format!(
        ") AS v WHERE column1 IS NOT NULL ON CONFLICT (account, agent_id, id) DO UPDATE SET {sets} \
         WHERE e.status IN ('queued', 'running') AND e.attempt <= excluded.attempt RETURNING account, agent_id, id"
    ));
    query
}

impl Start {
    pub(crate) fn statement<'a, DB>(
        rows: impl ExactSizeIterator<Item = &'a Self> + 'a,
    ) -> QueryBuilder<DB>
    where
        DB: Database,
        Option<String>: Type<DB> + for<'q> Encode<'q, DB>,
        Option<i64>: Type<DB> + for<'q> Encode<'q, DB>,
    {
        let mut query = QueryBuilder::new(
            "UPDATE executions AS e SET status = 'running', attempt = v.column4, started_at = v.column5, node_id = v.column6, boot_id = v.column7 FROM (",
        );
        query.push_values(filled(rows), |mut row, start| {
            row.push_bind(start.map(|start| text(start.key.account.as_str())))
                .push_bind(start.map(|start| text(start.key.agent_id.as_str())))
                .push_bind(start.map(|start| text(start.key.id.as_str())))
                .push_bind(start.map(|start| i64::from(start.attempt)))
                .push_bind(start.map(|start| start.at.0))
                .push_bind(start.map(|start| text(start.holder.node_id.as_str())))
                .push_bind(start.map(|start| text(start.holder.boot_id.as_str())));
        });
        query.push(
            ") AS v WHERE e.account = v.column1 AND e.agent_id = v.column2 AND e.id = v.column3 AND COALESCE(e.status, '') = 'queued' \
             AND e.attempt = v.column4 - 1 RETURNING account, agent_id, id",
        );
        query
    }
}

impl End {
    fn whole_waterfall(&self) -> Option<Waterfall> {
        let took = self.recording.as_ref().map(Recording::took);
        Some(Waterfall {
            record: took.unwrap_or_default(),
            ..self.waterfall?
        })
    }

    pub(crate) fn statement<'a, DB>(
        rows: impl ExactSizeIterator<Item = &'a Self> + 'a,
    ) -> QueryBuilder<DB>
    where
        DB: Database,
        Option<String>: Type<DB> + for<'q> Encode<'q, DB>,
        Option<i64>: Type<DB> + for<'q> Encode<'q, DB>,
        Option<f64>: Type<DB> + for<'q> Encode<'q, DB>,
    {
        let sets: Vec<String> = ENDED
            .iter()
            .enumerate()
            .map(|(at, column)| format!("{column} = v.column{}", at + 4))
            .collect();
        let mut query = QueryBuilder::new(format!(
            "UPDATE executions AS e SET {} FROM (",
            sets.join(", ")
        ));
        query.push_values(filled(rows), |mut row, end| {
            row.push_bind(end.map(|end| text(end.key.account.as_str())))
                .push_bind(end.map(|end| text(end.key.agent_id.as_str())))
                .push_bind(end.map(|end| text(end.key.id.as_str())));
            push_end(&mut row, end);
        });
        query.push(
            ") AS v WHERE e.account = v.column1 AND e.agent_id = v.column2 AND e.id = v.column3 \
             AND COALESCE(e.status, '') IN ('queued', 'running') AND e.attempt <= v.column4 RETURNING account, agent_id, id",
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
            "DELETE FROM executions WHERE COALESCE(status, '') = 'queued' AND attempt = 0 AND (",
        );
        // Not `IN (VALUES …)`: SQLite scans the whole table for that.
        let mut terms = query.separated(" OR ");
        for row in rows {
            terms
                .push("(account = ")
                .push_bind_unseparated(text(row.key.account.as_str()))
                .push_unseparated(" AND agent_id = ")
                .push_bind_unseparated(text(row.key.agent_id.as_str()))
                .push_unseparated(" AND id = ")
                .push_bind_unseparated(text(row.key.id.as_str()))
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
            .push_bind(text(self.key.account.as_str()));
        query
            .push(" AND agent_id = ")
            .push_bind(text(self.key.agent_id.as_str()));
        query
            .push(" AND id = ")
            .push_bind(text(self.key.id.as_str()));
        query
            .push(" AND COALESCE(status, '') = 'running' AND attempt = ")
            .push_bind(i64::from(self.attempt));
        query
    }
}
