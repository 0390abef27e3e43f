//! Sessions, by what they executed.

use crate::db::{Store, failed, parsed, read};
use domain::{
    Result, Timestamp,
    id::{AccountId, AgentId, VersionId},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub session_id: String,
    /// Of the last execution.
    pub version_id: VersionId,
    pub executions: u64,
    /// Of those, the ones that have no end yet.
    pub open: u64,
    pub first_at: Timestamp,
    pub last_at: Timestamp,
}

impl Store {
    /// Sessions of an agent with executions accepted since `from`: a page of them, the last called first, and how many there are.
    pub async fn sessions(
        &self,
        account: &AccountId,
        agent: &AgentId,
        from: Timestamp,
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<Session>, u64)> {
        let sql = "SELECT s.session_id, (SELECT version_id FROM executions WHERE account = $1 AND agent_id = $2 AND accepted_at >= 0 AND accepted_at = s.last_at \
             AND session_id = s.session_id ORDER BY id DESC LIMIT 1), s.executions, s.unfinished, s.first_at, s.last_at \
             FROM (SELECT session_id, COUNT(*) AS executions, \
             CAST(SUM(CASE WHEN completed_at IS NULL THEN 1 ELSE 0 END) AS BIGINT) AS unfinished, MIN(accepted_at) AS first_at, \
             MAX(accepted_at) AS last_at FROM executions WHERE account = $1 AND agent_id = $2 AND accepted_at >= 0 AND accepted_at >= $3 \
             AND session_id IS NOT NULL GROUP BY session_id) s ORDER BY s.last_at DESC, s.session_id LIMIT $4 OFFSET $5";
        let count = "SELECT COUNT(DISTINCT session_id) FROM executions WHERE account = $1 AND agent_id = $2 AND accepted_at >= 0 AND accepted_at >= $3";
        let rows: Vec<(String, String, i64, i64, i64, i64)> =
            read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(agent.as_str())
            .bind(from.0).bind(i64::from(limit)).bind(i64::from(offset)).fetch_all(pool).await)
            .map_err(failed)?;
        let (total,): (i64,) = read!(self, pool => sqlx::query_as(count).bind(account.as_str()).bind(agent.as_str()).bind(from.0).fetch_one(pool).await)
            .map_err(failed)?;
        let session = |(session_id, version_id, executions, open, first, last): (
            String,
            String,
            i64,
            i64,
            i64,
            i64,
        )| {
            Ok(Session {
                session_id,
                version_id: parsed(&version_id, "version id")?,
                executions: u64::try_from(executions).unwrap_or(0),
                open: u64::try_from(open).unwrap_or(0),
                first_at: Timestamp(first),
                last_at: Timestamp(last),
            })
        };
        let sessions: Result<Vec<Session>> = rows.into_iter().map(session).collect();
        Ok((sessions?, u64::try_from(total).unwrap_or(0)))
    }

    /// Whether anything was ever executed in it, or an instance is its own.
    pub async fn session_is_known(
        &self,
        account: &AccountId,
        agent: &AgentId,
        session: &str,
    ) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM executions WHERE account = $1 AND agent_id = $2 AND accepted_at >= 0 AND session_id = $3) \
             OR EXISTS (SELECT 1 FROM instances WHERE account = $1 AND agent_id = $2 AND session_id = $3 AND ended_at IS NULL)";
        let row: (bool,) = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(agent.as_str()).bind(session).fetch_one(pool).await)
            .map_err(failed)?;
        Ok(row.0)
    }

    /// The executions of a session that have no end yet.
    pub async fn open_executions_of_session(
        &self,
        account: &AccountId,
        agent: &AgentId,
        session: &str,
    ) -> Result<Vec<String>> {
        let sql = "SELECT id FROM executions WHERE account = $1 AND agent_id = $2 AND accepted_at >= 0 AND session_id = $3 AND status IN ('queued', 'running') ORDER BY accepted_at LIMIT 1000";
        let rows: Vec<(String,)> = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(agent.as_str()).bind(session).fetch_all(pool).await)
            .map_err(failed)?;
        Ok(rows.into_iter().map(|(id,)| id).collect())
    }
}
