//! Who answers for an agent.

use crate::db::{Store, document, failed, json, parsed, read, write};
use domain::{
    Result, Timestamp,
    id::{AccountId, AgentId, VersionId},
    traffic::Traffic,
};

impl Store {
    /// Of an incarnation of an agent; nothing is routed where there is no row.
    pub async fn traffic(&self, incarnation: &str) -> Result<Traffic> {
        let sql = "SELECT routes FROM traffic WHERE incarnation = $1";
        let row: Option<(String,)> =
            read!(self, pool => sqlx::query_as(sql).bind(incarnation).fetch_optional(pool).await)
                .map_err(failed)?;
        row.map_or_else(
            || Ok(Traffic::default()),
            |(routes,)| document(&routes, "routes"),
        )
    }

    /// Every version that answers for a living agent, over all accounts: for whoever keeps them hosted.
    pub async fn versions_in_traffic(&self) -> Result<Vec<(AccountId, VersionId)>> {
        let sql = "SELECT t.account, t.routes FROM traffic t JOIN agents a ON a.incarnation = t.incarnation WHERE a.deleted_at IS NULL";
        let rows: Vec<(String, String)> =
            read!(self, pool => sqlx::query_as(sql).fetch_all(pool).await).map_err(failed)?;
        let mut versions = Vec::with_capacity(rows.len());
        for (account, routes) in rows {
            let account: AccountId = parsed(&account, "account")?;
            let traffic: Traffic = document(&routes, "routes")?;
            let answering = traffic.routes.into_iter().filter(|route| route.weight > 0);
            versions.extend(answering.map(|route| (account.clone(), route.version_id)));
        }
        Ok(versions)
    }

    pub async fn set_traffic(
        &self,
        account: &AccountId,
        agent: &AgentId,
        incarnation: &str,
        traffic: &Traffic,
        at: Timestamp,
    ) -> Result<()> {
        let sql = "INSERT INTO traffic (incarnation, account, agent_id, routes, updated_at) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (incarnation) DO UPDATE SET routes = excluded.routes, updated_at = excluded.updated_at";
        let routes = json(traffic)?;
        write!(self, pool => sqlx::query(sql).bind(incarnation).bind(account.as_str()).bind(agent.as_str()).bind(routes).bind(at.0).execute(pool).await.map(|_| ()))
            .map_err(failed)
    }
}
