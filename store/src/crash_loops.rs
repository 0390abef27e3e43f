//! Versions whose every start leads nowhere, and where.

use crate::db::{Store, document, failed, json, parsed, read, write};
use domain::{
    Result, Timestamp,
    execution::Failure,
    id::{AccountId, AgentId, NodeId, VersionId},
};
use std::collections::HashMap;

#[derive(Debug, Clone)]
pub struct CrashLoop {
    pub version_id: VersionId,
    pub node_id: NodeId,
    pub account: AccountId,
    pub agent_id: AgentId,
    /// Starts in a row.
    pub crashes: u32,
    pub since: Timestamp,
    /// When the next start is due.
    pub retry_at: Timestamp,
    /// How the last one ended.
    pub failure: Failure,
}

type Row = (String, String, String, String, i64, i64, i64, String);

const COLUMNS: &str = "SELECT version_id, node_id, account, agent_id, crashes, since, retry_at, failure FROM crash_loops";

fn crash_loop(
    (version_id, node_id, account, agent_id, crashes, since, retry_at, failure): Row,
) -> Result<CrashLoop> {
    Ok(CrashLoop {
        version_id: parsed(&version_id, "version id")?,
        node_id: parsed(&node_id, "node id")?,
        account: parsed(&account, "account")?,
        agent_id: parsed(&agent_id, "agent id")?,
        crashes: u32::try_from(crashes).unwrap_or(u32::MAX),
        since: Timestamp(since),
        retry_at: Timestamp(retry_at),
        failure: document(&failure, "failure")?,
    })
}

impl Store {
    /// Inserts it, or says what has become of it; `since` stays.
    pub async fn keep_crash_loop(&self, one: &CrashLoop) -> Result<()> {
        let sql = "INSERT INTO crash_loops (version_id, node_id, account, agent_id, crashes, since, retry_at, failure) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (version_id, node_id) DO UPDATE SET crashes = excluded.crashes, \
             retry_at = excluded.retry_at, failure = excluded.failure";
        let failure = json(&one.failure)?;
        write!(self, pool => sqlx::query(sql).bind(one.version_id.as_str()).bind(one.node_id.as_str()).bind(one.account.as_str())
            .bind(one.agent_id.as_str()).bind(i64::from(one.crashes)).bind(one.since.0).bind(one.retry_at.0).bind(&failure)
            .execute(pool).await.map(|_| ()))
        .map_err(failed)
    }

    /// How many instances of each agent of an account are ready, and how many of those are not healthy.
    pub async fn ready_instances(
        &self,
        account: &AccountId,
    ) -> Result<HashMap<String, (u32, u32)>> {
        let sql = "SELECT agent_id, COUNT(*), CAST(SUM(CASE WHEN health IS NULL THEN 0 ELSE 1 END) AS BIGINT) FROM instances \
             WHERE account = $1 AND ended_at IS NULL AND state = 'ready' GROUP BY agent_id";
        let rows: Vec<(String, i64, i64)> =
            read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).fetch_all(pool).await)
                .map_err(failed)?;
        let count = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(rows
            .into_iter()
            .map(|(agent, ready, ill)| (agent, (count(ready), count(ill))))
            .collect())
    }

    /// It lives again there, or is let go of.
    pub async fn end_crash_loop(&self, version: &VersionId, node: &NodeId) -> Result<()> {
        let sql = "DELETE FROM crash_loops WHERE version_id = $1 AND node_id = $2";
        write!(self, pool => sqlx::query(sql).bind(version.as_str()).bind(node.as_str()).execute(pool).await.map(|_| ()))
            .map_err(failed)
    }

    /// A node starts anew, or is lost.
    pub async fn end_crash_loops_of_node(&self, node: &NodeId) -> Result<()> {
        let sql = "DELETE FROM crash_loops WHERE node_id = $1";
        write!(self, pool => sqlx::query(sql).bind(node.as_str()).execute(pool).await.map(|_| ()))
            .map_err(failed)
    }

    /// Of an account: of one agent, or of all.
    pub async fn crash_loops(
        &self,
        account: &AccountId,
        agent: Option<&AgentId>,
    ) -> Result<Vec<CrashLoop>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE account = $1 AND (CAST($2 AS TEXT) IS NULL OR agent_id = $2) ORDER BY agent_id, version_id, node_id LIMIT 5000"
        ));
        let rows: Vec<Row> = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(agent.map(AgentId::as_str)).fetch_all(pool).await)
            .map_err(failed)?;
        rows.into_iter().map(crash_loop).collect()
    }
}
