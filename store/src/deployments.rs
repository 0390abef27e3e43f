//! Deployments: accepted with their version (see `agents`), advanced by compare-and-set.

use crate::db::{Store, document, failed, json, parsed, read, write};
use domain::{
    Result, Timestamp,
    deployment::{Kind, State},
    id::{AccountId, AgentId, DeploymentId, VersionId},
    rollout::Plan,
};
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct New {
    pub id: DeploymentId,
    pub account: AccountId,
    pub agent_id: AgentId,
    pub incarnation: String,
    /// `None` for a deletion.
    pub version_id: Option<VersionId>,
    pub kind: Kind,
    pub plan: Plan,
    pub created_by: String,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone)]
pub struct Deployment {
    pub id: DeploymentId,
    pub account: AccountId,
    pub agent_id: AgentId,
    pub incarnation: String,
    pub version_id: Option<VersionId>,
    pub kind: Kind,
    pub state: State,
    /// Grows with every change.
    pub rev: i64,
    pub created_by: String,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

type Row = (
    String,
    String,
    String,
    String,
    Option<String>,
    String,
    String,
    i64,
    String,
    i64,
    i64,
);

const COLUMNS: &str = "SELECT id, account, agent_id, incarnation, version_id, kind, state, rev, created_by, created_at, updated_at FROM deployments";

fn deployment(
    (
        id,
        account,
        agent_id,
        incarnation,
        version_id,
        kind,
        state,
        rev,
        created_by,
        created_at,
        updated_at,
    ): Row,
) -> Result<Deployment> {
    Ok(Deployment {
        id: parsed(&id, "deployment id")?,
        account: parsed(&account, "account")?,
        agent_id: parsed(&agent_id, "agent id")?,
        incarnation,
        version_id: version_id.map(|id| parsed(&id, "version id")).transpose()?,
        kind: parsed(&kind, "kind")?,
        state: document(&state, "deployment state")?,
        rev,
        created_by,
        created_at: Timestamp(created_at),
        updated_at: Timestamp(updated_at),
    })
}

impl Store {
    pub async fn deployment(
        &self,
        account: &AccountId,
        id: &DeploymentId,
    ) -> Result<Option<Deployment>> {
        let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE account = $1 AND id = $2"));
        let row: Option<Row> = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(id.as_str()).fetch_optional(pool).await).map_err(failed)?;
        row.map(deployment).transpose()
    }

    /// The deployment, if it has changed since `rev`.
    pub async fn deployment_after(
        &self,
        account: &AccountId,
        id: &DeploymentId,
        rev: i64,
    ) -> Result<Option<Deployment>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE account = $1 AND id = $2 AND rev > $3"
        ));
        let row: Option<Row> = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(id.as_str()).bind(rev).fetch_optional(pool).await).map_err(failed)?;
        row.map(deployment).transpose()
    }

    /// One page of an agent's, newest first, and how many there are in all.
    pub async fn deployments(
        &self,
        incarnation: &str,
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<Deployment>, u64)> {
        let sql = sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE incarnation = $1 ORDER BY created_at DESC, id DESC LIMIT $2 OFFSET $3"
        ));
        let count = "SELECT COUNT(*) FROM deployments WHERE incarnation = $1";
        let (rows, total): (Vec<Row>, (i64,)) = read!(self, pool => {
            let rows = sqlx::query_as(sql).bind(incarnation).bind(i64::from(limit)).bind(i64::from(offset)).fetch_all(pool).await.map_err(failed)?;
            (rows, sqlx::query_as(count).bind(incarnation).fetch_one(pool).await.map_err(failed)?)
        });
        Ok((
            rows.into_iter().map(deployment).collect::<Result<_>>()?,
            u64::try_from(total.0).unwrap_or(0),
        ))
    }

    /// The newest deployment that asked for this version.
    pub async fn deployment_of(&self, version: &VersionId) -> Result<Option<Deployment>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE incarnation = (SELECT incarnation FROM versions WHERE id = $1) AND version_id = $1 AND kind = 'deploy' \
             ORDER BY created_at DESC, id DESC LIMIT 1"
        ));
        let row: Option<Row> =
            read!(self, pool => sqlx::query_as(sql).bind(version.as_str()).fetch_optional(pool).await)
                .map_err(failed)?;
        row.map(deployment).transpose()
    }

    /// The mean time from acceptance to the end of the newest `limit` deployments that ended well.
    pub async fn mean_deployment(
        &self,
        account: &AccountId,
        limit: u32,
    ) -> Result<Option<Duration>> {
        let sql = "SELECT AVG(CAST(updated_at - created_at AS DOUBLE PRECISION)) FROM (SELECT updated_at, created_at FROM deployments \
             WHERE account = $1 AND kind = 'deploy' AND status = 'deployed' ORDER BY created_at DESC LIMIT $2) AS newest";
        let (mean,): (Option<f64>,) =
            read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(i64::from(limit)).fetch_one(pool).await)
                .map_err(failed)?;
        Ok(mean.map(|ms| Duration::from_millis(ms.max(0.0) as u64)))
    }

    /// Over all accounts: what deployer has to go on with, oldest first.
    pub async fn unfinished_deployments(&self, limit: u32) -> Result<Vec<Deployment>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE status = 'deploying' ORDER BY created_at, id LIMIT $1"
        ));
        let rows: Vec<Row> =
            read!(self, pool => sqlx::query_as(sql).bind(i64::from(limit)).fetch_all(pool).await)
                .map_err(failed)?;
        rows.into_iter().map(deployment).collect()
    }

    /// What deployer has to go on with for one agent, oldest first.
    pub async fn unfinished_deployments_of(&self, incarnation: &str) -> Result<Vec<Deployment>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE incarnation = $1 AND status = 'deploying' ORDER BY created_at, id"
        ));
        let rows: Vec<Row> =
            read!(self, pool => sqlx::query_as(sql).bind(incarnation).fetch_all(pool).await)
                .map_err(failed)?;
        rows.into_iter().map(deployment).collect()
    }

    /// The only way to change a deployment. `false`: another changed it since `rev`; look again.
    pub async fn advance_deployment(
        &self,
        account: &AccountId,
        id: &DeploymentId,
        rev: i64,
        next: &State,
        at: Timestamp,
    ) -> Result<bool> {
        let sql = "UPDATE deployments SET status = $4, state = $5, rev = rev + 1, updated_at = $6 WHERE account = $1 AND id = $2 AND rev = $3";
        let state = json(next)?;
        let rows = write!(self, pool => sqlx::query(sql).bind(account.as_str()).bind(id.as_str()).bind(rev).bind(next.status.as_str()).bind(state).bind(at.0)
            .execute(pool).await.map(|done| done.rows_affected()))
        .map_err(failed)?;
        Ok(rows == 1)
    }
}
