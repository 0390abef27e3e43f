//! What figures are made of: ended executions, read by their end, and totals of them.

use crate::db::{Store, failed, parsed, read};
use domain::{
    Result, Timestamp,
    execution::Status,
    id::{AccountId, AgentId, VersionId},
};

/// One ended execution, as figures need it.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    pub completed_at: Timestamp,
    pub status: Status,
    /// `None` where it never ran.
    pub duration_ms: Option<f64>,
    /// JSON of what the agent reported.
    pub metrics: Option<String>,
}

/// Totals of one agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Totals {
    pub agent_id: AgentId,
    pub total: u64,
    /// Failed, or out of time.
    pub failed: u64,
    pub cancelled: u64,
    pub avg_ms: Option<f64>,
    pub first_at: Option<Timestamp>,
}

pub(crate) const FIGURES: &str = "SELECT completed_at, status, duration_ms, metrics FROM executions WHERE account = $1 AND agent_id = $2 \
     AND completed_at >= $3 AND completed_at < $4 AND ($5 IS NULL OR version_id = $5) ORDER BY completed_at LIMIT $6";

impl Store {
    /// Ended executions of an agent in `[from, to)` by their end, at most `limit`.
    pub async fn figures(
        &self,
        account: &AccountId,
        agent: &AgentId,
        version: Option<&VersionId>,
        from: Timestamp,
        to: Timestamp,
        limit: u32,
    ) -> Result<Vec<Figure>> {
        let rows: Vec<(i64, String, Option<f64>, Option<String>)> = read!(self, pool => sqlx::query_as(FIGURES).bind(account.as_str()).bind(agent.as_str())
            .bind(from.0).bind(to.0).bind(version.map(VersionId::as_str)).bind(i64::from(limit)).fetch_all(pool).await)
        .map_err(failed)?;
        rows.into_iter()
            .map(|(at, status, duration, metrics)| {
                Ok(Figure {
                    completed_at: Timestamp(at),
                    status: parsed(&status, "status")?,
                    duration_ms: duration,
                    metrics,
                })
            })
            .collect()
    }

    /// Totals per agent, of everything that ended at `since` or later: of these agents, or of all of the account where none
    /// are named; of one version, where one is named.
    pub async fn totals(
        &self,
        account: &AccountId,
        agents: &[AgentId],
        version: Option<&VersionId>,
        since: Timestamp,
    ) -> Result<Vec<Totals>> {
        let places: Vec<String> = (0..agents.len()).map(|at| format!("${}", at + 4)).collect();
        let only = if places.is_empty() {
            String::new()
        } else {
            format!(" AND agent_id IN ({})", places.join(", "))
        };
        let sql = format!(
            "SELECT agent_id, COUNT(*), CAST(SUM(CASE WHEN status IN ('failed', 'timeout') THEN 1 ELSE 0 END) AS BIGINT), \
             CAST(SUM(CASE WHEN status = 'cancelled' THEN 1 ELSE 0 END) AS BIGINT), AVG(duration_ms), MIN(completed_at) \
             FROM executions WHERE account = $1 AND completed_at >= $2 AND ($3 IS NULL OR version_id = $3){only} GROUP BY agent_id ORDER BY agent_id"
        );
        type Row = (String, i64, i64, i64, Option<f64>, Option<i64>);
        let rows: Vec<Row> = read!(self, pool => {
            let mut query = sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(account.as_str()).bind(since.0).bind(version.map(VersionId::as_str));
            for agent in agents {
                query = query.bind(agent.as_str());
            }
            query.fetch_all(pool).await
        })
        .map_err(failed)?;
        rows.into_iter()
            .map(|(agent, total, bad, cancelled, avg_ms, first)| {
                Ok(Totals {
                    agent_id: parsed(&agent, "agent id")?,
                    total: u64::try_from(total).unwrap_or(0),
                    failed: u64::try_from(bad).unwrap_or(0),
                    cancelled: u64::try_from(cancelled).unwrap_or(0),
                    avg_ms,
                    first_at: first.map(Timestamp),
                })
            })
            .collect()
    }
}
