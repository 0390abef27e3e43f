//! Log lines, written in groups with the executions they belong to.

use crate::{
    db::{Store, document, failed, parsed, read, write},
    executions::Key,
    write::Op,
};
use domain::{
    Result, Timestamp,
    id::{AccountId, AgentId, ExecutionId},
    log::Line,
};
use sqlx::{Database, Encode, QueryBuilder, Type};

/// One line of an execution, or of an instance outside of any.
#[derive(Debug, Clone)]
pub struct Entry {
    pub account: AccountId,
    pub agent_id: AgentId,
    pub execution_id: Option<ExecutionId>,
    /// Grows within an execution.
    pub seq: i64,
    pub line: Line,
}

/// A line as it is read back; `seq` is where to go on from.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    pub execution_id: Option<ExecutionId>,
    pub seq: i64,
    pub line: Line,
}

impl Entry {
    pub(crate) fn statement<DB>(rows: &[Self]) -> QueryBuilder<DB>
    where
        DB: Database,
        String: Type<DB> + for<'q> Encode<'q, DB>,
        Option<String>: Type<DB> + for<'q> Encode<'q, DB>,
        i64: Type<DB> + for<'q> Encode<'q, DB>,
    {
        let mut query = QueryBuilder::new(
            "INSERT INTO logs (account, agent_id, execution_id, at, seq, level, message, context) ",
        );
        query.push_values(rows, |mut row, entry| {
            row.push_bind(entry.account.as_str().to_owned())
                .push_bind(entry.agent_id.as_str().to_owned())
                .push_bind(
                    entry
                        .execution_id
                        .as_ref()
                        .map_or(String::new(), |id| id.as_str().to_owned()),
                )
                .push_bind(entry.line.timestamp.0)
                .push_bind(entry.seq)
                .push_bind(entry.line.level.as_str().to_owned())
                // Postgres cannot hold U+0000 in text.
                .push_bind(entry.line.message.replace('\0', "\u{FFFD}"))
                .push_bind(
                    entry
                        .line
                        .context
                        .as_ref()
                        .map(|context| context.to_string().replace("\\u0000", "\\ufffd")),
                );
        });
        query
    }
}

type Row = (String, i64, i64, String, String, Option<String>);

fn kept((execution_id, at, seq, level, message, context): Row) -> Result<Kept> {
    Ok(Kept {
        execution_id: if execution_id.is_empty() {
            None
        } else {
            Some(parsed(&execution_id, "execution id")?)
        },
        seq,
        line: Line {
            timestamp: Timestamp(at),
            level: parsed(&level, "level")?,
            message,
            context: context
                .map(|context| document(&context, "log context"))
                .transpose()?,
        },
    })
}

pub(crate) const PURGE: &str = "DELETE FROM logs WHERE at < $1 \
     AND at <= COALESCE((SELECT l.at FROM logs AS l WHERE l.at < $1 ORDER BY l.at LIMIT 1 OFFSET $2), $1)";

impl Store {
    /// Handed to the group commit; on disk when a later write of the same caller is answered.
    pub async fn append_logs(&self, entries: Vec<Entry>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        self.writer.send(Op::Logs(entries)).await
    }

    /// Lines of one execution after `seq`, in order.
    pub async fn execution_logs(&self, key: &Key, after: i64, limit: u32) -> Result<Vec<Kept>> {
        let sql = "SELECT execution_id, at, seq, level, message, context FROM logs WHERE account = $1 AND agent_id = $2 AND execution_id = $3 AND seq > $4 \
             ORDER BY seq LIMIT $5";
        let rows: Vec<Row> = read!(self, pool => sqlx::query_as(sql).bind(key.account.as_str()).bind(key.agent_id.as_str()).bind(key.id.as_str())
            .bind(after).bind(i64::from(limit)).fetch_all(pool).await)
        .map_err(failed)?;
        rows.into_iter().map(kept).collect()
    }

    /// The newest lines of an agent since `since`, oldest first.
    pub async fn agent_logs(
        &self,
        account: &AccountId,
        agent: &AgentId,
        since: Timestamp,
        limit: u32,
    ) -> Result<Vec<Kept>> {
        let sql = "SELECT execution_id, at, seq, level, message, context FROM logs WHERE account = $1 AND agent_id = $2 AND at >= $3 \
             ORDER BY at DESC, execution_id DESC, seq DESC LIMIT $4";
        let rows: Vec<Row> = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(agent.as_str()).bind(since.0).bind(i64::from(limit))
            .fetch_all(pool).await)
        .map_err(failed)?;
        rows.into_iter().rev().map(kept).collect()
    }

    pub async fn count_agent_logs(
        &self,
        account: &AccountId,
        agent: &AgentId,
        since: Timestamp,
    ) -> Result<u64> {
        let sql = "SELECT COUNT(*) FROM logs WHERE account = $1 AND agent_id = $2 AND at >= $3";
        let (count,): (i64,) = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(agent.as_str()).bind(since.0)
            .fetch_one(pool).await)
        .map_err(failed)?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// Deletes about `limit` of the oldest lines from before `before` (all of the same millisecond go together): how many went.
    pub async fn purge_logs(&self, before: Timestamp, limit: u32) -> Result<u64> {
        write!(self, pool => sqlx::query(PURGE).bind(before.0).bind(i64::from(limit)).execute(pool).await.map(|done| done.rows_affected()))
            .map_err(failed)
    }

    /// Lines written in `[from, to)` over all accounts, for system health.
    pub async fn count_logs(&self, from: Timestamp, to: Timestamp) -> Result<u64> {
        let sql = "SELECT COUNT(*) FROM logs WHERE at >= $1 AND at < $2";
        let count: (i64,) =
            read!(self, pool => sqlx::query_as(sql).bind(from.0).bind(to.0).fetch_one(pool).await)
                .map_err(failed)?;
        Ok(u64::try_from(count.0).unwrap_or(0))
    }
}
