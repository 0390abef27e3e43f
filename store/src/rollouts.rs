//! What rollouts are steered by: orders of callers, and what became of executions and instances of a version since.

use crate::db::{Store, failed, parsed, read, write};
use domain::{
    Result, Timestamp,
    execution::Status,
    id::{AccountId, AgentId, DeploymentId, VersionId},
    rollout::Order,
};

/// Orders that one deployment takes; more are refused by whoever writes them.
pub const MOST_ORDERS: usize = 1000;

/// One order, as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub order: Order,
    pub created_by: String,
    pub at: Timestamp,
}

/// One ended execution, as a verdict needs it.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub version_id: String,
    pub completed_at: Timestamp,
    pub status: Status,
    pub duration_ms: Option<f64>,
}

/// Which executions: accepted since `since`, ended in `[from, to)`.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub since: Timestamp,
    pub from: Timestamp,
    pub to: Timestamp,
}

pub(crate) const ENDED: &str = "SELECT version_id, completed_at, status, duration_ms FROM executions WHERE account = $1 AND agent_id = $2 \
     AND completed_at >= $3 AND completed_at < $4 AND accepted_at >= $5 ORDER BY completed_at LIMIT $6";

/// Both halves by an index of their own.
pub(crate) const FAILED_CHECKS: &str = "SELECT CAST(COALESCE(SUM(n), 0) AS BIGINT) FROM (SELECT failed_checks AS n FROM instances \
     WHERE version_id = $1 AND ended_at IS NULL UNION ALL SELECT CASE WHEN failed_checks > 0 THEN failed_checks WHEN failure IS NOT NULL THEN 1 ELSE 0 END \
     FROM instances WHERE version_id = $1 AND ended_at >= $2) AS counted";

pub(crate) const ORDERS: &str = "SELECT word, created_by, at FROM deployment_orders WHERE deployment_id = $1 ORDER BY at, id LIMIT $2";

impl Store {
    /// `id` tells orders of the same moment apart, by their sequence.
    pub async fn order_deployment(
        &self,
        account: &AccountId,
        deployment: &DeploymentId,
        id: &str,
        given: &Given,
    ) -> Result<()> {
        let sql = "INSERT INTO deployment_orders (id, account, deployment_id, word, created_by, at) VALUES ($1, $2, $3, $4, $5, $6)";
        write!(self, pool => sqlx::query(sql).bind(id).bind(account.as_str()).bind(deployment.as_str()).bind(given.order.as_str())
            .bind(&given.created_by).bind(given.at.0).execute(pool).await.map(|_| ()))
        .map_err(failed)
    }

    /// In the sequence in which they came.
    pub async fn orders(&self, deployment: &DeploymentId) -> Result<Vec<Given>> {
        let rows: Vec<(String, String, i64)> = read!(self, pool => sqlx::query_as(ORDERS).bind(deployment.as_str()).bind(MOST_ORDERS as i64).fetch_all(pool).await)
            .map_err(failed)?;
        rows.into_iter()
            .map(|(word, created_by, at)| {
                Ok(Given {
                    order: parsed(&word, "order")?,
                    created_by,
                    at: Timestamp(at),
                })
            })
            .collect()
    }

    /// Ended executions of an agent by their end, at most `limit`, of any version.
    pub async fn samples(
        &self,
        account: &AccountId,
        agent: &AgentId,
        window: Window,
        limit: u32,
    ) -> Result<Vec<Ended>> {
        let rows: Vec<(String, i64, String, Option<f64>)> = read!(self, pool => sqlx::query_as(ENDED).bind(account.as_str()).bind(agent.as_str())
            .bind(window.from.0).bind(window.to.0).bind(window.since.0).bind(i64::from(limit)).fetch_all(pool).await)
        .map_err(failed)?;
        rows.into_iter()
            .map(|(version_id, at, status, duration_ms)| {
                Ok(Ended {
                    version_id,
                    completed_at: Timestamp(at),
                    status: parsed(&status, "status")?,
                    duration_ms,
                })
            })
            .collect()
    }

    /// Health checks that failed of instances of a version which live, or ended at `since` or later. One that ended by a failure before
    /// any check of it failed has failed once.
    pub async fn failed_checks(&self, version: &VersionId, since: Timestamp) -> Result<u32> {
        let (count,): (i64,) = read!(self, pool => sqlx::query_as(FAILED_CHECKS).bind(version.as_str()).bind(since.0).fetch_one(pool).await)
            .map_err(failed)?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }
}
