//! What each node shall keep running.

use crate::{
    db::{Store, failed, parsed, read, write},
    leases::Lease,
};
use domain::{
    Result, Timestamp,
    envelope::{Envelope, State},
    id::{AccountId, NodeId, VersionId},
};

/// An envelope and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    pub account: AccountId,
    pub node_id: NodeId,
    pub envelope: Envelope,
}

/// An order: what shall run, without the generation that its keeping gives it.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub version_id: &'a VersionId,
    pub state: State,
    pub min_instances: u32,
    pub max_instances: u32,
}

impl<'a> Wanted<'a> {
    /// Nothing new is begun.
    pub fn ending(version_id: &'a VersionId, state: State) -> Self {
        Self {
            version_id,
            state,
            min_instances: 0,
            max_instances: 0,
        }
    }
}

type Row = (String, String, String, i64, String, i64, i64);

const COLUMNS: &str = "SELECT account, node_id, version_id, generation, state, min_instances, max_instances FROM envelopes";

fn placed((account, node_id, version_id, generation, state, min, max): Row) -> Result<Placed> {
    Ok(Placed {
        account: parsed(&account, "account")?,
        node_id: parsed(&node_id, "node id")?,
        envelope: Envelope {
            version_id: parsed(&version_id, "version id")?,
            generation,
            state: parsed(&state, "envelope state")?,
            min_instances: u32::try_from(min).unwrap_or(0),
            max_instances: u32::try_from(max).unwrap_or(0),
        },
    })
}

impl Store {
    /// Sets what a node shall run of a version; the generation grows by one. Gives the new generation.
    pub async fn place(
        &self,
        account: &AccountId,
        node: &NodeId,
        wanted: &Wanted<'_>,
        at: Timestamp,
    ) -> Result<i64> {
        let sql = "INSERT INTO envelopes (version_id, node_id, account, generation, state, min_instances, max_instances, updated_at) \
             VALUES ($1, $2, $3, 1, $4, $5, $6, $7) ON CONFLICT (version_id, node_id) DO UPDATE SET generation = envelopes.generation + 1, \
             state = excluded.state, min_instances = excluded.min_instances, max_instances = excluded.max_instances, updated_at = excluded.updated_at \
             RETURNING generation";
        let row: (i64,) = write!(self, pool => sqlx::query_as(sql).bind(wanted.version_id.as_str()).bind(node.as_str()).bind(account.as_str())
            .bind(wanted.state.as_str()).bind(i64::from(wanted.min_instances)).bind(i64::from(wanted.max_instances)).bind(at.0).fetch_one(pool).await)
        .map_err(failed)?;
        Ok(row.0)
    }

    /// The same under a lease, while it is held and no deployment of the version's agent is unfinished. `None`: nothing was
    /// written, because one of both is not so.
    pub async fn place_under(
        &self,
        lease: &Lease,
        (account, node): (&AccountId, &NodeId),
        wanted: &Wanted<'_>,
        at: Timestamp,
    ) -> Result<Option<i64>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "INSERT INTO envelopes (version_id, node_id, account, generation, state, min_instances, max_instances, updated_at) \
             SELECT CAST($1 AS TEXT), CAST($2 AS TEXT), CAST($3 AS TEXT), 1, CAST($4 AS TEXT), CAST($5 AS BIGINT), CAST($6 AS BIGINT), CAST($7 AS BIGINT) \
             WHERE EXISTS ({}) AND NOT EXISTS (SELECT 1 FROM deployments WHERE status = 'deploying' \
             AND incarnation = (SELECT incarnation FROM versions WHERE id = $1)) \
             ON CONFLICT (version_id, node_id) DO UPDATE SET generation = envelopes.generation + 1, \
             state = excluded.state, min_instances = excluded.min_instances, max_instances = excluded.max_instances, updated_at = excluded.updated_at \
             RETURNING generation",
            self.held_sql(["$8", "$9", "$10"])
        ));
        let row: Option<(i64,)> = write!(self, pool => sqlx::query_as(sql).bind(wanted.version_id.as_str()).bind(node.as_str()).bind(account.as_str())
            .bind(wanted.state.as_str()).bind(i64::from(wanted.min_instances)).bind(i64::from(wanted.max_instances)).bind(at.0)
            .bind(&lease.name).bind(&lease.holder).bind(lease.epoch).fetch_optional(pool).await)
        .map_err(failed)?;
        Ok(row.map(|(generation,)| generation))
    }

    pub async fn envelope(
        &self,
        account: &AccountId,
        node: &NodeId,
        version: &VersionId,
    ) -> Result<Option<Placed>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE account = $1 AND node_id = $2 AND version_id = $3"
        ));
        let row: Option<Row> = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(node.as_str()).bind(version.as_str()).fetch_optional(pool).await)
            .map_err(failed)?;
        row.map(placed).transpose()
    }

    /// The nodes of one version that shall not have let go of it.
    pub async fn envelopes_of_version(
        &self,
        account: &AccountId,
        version: &VersionId,
    ) -> Result<Vec<Placed>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE account = $1 AND version_id = $2 AND state <> 'retired'"
        ));
        let rows: Vec<Row> = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(version.as_str()).fetch_all(pool).await).map_err(failed)?;
        rows.into_iter().map(placed).collect()
    }

    /// Every node of every version of an agent that shall not have let go of it.
    pub async fn envelopes_of_agent(
        &self,
        account: &AccountId,
        incarnation: &str,
    ) -> Result<Vec<Placed>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE account = $1 AND state <> 'retired' AND version_id IN (SELECT id FROM versions WHERE incarnation = $2)"
        ));
        let rows: Vec<Row> = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(incarnation).fetch_all(pool).await).map_err(failed)?;
        rows.into_iter().map(placed).collect()
    }

    /// Over all accounts: what any node shall not have let go of.
    pub async fn envelopes(&self) -> Result<Vec<Placed>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE state <> 'retired' ORDER BY version_id, node_id"
        ));
        let rows: Vec<Row> =
            read!(self, pool => sqlx::query_as(sql).fetch_all(pool).await).map_err(failed)?;
        rows.into_iter().map(placed).collect()
    }

    /// All that a node shall hold on to.
    pub async fn envelopes_of_node(&self, node: &NodeId) -> Result<Vec<Placed>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE node_id = $1 AND state <> 'retired'"
        ));
        let rows: Vec<Row> =
            read!(self, pool => sqlx::query_as(sql).bind(node.as_str()).fetch_all(pool).await)
                .map_err(failed)?;
        rows.into_iter().map(placed).collect()
    }
}
