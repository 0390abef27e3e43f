//! What happens to executions outside of their attempts: lost, postponed, cancelled before they began.

use super::Key;
use crate::db::{Store, failed, json, write};
use domain::{
    Result, Timestamp,
    execution::{Attempt, Failure},
};

impl Store {
    /// The process under this attempt is gone: back to queued, one loss more. `false`: it moved on meanwhile.
    pub async fn lose_execution(
        &self,
        key: &Key,
        attempt: u32,
        attempts: &[Attempt],
        due_at: Timestamp,
    ) -> Result<bool> {
        let (account, agent, id) = key.words();
        let sql = "UPDATE executions SET status = 'queued', losses = losses + 1, attempts = $5, due_at = $6 \
             WHERE account = $1 AND agent_id = $2 AND id = $3 AND attempt = $4 AND status = 'running'";
        let rows = write!(self, pool => sqlx::query(sql).bind(account).bind(agent).bind(id).bind(i64::from(attempt)).bind(json(&attempts)?).bind(due_at.0)
            .execute(pool).await.map(|done| done.rows_affected()))
        .map_err(failed)?;
        Ok(rows == 1)
    }

    /// What waits is swept no sooner than then. `false`: it does not wait.
    pub async fn postpone_execution(&self, key: &Key, due_at: Timestamp) -> Result<bool> {
        let (account, agent, id) = key.words();
        let sql = "UPDATE executions SET due_at = $4 WHERE account = $1 AND agent_id = $2 AND id = $3 AND status = 'queued'";
        let rows =
            write!(self, pool => sqlx::query(sql).bind(account).bind(agent).bind(id).bind(due_at.0)
            .execute(pool).await.map(|done| done.rows_affected()))
            .map_err(failed)?;
        Ok(rows == 1)
    }

    /// Cancels what nobody runs. `false`: it runs, or has its outcome.
    pub async fn cancel_queued_execution(
        &self,
        key: &Key,
        failure: &Failure,
        at: Timestamp,
    ) -> Result<bool> {
        let (account, agent, id) = key.words();
        let sql = "UPDATE executions SET status = 'cancelled', completed_at = $4, error = $5 \
             WHERE account = $1 AND agent_id = $2 AND id = $3 AND status = 'queued'";
        let rows = write!(self, pool => sqlx::query(sql).bind(account).bind(agent).bind(id).bind(at.0).bind(json(failure)?)
            .execute(pool).await.map(|done| done.rows_affected()))
        .map_err(failed)?;
        Ok(rows == 1)
    }
}
