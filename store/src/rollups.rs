//! Cells of ended executions, and how far the executions are in them. Read beside the executions that are not in them yet.
//!
//! Who reads both compares the position's `rev` before and after: unchanged, nothing was counted twice or not at all.

use crate::{
    db::{Store, document, failed, json, parsed, read, write},
    leases::Lease,
};
use domain::{
    Result, Timestamp,
    id::{AccountId, AgentId, VersionId},
    rollup::{Cell, Ended, Span},
};
use sqlx::QueryBuilder;
use std::collections::HashMap;

/// Whose executions.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Of {
    pub account: AccountId,
    pub agent_id: AgentId,
    pub version_id: VersionId,
}

/// Which cell.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub of: Of,
    pub span: Span,
    pub start: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Everything that ended before is counted, but what became visible too late for it.
    pub at: Timestamp,
    pub rev: i64,
    /// Executions that ended before are deleted; cells that began before, too.
    pub raw_from: Timestamp,
    pub minutes_from: Timestamp,
    pub hours_from: Timestamp,
    pub days_from: Timestamp,
}

/// What is said of a cell without its sketches.
#[derive(Debug, Clone, PartialEq)]
pub struct Counts {
    pub agent_id: AgentId,
    pub start: Timestamp,
    pub total: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub ran: u64,
    pub duration_ms: f64,
    pub first_at: Timestamp,
}

/// Which cells.
#[derive(Debug, Clone)]
pub struct Which<'a> {
    pub account: &'a AccountId,
    /// Empty: all of the account.
    pub agents: &'a [AgentId],
    pub version: Option<&'a VersionId>,
    pub span: Span,
    /// That begin in `[from, to)`.
    pub from: Timestamp,
    pub to: Timestamp,
}

/// Rows in one statement.
const ROWS: usize = 100;

pub(crate) const ENDED: &str = "SELECT account, agent_id, version_id, completed_at, status, duration_ms, queue_ms, cpu_ms, memory_peak_mb, tokens, \
     metrics FROM executions WHERE completed_at >= $1 AND completed_at < $2 ORDER BY completed_at LIMIT $3";

type EndedRow = (
    String,
    String,
    String,
    i64,
    String,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<f64>,
    Option<i64>,
    Option<String>,
);

/// Holds a query to the cells that are asked for.
macro_rules! conditions {
    ($query:ident, $which:expr) => {
        $query
            .push(" WHERE account = ")
            .push_bind($which.account.as_str())
            .push(" AND span = ")
            .push_bind($which.span.as_str())
            .push(" AND start_at >= ")
            .push_bind($which.from.0)
            .push(" AND start_at < ")
            .push_bind($which.to.0);
        if !$which.agents.is_empty() {
            $query.push(" AND agent_id IN (");
            let mut names = $query.separated(", ");
            for agent in $which.agents {
                names.push_bind(agent.as_str());
            }
            $query.push(")");
        }
        if let Some(version) = $which.version {
            $query
                .push(" AND version_id = ")
                .push_bind(version.as_str());
        }
    };
}
impl Store {
    pub async fn rollup_position(&self) -> Result<Position> {
        let sql = "SELECT at, rev, raw_from, minutes_from, hours_from, days_from FROM rollup_position WHERE id = 1";
        let row: (i64, i64, i64, i64, i64, i64) =
            read!(self, pool => sqlx::query_as(sql).fetch_one(pool).await).map_err(failed)?;
        Ok(Position {
            at: Timestamp(row.0),
            rev: row.1,
            raw_from: Timestamp(row.2),
            minutes_from: Timestamp(row.3),
            hours_from: Timestamp(row.4),
            days_from: Timestamp(row.5),
        })
    }

    /// Executions of all accounts that ended in `[from, to)`, by their end, at most `limit`.
    pub async fn ended(
        &self,
        from: Timestamp,
        to: Timestamp,
        limit: u32,
    ) -> Result<Vec<(Of, Ended)>> {
        let rows: Vec<EndedRow> = read!(self, pool => sqlx::query_as(ENDED).bind(from.0).bind(to.0).bind(i64::from(limit)).fetch_all(pool).await)
            .map_err(failed)?;
        rows.iter().map(ended).collect()
    }

    /// Minutes of `[from, to)` in which executions ended, by their start, and how many.
    pub async fn ended_per_minute(
        &self,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<HashMap<Timestamp, u64>> {
        let sql = "SELECT completed_at / 60000, COUNT(*) FROM executions WHERE completed_at >= $1 AND completed_at < $2 GROUP BY completed_at / 60000";
        let rows: Vec<(i64, i64)> =
            read!(self, pool => sqlx::query_as(sql).bind(from.0).bind(to.0).fetch_all(pool).await)
                .map_err(failed)?;
        let minutes = rows.into_iter();
        Ok(minutes
            .map(|(minute, count)| (Timestamp(minute * 60_000), count.unsigned_abs()))
            .collect())
    }

    /// The same of what is counted.
    pub async fn rolled_per_minute(
        &self,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<HashMap<Timestamp, u64>> {
        let sql = "SELECT start_at, CAST(SUM(total) AS BIGINT) FROM rollups WHERE span = 'minute' AND start_at >= $1 AND start_at < $2 GROUP BY start_at";
        let rows: Vec<(i64, i64)> =
            read!(self, pool => sqlx::query_as(sql).bind(from.0).bind(to.0).fetch_all(pool).await)
                .map_err(failed)?;
        let minutes = rows.into_iter();
        Ok(minutes
            .map(|(start, count)| (Timestamp(start), count.unsigned_abs()))
            .collect())
    }

    /// Every cell of one minute.
    pub async fn minute_cells(&self, start: Timestamp) -> Result<HashMap<Of, Cell>> {
        let sql = "SELECT account, agent_id, version_id, cell FROM rollups WHERE span = 'minute' AND start_at = $1";
        let rows: Vec<(String, String, String, String)> =
            read!(self, pool => sqlx::query_as(sql).bind(start.0).fetch_all(pool).await)
                .map_err(failed)?;
        rows.into_iter()
            .map(|(account, agent, version, cell)| {
                Ok((of(&account, &agent, &version)?, document(&cell, "cell")?))
            })
            .collect()
    }

    /// Those of these cells that there are.
    pub async fn cells(&self, keys: &[Key]) -> Result<HashMap<Key, Cell>> {
        let mut found = HashMap::with_capacity(keys.len());
        for chunk in keys.chunks(ROWS) {
            let rows: Vec<(String, String, String, String, i64, String)> = read!(self, pool => {
                let mut query = QueryBuilder::new("SELECT account, agent_id, version_id, span, start_at, cell FROM rollups WHERE ");
                let mut terms = query.separated(" OR ");
                for key in chunk {
                    terms.push("(account = ").push_bind_unseparated(key.of.account.as_str())
                        .push_unseparated(" AND agent_id = ").push_bind_unseparated(key.of.agent_id.as_str())
                        .push_unseparated(" AND span = ").push_bind_unseparated(key.span.as_str())
                        .push_unseparated(" AND start_at = ").push_bind_unseparated(key.start.0)
                        .push_unseparated(" AND version_id = ").push_bind_unseparated(key.of.version_id.as_str())
                        .push_unseparated(")");
                }
                query.build_query_as().persistent(false).fetch_all(pool).await
            })
            .map_err(failed)?;
            for (account, agent, version, span, start, cell) in rows {
                let key = Key {
                    of: of(&account, &agent, &version)?,
                    span: parsed(&span, "span")?,
                    start: Timestamp(start),
                };
                found.insert(key, document(&cell, "cell")?);
            }
        }
        Ok(found)
    }

    /// Writes cells anew and moves the position on, in one transaction. `false`: nothing was written, because the lease is not held
    /// any longer, or somebody moved the position meanwhile.
    pub async fn write_cells(
        &self,
        lease: &Lease,
        before: &Position,
        after: &Position,
        cells: &[(Key, Cell)],
    ) -> Result<bool> {
        let moved = sqlx::AssertSqlSafe(format!(
            "UPDATE rollup_position SET at = $2, rev = rev + 1, raw_from = $3, minutes_from = $4, hours_from = $5, days_from = $6 \
             WHERE id = 1 AND rev = $1 AND EXISTS ({})",
            self.held_sql(["$7", "$8", "$9"])
        ));
        let mut texts = Vec::with_capacity(cells.len());
        for (_, cell) in cells {
            texts.push(json(cell)?);
        }
        let written: Result<bool, sqlx::Error> = write!(self, pool => async {
            let mut transaction = pool.begin().await?;
            let rows = sqlx::query(moved).bind(before.rev).bind(after.at.0).bind(after.raw_from.0).bind(after.minutes_from.0)
                .bind(after.hours_from.0).bind(after.days_from.0).bind(&lease.name).bind(&lease.holder).bind(lease.epoch)
                .execute(&mut *transaction).await?.rows_affected();
            if rows == 0 {
                return Ok(false);
            }
            for (cells, texts) in cells.chunks(ROWS).zip(texts.chunks(ROWS)) {
                let mut query = QueryBuilder::new("INSERT INTO rollups (account, agent_id, version_id, span, start_at, total, failed, cancelled, ran, \
                    duration_ms, first_at, cell) ");
                query.push_values(cells.iter().zip(texts), |mut row, ((key, cell), text)| {
                    row.push_bind(key.of.account.as_str()).push_bind(key.of.agent_id.as_str()).push_bind(key.of.version_id.as_str())
                        .push_bind(key.span.as_str()).push_bind(key.start.0).push_bind(number(cell.total())).push_bind(number(cell.bad()))
                        .push_bind(number(cell.cancelled)).push_bind(number(cell.duration.count)).push_bind(cell.duration.sum)
                        .push_bind(cell.first_at.unwrap_or(0)).push_bind(text.as_str());
                });
                query.push(" ON CONFLICT (account, agent_id, span, start_at, version_id) DO UPDATE SET total = excluded.total, \
                    failed = excluded.failed, cancelled = excluded.cancelled, ran = excluded.ran, duration_ms = excluded.duration_ms, \
                    first_at = excluded.first_at, cell = excluded.cell");
                query.build().persistent(false).execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            Ok(true)
        }.await);
        written.map_err(failed)
    }

    /// Cells with their sketches, by their start.
    pub async fn cells_of(
        &self,
        which: &Which<'_>,
    ) -> Result<Vec<(AgentId, VersionId, Timestamp, Cell)>> {
        let rows: Vec<(String, String, i64, String)> = read!(self, pool => {
            let mut query = QueryBuilder::new("SELECT agent_id, version_id, start_at, cell FROM rollups");
            conditions!(query, which);
            query.push(" ORDER BY start_at").build_query_as().persistent(false).fetch_all(pool).await
        })
        .map_err(failed)?;
        rows.into_iter()
            .map(|(agent, version, start, cell)| {
                let agent = parsed(&agent, "agent id")?;
                let version = parsed(&version, "version id")?;
                Ok((agent, version, Timestamp(start), document(&cell, "cell")?))
            })
            .collect()
    }

    /// Cells without their sketches, those of all versions of an agent together, by agent and start.
    pub async fn counts_of(&self, which: &Which<'_>) -> Result<Vec<Counts>> {
        type Row = (String, i64, i64, i64, i64, i64, f64, i64);
        let rows: Vec<Row> = read!(self, pool => {
            let mut query = QueryBuilder::new("SELECT agent_id, start_at, CAST(SUM(total) AS BIGINT), CAST(SUM(failed) AS BIGINT), \
                CAST(SUM(cancelled) AS BIGINT), CAST(SUM(ran) AS BIGINT), SUM(duration_ms), MIN(first_at) FROM rollups");
            conditions!(query, which);
            query.push(" GROUP BY agent_id, start_at ORDER BY agent_id, start_at").build_query_as().persistent(false).fetch_all(pool).await
        })
        .map_err(failed)?;
        rows.into_iter()
            .map(|row| {
                Ok(Counts {
                    agent_id: parsed(&row.0, "agent id")?,
                    start: Timestamp(row.1),
                    total: row.2.unsigned_abs(),
                    failed: row.3.unsigned_abs(),
                    cancelled: row.4.unsigned_abs(),
                    ran: row.5.unsigned_abs(),
                    duration_ms: row.6,
                    first_at: Timestamp(row.7),
                })
            })
            .collect()
    }

    /// Deletes at most `limit` cells of a span that began before `before`: how many went.
    pub async fn purge_cells(&self, span: Span, before: Timestamp, limit: u32) -> Result<u64> {
        let sql = "DELETE FROM rollups WHERE (account, agent_id, span, start_at, version_id) IN \
             (SELECT account, agent_id, span, start_at, version_id FROM rollups WHERE span = $1 AND start_at < $2 ORDER BY start_at LIMIT $3)";
        write!(self, pool => sqlx::query(sql).bind(span.as_str()).bind(before.0).bind(i64::from(limit)).execute(pool).await
            .map(|done| done.rows_affected()))
        .map_err(failed)
    }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn of(account: &str, agent: &str, version: &str) -> Result<Of> {
    Ok(Of {
        account: parsed(account, "account")?,
        agent_id: parsed(agent, "agent id")?,
        version_id: parsed(version, "version id")?,
    })
}

fn ended(row: &EndedRow) -> Result<(Of, Ended)> {
    let metrics = row.10.as_deref().map(|text| document(text, "metrics"));
    let ended = Ended {
        completed_at: Timestamp(row.3),
        status: parsed(&row.4, "status")?,
        duration_ms: row.5,
        queue_ms: row.6,
        cpu_ms: row.7,
        memory_peak_mb: row.8,
        tokens: row.9,
        metrics: metrics.transpose()?.unwrap_or_default(),
    };
    Ok((of(&row.0, &row.1, &row.2)?, ended))
}
