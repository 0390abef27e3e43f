//! Agents: made with their first version, in the same transaction as its deployment; listed with what answers for them.

use crate::{
    db::{Store, document, failed, json, parsed, read, write},
    deployments, versions,
};
use domain::{
    Result, Timestamp,
    agent::{Environment, Spec, Status},
    deployment,
    id::{AccountId, AgentId, VersionId},
    traffic::Traffic,
};
use sqlx::Row;
use std::collections::BTreeSet;

/// One living (or deleted) agent. `incarnation` tells two agents apart that had the same id one after the other.
#[derive(Debug, Clone)]
pub struct Agent {
    pub account: AccountId,
    pub agent_id: AgentId,
    pub incarnation: String,
    pub environment: Environment,
    pub name: String,
    pub created_by: String,
    pub created_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
}

/// An agent as lists show it: with the version that answers, or else the newest.
#[derive(Debug, Clone)]
pub struct Listed {
    pub agent: Agent,
    pub spec: Spec,
    pub version_id: VersionId,
    pub status: Status,
    pub last_updated: Timestamp,
    pub traffic: Traffic,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sort {
    #[default]
    CreatedAt,
    Name,
    LastUpdated,
}

/// All must hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub environment: Option<Environment>,
    pub status: Option<Status>,
    pub tags: Vec<String>,
    /// Only this one.
    pub agent_id: Option<AgentId>,
    /// Only these, where a key is limited to named agents.
    pub scope: Option<Vec<AgentId>>,
    /// Only those that never lived elsewhere, where a key is limited to environments.
    pub environments: Option<BTreeSet<Environment>>,
}

/// What a first or further deploy writes, all or nothing.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// `None`: the agent is there already.
    pub agent: Option<NewAgent>,
    pub version: Option<versions::New>,
    pub artifact: Option<versions::Artifact>,
    pub deployment: deployments::New,
}

#[derive(Debug, Clone)]
pub struct NewAgent {
    pub agent: Agent,
    pub webhook_secret: Vec<u8>,
    /// The agent's own key, made with it.
    pub key: crate::keys::New,
}

impl Store {
    /// `false`: somebody else made the agent or the version meanwhile; look again.
    pub async fn accept_deployment(&self, accepted: &Accepted) -> Result<bool> {
        let unique = |error: &sqlx::Error| {
            error
                .as_database_error()
                .is_some_and(sqlx::error::DatabaseError::is_unique_violation)
        };
        let code = match &accepted.artifact {
            Some(artifact) => Some((artifact, self.put_artifact(artifact).await?)),
            None => None,
        };
        let done: Result<(), sqlx::Error> = write!(self, pool => async {
            let mut transaction = pool.begin().await?;
            if let Some(new) = &accepted.agent {
                let agent = &new.agent;
                sqlx::query("INSERT INTO agents (account, agent_id, environment, name, created_by, created_at, webhook_secret, incarnation) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)")
                    .bind(agent.account.as_str()).bind(agent.agent_id.as_str()).bind(agent.environment.as_str()).bind(&agent.name).bind(&agent.created_by)
                    .bind(agent.created_at.0).bind(&new.webhook_secret).bind(&agent.incarnation).execute(&mut *transaction).await?;
                let key = &new.key;
                crate::keys::insert!(key, &mut *transaction)?;
            }
            if let Some((artifact, place)) = &code {
                let size = i64::try_from(artifact.bytes.len()).unwrap_or(i64::MAX);
                sqlx::query(crate::artifacts::INSERT).bind(artifact.account.as_str()).bind(&artifact.digest).bind(place.bytes)
                    .bind(artifact.created_at.0).bind(place.stored).bind(size).execute(&mut *transaction).await?;
            }
            if let Some(version) = &accepted.version {
                sqlx::query("INSERT INTO versions (id, account, agent_id, incarnation, version, spec, artifact, secrets, digest, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)")
                    .bind(version.id.as_str()).bind(version.account.as_str()).bind(version.spec.agent_id.as_str()).bind(&version.incarnation)
                    .bind(version.spec.version.to_string()).bind(json(&version.spec).unwrap_or_default()).bind(&version.artifact).bind(&version.sealed)
                    .bind(&version.digest).bind(version.created_at.0).execute(&mut *transaction).await?;
                for tag in &version.spec.tags {
                    sqlx::query("INSERT INTO version_tags (version_id, tag) VALUES ($1, $2) ON CONFLICT DO NOTHING")
                        .bind(version.id.as_str()).bind(tag).execute(&mut *transaction).await?;
                }
            }
            let new = &accepted.deployment;
            let state = deployment::State::accepted(new.kind, new.plan.clone());
            sqlx::query("INSERT INTO deployments (id, account, agent_id, incarnation, version_id, kind, status, state, rev, created_by, created_at, updated_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $10, $10)")
                .bind(new.id.as_str()).bind(new.account.as_str()).bind(new.agent_id.as_str()).bind(&new.incarnation)
                .bind(new.version_id.as_ref().map(VersionId::as_str)).bind(new.kind.as_str()).bind(state.status.as_str())
                .bind(json(&state).unwrap_or_default()).bind(&new.created_by).bind(new.created_at.0).execute(&mut *transaction).await?;
            transaction.commit().await
        }.await);
        match done {
            Ok(()) => Ok(true),
            Err(error) if unique(&error) => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// The living agent of this id.
    pub async fn agent(&self, account: &AccountId, agent: &AgentId) -> Result<Option<Agent>> {
        let sql = "SELECT incarnation, environment, name, created_by, created_at FROM agents WHERE account = $1 AND agent_id = $2 AND deleted_at IS NULL";
        let row: Option<(String, String, String, String, i64)> =
            read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(agent.as_str()).fetch_optional(pool).await).map_err(failed)?;
        row.map(|(incarnation, environment, name, created_by, created_at)| {
            Ok(Agent {
                account: account.clone(),
                agent_id: agent.clone(),
                incarnation,
                environment: parsed(&environment, "environment")?,
                name,
                created_by,
                created_at: Timestamp(created_at),
                deleted_at: None,
            })
        })
        .transpose()
    }

    /// Whether an agent of this id ever lived: its executions stay readable.
    pub async fn agent_ever_lived(&self, account: &AccountId, agent: &AgentId) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM agents WHERE account = $1 AND agent_id = $2)";
        let row: (bool,) = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(agent.as_str()).fetch_one(pool).await).map_err(failed)?;
        Ok(row.0)
    }

    /// Where agents of this id live and lived.
    pub async fn environments_of(
        &self,
        account: &AccountId,
        agent: &AgentId,
    ) -> Result<BTreeSet<Environment>> {
        let sql = "SELECT DISTINCT environment FROM agents WHERE account = $1 AND agent_id = $2";
        let rows: Vec<(String,)> = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(agent.as_str()).fetch_all(pool).await).map_err(failed)?;
        rows.iter()
            .map(|(one,)| parsed(one, "environment"))
            .collect()
    }

    /// Living agents of an account, and how many of them a version answers for.
    pub async fn count_agents(&self, account: &AccountId) -> Result<(u64, u64)> {
        let sql = "SELECT COUNT(*), COUNT(CASE WHEN t.routes <> '{\"routes\":[]}' THEN 1 END) \
             FROM agents a LEFT JOIN traffic t ON t.incarnation = a.incarnation WHERE a.account = $1 AND a.deleted_at IS NULL";
        let (all, active): (i64, i64) =
            read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).fetch_one(pool).await)
                .map_err(failed)?;
        Ok((
            u64::try_from(all).unwrap_or(0),
            u64::try_from(active).unwrap_or(0),
        ))
    }

    pub async fn mark_agent_deleted(&self, incarnation: &str, at: Timestamp) -> Result<()> {
        let agent =
            "UPDATE agents SET deleted_at = $2 WHERE incarnation = $1 AND deleted_at IS NULL";
        write!(self, pool => sqlx::query(agent).bind(incarnation).bind(at.0).execute(pool).await.map(|_| ())).map_err(failed)
    }

    /// One page of living agents and how many there are in all.
    pub async fn agents(
        &self,
        account: &AccountId,
        filter: &Filter,
        sort: (Sort, bool),
        offset: u32,
        limit: u32,
    ) -> Result<(Vec<Listed>, u64)> {
        let sql = list_sql(filter, sort);
        read!(self, pool => {
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(account.as_str()).bind(i64::from(limit)).bind(i64::from(offset));
            query = query.bind(filter.environment.map(Environment::as_str)).bind(filter.status.map(Status::as_str)).bind(filter.agent_id.as_ref().map(AgentId::as_str));
            for tag in &filter.tags {
                query = query.bind(tag);
            }
            for agent in filter.scope.iter().flatten() {
                query = query.bind(agent.as_str());
            }
            let rows = query.fetch_all(pool).await.map_err(failed)?;
            let mut total = 0;
            let mut listed = Vec::with_capacity(rows.len());
            for row in rows {
                let text = |name: &str| row.try_get::<String, _>(name).map_err(failed);
                let number = |name: &str| row.try_get::<i64, _>(name).map_err(failed);
                total = number("total")?;
                // Past the end there is one row, with nothing but the total.
                let version_id: Option<String> = row.try_get("version_id").map_err(failed)?;
                let Some(version_id) = version_id else { continue };
                let routes: Option<String> = row.try_get("routes").map_err(failed)?;
                listed.push(Listed {
                    agent: Agent {
                        account: account.clone(),
                        agent_id: parsed(&text("agent_id")?, "agent id")?,
                        incarnation: text("incarnation")?,
                        environment: parsed(&text("environment")?, "environment")?,
                        name: text("name")?,
                        created_by: text("created_by")?,
                        created_at: Timestamp(number("created_at")?),
                        deleted_at: None,
                    },
                    spec: document(&text("spec")?, "spec")?,
                    version_id: parsed(&version_id, "version id")?,
                    status: parsed(&text("status")?, "status")?,
                    last_updated: Timestamp(number("last_updated")?),
                    traffic: routes.map(|routes| document(&routes, "routes")).transpose()?.unwrap_or_default(),
                });
            }
            Ok((listed, u64::try_from(total).unwrap_or(0)))
        })
    }
}

/// Those out of reach of a key that is limited to environments; `account` is the account's place in the statement.
pub(crate) fn elsewhere(environments: &BTreeSet<Environment>, account: &str) -> String {
    let words: Vec<String> = environments.iter().map(|one| format!("'{one}'")).collect();
    format!(
        "SELECT agent_id FROM agents WHERE account = {account} AND environment NOT IN ({})",
        words.join(", ")
    )
}

/// The list as one statement. An agent is `deleting` or `deploying` while its newest deployment is; else `active` when a
/// version answers, `failed` when its newest deployment failed, and `inactive` otherwise.
fn list_sql(filter: &Filter, (sort, descending): (Sort, bool)) -> String {
    let tags: String = (0..filter.tags.len())
        .map(|at| format!(" AND EXISTS (SELECT 1 FROM version_tags t WHERE t.version_id = l.version_id AND t.tag = ${})", at + 7))
        .collect();
    let scope = filter.scope.as_ref().map_or(String::new(), |agents| {
        let places: Vec<String> = (0..agents.len())
            .map(|at| format!("${}", at + 7 + filter.tags.len()))
            .collect();
        format!(
            " AND l.agent_id IN ({})",
            if places.is_empty() {
                "NULL".to_owned()
            } else {
                places.join(", ")
            }
        )
    });
    let walls = filter.environments.as_ref().map_or(String::new(), |own| {
        format!(" AND l.agent_id NOT IN ({})", elsewhere(own, "$1"))
    });
    let column = match sort {
        Sort::CreatedAt => "l.created_at",
        Sort::Name => "l.name",
        Sort::LastUpdated => "l.last_updated",
    };
    let order = if descending { "DESC" } else { "ASC" };
    // One agent costs the same, however many there are beside it.
    let one = filter
        .agent_id
        .as_ref()
        .map_or("", |_| " AND a.agent_id = $6");
    format!(
        "WITH l AS (
            SELECT a.agent_id, a.incarnation, a.environment, a.name, a.created_by, a.created_at, k.id AS version_id, k.spec AS spec, t.routes AS routes,
                CASE WHEN n.status = 'deploying' AND n.kind = 'delete' THEN 'deleting'
                     WHEN n.status = 'deploying' THEN 'deploying'
                     WHEN t.routes IS NOT NULL AND t.routes <> '{{\"routes\":[]}}' THEN 'active'
                     WHEN n.status = 'failed' THEN 'failed' ELSE 'inactive' END AS status,
                CASE WHEN n.updated_at > a.created_at THEN n.updated_at ELSE a.created_at END AS last_updated
            FROM agents a LEFT JOIN traffic t ON t.incarnation = a.incarnation
                 JOIN versions k ON k.id = (SELECT o.id FROM (SELECT v.id, v.created_at,
                    CASE WHEN t.routes LIKE '{{\"routes\":[{{\"version_id\":\"' || v.id || '%' THEN 0 WHEN t.routes LIKE '%' || v.id || '%' THEN 1 ELSE 2 END AS place
                    FROM versions v WHERE v.incarnation = a.incarnation) o ORDER BY o.place, o.created_at DESC, o.id DESC LIMIT 1)
                 JOIN deployments n ON n.id = (SELECT d.id FROM deployments d WHERE d.incarnation = a.incarnation ORDER BY d.created_at DESC, d.id DESC LIMIT 1)
            WHERE a.account = $1 AND a.deleted_at IS NULL{one}
         ), f AS (
            SELECT l.* FROM l WHERE ($4 IS NULL OR l.environment = $4) AND ($5 IS NULL OR l.status = $5) AND ($6 IS NULL OR l.agent_id = $6){tags}{scope}{walls}
         )
         SELECT p.*, c.total FROM (SELECT COUNT(*) AS total FROM f) c LEFT JOIN
            (SELECT l.* FROM f AS l ORDER BY {column} {order}, l.agent_id {order} LIMIT $2 OFFSET $3) p ON TRUE
         ORDER BY {outer} {order}, p.agent_id {order}",
        outer = column.replace("l.", "p."),
    )
}
