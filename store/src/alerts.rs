//! Alerts, and who is told of them.

use crate::{
    db::{Store, document, failed, json, parsed, read, write},
    deliveries,
    leases::Lease,
};
use domain::{
    Result, Timestamp,
    agent::Environment,
    alert::{Alert, Policy, Rule, Status},
    id::{AccountId, AgentId, AlertId},
};
use sqlx::QueryBuilder;
use std::collections::BTreeSet;

/// An alert, whose it is, and who answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    pub id: AlertId,
    pub account: AccountId,
    pub agent_id: AgentId,
    /// Of the agent: one that is deployed again after its deletion is another one.
    pub incarnation: String,
    pub rule: Rule,
    pub alert: Alert,
    pub acknowledged_by: Option<String>,
    pub note: Option<String>,
    /// Grows with every change; 0: not written yet.
    pub rev: i64,
}

/// All must hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub agent_id: Option<AgentId>,
    pub status: Option<Status>,
    /// Only of these, where a key is limited to named agents.
    pub scope: Option<Vec<AgentId>>,
    /// Only of those that never lived elsewhere, where a key is limited to environments.
    pub environments: Option<BTreeSet<Environment>>,
}

/// Of an account, or of one agent.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptPolicy {
    pub account: AccountId,
    pub agent_id: Option<AgentId>,
    /// What its secret is sealed for.
    pub id: String,
    pub policy: Policy,
    pub secret: Vec<u8>,
    pub updated_at: Timestamp,
    pub updated_by: String,
}

type Row = (
    String,
    String,
    String,
    String,
    String,
    Option<i64>,
    Option<String>,
    Option<String>,
    String,
    i64,
);
type PolicyRow = (String, String, String, String, Vec<u8>, i64, String);

const COLUMNS: &str = "SELECT id, account, agent_id, incarnation, rule, acknowledged_at, acknowledged_by, acknowledged_note, alert, rev FROM alerts";
const POLICY: &str =
    "SELECT account, agent_id, id, policy, secret, updated_at, updated_by FROM alert_policies";
/// The one row of `alert_position`.
const JUDGED: &str = "minutes";
/// Alerts that one round looks at.
const MOST: i64 = 50_000;

fn kept(row: Row) -> Result<Kept> {
    let mut alert: Alert = document(&row.8, "alert")?;
    alert.acknowledged_at = row.5.map(Timestamp);
    Ok(Kept {
        id: parsed(&row.0, "alert id")?,
        account: parsed(&row.1, "account")?,
        agent_id: parsed(&row.2, "agent id")?,
        incarnation: row.3,
        rule: parsed(&row.4, "rule")?,
        alert,
        acknowledged_by: row.6,
        note: row.7,
        rev: row.9,
    })
}

fn kept_policy(row: PolicyRow) -> Result<KeptPolicy> {
    let agent = (!row.1.is_empty()).then(|| parsed(&row.1, "agent id"));
    Ok(KeptPolicy {
        account: parsed(&row.0, "account")?,
        agent_id: agent.transpose()?,
        id: row.2,
        policy: document(&row.3, "policy")?,
        secret: row.4,
        updated_at: Timestamp(row.5),
        updated_by: row.6,
    })
}

/// Holds a query to the alerts that are asked for.
macro_rules! conditions {
    ($query:ident, $account:expr, $filter:expr) => {
        $query
            .push(" WHERE account = ")
            .push_bind($account.as_str());
        if let Some(agent) = &$filter.agent_id {
            $query.push(" AND agent_id = ").push_bind(agent.as_str());
        }
        $query.push(match $filter.status {
            None => "",
            Some(Status::Resolved) => " AND resolved_at IS NOT NULL",
            Some(Status::Acknowledged) => {
                " AND resolved_at IS NULL AND acknowledged_at IS NOT NULL"
            }
            Some(Status::Escalated) => {
                " AND resolved_at IS NULL AND acknowledged_at IS NULL AND level > 0"
            }
            Some(Status::Firing) => {
                " AND resolved_at IS NULL AND acknowledged_at IS NULL AND level = 0"
            }
        });
        if let Some(scope) = &$filter.scope {
            $query.push(" AND agent_id IN (''");
            for agent in scope {
                $query.push(", ").push_bind(agent.as_str());
            }
            $query.push(")");
        }
        if let Some(own) = &$filter.environments {
            let elsewhere = crate::agents::elsewhere(own, "alerts.account");
            $query.push(format!(" AND agent_id NOT IN ({elsewhere})"));
        }
    };
}

impl Store {
    /// Of all accounts: those that are open, and those that were over at `since` or later; oldest first.
    pub async fn alerts_at_work(&self, since: Timestamp) -> Result<Vec<Kept>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE resolved_at IS NULL OR resolved_at >= $1 ORDER BY opened_at, id LIMIT $2"
        ));
        let rows: Vec<Row> =
            read!(self, pool => sqlx::query_as(sql).bind(since.0).bind(MOST).fetch_all(pool).await)
                .map_err(failed)?;
        rows.into_iter().map(kept).collect()
    }

    /// Writes an alert as it is now, and what is to be sent of that, in one transaction. `false`: nothing was written, because the
    /// lease is not held any longer, somebody changed the alert meanwhile, or there is an open one of its rule already.
    pub async fn write_alert(
        &self,
        lease: &Lease,
        one: &Kept,
        deliveries: &[deliveries::New],
    ) -> Result<bool> {
        let insert = sqlx::AssertSqlSafe(format!(
            "INSERT INTO alerts (id, account, agent_id, incarnation, rule, opened_at, level, resolved_at, alert, rev) \
             SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, 1 WHERE EXISTS ({}) ON CONFLICT DO NOTHING",
            self.held_sql(["$10", "$11", "$12"])
        ));
        let update = sqlx::AssertSqlSafe(format!(
            "UPDATE alerts SET level = $3, resolved_at = $4, alert = $5, acknowledged_at = $6, \
             acknowledged_by = CASE WHEN CAST($6 AS BIGINT) IS NULL THEN NULL ELSE acknowledged_by END, \
             acknowledged_note = CASE WHEN CAST($6 AS BIGINT) IS NULL THEN NULL ELSE acknowledged_note END, rev = rev + 1 \
             WHERE id = $1 AND rev = $2 AND EXISTS ({})",
            self.held_sql(["$7", "$8", "$9"])
        ));
        let text = json(&one.alert)?;
        let (level, resolved) = (
            i64::from(one.alert.level),
            one.alert.resolved_at.map(|at| at.0),
        );
        let written: Result<bool, sqlx::Error> = write!(self, pool => async {
            let mut transaction = pool.begin().await?;
            let query = if one.rev == 0 {
                sqlx::query(insert).bind(one.id.as_str()).bind(one.account.as_str()).bind(one.agent_id.as_str()).bind(&one.incarnation)
                    .bind(one.rule.as_str()).bind(one.alert.opened_at.0).bind(level).bind(resolved).bind(&text)
            } else {
                sqlx::query(update).bind(one.id.as_str()).bind(one.rev).bind(level).bind(resolved).bind(&text)
                    .bind(one.alert.acknowledged_at.map(|at| at.0))
            };
            let rows = query.bind(&lease.name).bind(&lease.holder).bind(lease.epoch).execute(&mut *transaction).await?.rows_affected();
            if rows == 0 {
                return Ok(false);
            }
            for new in deliveries {
                deliveries::keep::insert!(transaction, new);
            }
            transaction.commit().await?;
            Ok(true)
        }.await);
        written.map_err(failed)
    }

    /// A page of an account's, newest first, and how many there are.
    pub async fn alerts(
        &self,
        account: &AccountId,
        filter: &Filter,
        (offset, limit): (u32, u32),
    ) -> Result<(Vec<Kept>, u64)> {
        let rows: Vec<Row> = read!(self, pool => {
            let mut query = QueryBuilder::new(COLUMNS);
            conditions!(query, account, filter);
            query.push(" ORDER BY opened_at DESC, id DESC LIMIT ").push_bind(i64::from(limit)).push(" OFFSET ").push_bind(i64::from(offset));
            query.build_query_as().persistent(false).fetch_all(pool).await
        })
        .map_err(failed)?;
        let (total,): (i64,) = read!(self, pool => {
            let mut query = QueryBuilder::new("SELECT COUNT(*) FROM alerts");
            conditions!(query, account, filter);
            query.build_query_as().persistent(false).fetch_one(pool).await
        })
        .map_err(failed)?;
        let all: Result<Vec<Kept>> = rows.into_iter().map(kept).collect();
        Ok((all?, total.unsigned_abs()))
    }

    pub async fn alert(&self, account: &AccountId, id: &AlertId) -> Result<Option<Kept>> {
        let sql = sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE account = $1 AND id = $2"));
        let row: Option<Row> =
            read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(id.as_str()).fetch_optional(pool).await)
                .map_err(failed)?;
        row.map(kept).transpose()
    }

    /// `false`: somebody answered before, or it is over.
    pub async fn acknowledge_alert(
        &self,
        account: &AccountId,
        id: &AlertId,
        (by, note): (&str, Option<&str>),
        at: Timestamp,
    ) -> Result<bool> {
        let sql = "UPDATE alerts SET acknowledged_at = $3, acknowledged_by = $4, acknowledged_note = $5, rev = rev + 1 \
             WHERE account = $1 AND id = $2 AND acknowledged_at IS NULL AND resolved_at IS NULL";
        let rows = write!(self, pool => sqlx::query(sql).bind(account.as_str()).bind(id.as_str()).bind(at.0).bind(by).bind(note)
            .execute(pool).await.map(|done| done.rows_affected()))
        .map_err(failed)?;
        Ok(rows == 1)
    }

    /// An account's own, or that of an agent.
    pub async fn alert_policy(
        &self,
        account: &AccountId,
        agent: Option<&AgentId>,
    ) -> Result<Option<KeptPolicy>> {
        let sql = sqlx::AssertSqlSafe(format!("{POLICY} WHERE account = $1 AND agent_id = $2"));
        let row: Option<PolicyRow> = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(agent.map_or("", AgentId::as_str))
            .fetch_optional(pool).await)
        .map_err(failed)?;
        row.map(kept_policy).transpose()
    }

    /// Of all accounts.
    pub async fn alert_policies(&self) -> Result<Vec<KeptPolicy>> {
        let rows: Vec<PolicyRow> =
            read!(self, pool => sqlx::query_as(POLICY).fetch_all(pool).await).map_err(failed)?;
        rows.into_iter().map(kept_policy).collect()
    }

    /// Inserts it, or replaces all of it but its secret; its receivers may have come back. `true`: it is new, and so is the secret.
    pub async fn keep_alert_policy(&self, one: &KeptPolicy) -> Result<bool> {
        let sql = "INSERT INTO alert_policies (account, agent_id, id, policy, secret, updated_at, updated_by) VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (account, agent_id) DO UPDATE SET policy = excluded.policy, updated_at = excluded.updated_at, updated_by = excluded.updated_by \
             RETURNING id";
        let (agent, policy) = (
            one.agent_id.as_ref().map_or("", AgentId::as_str),
            json(&one.policy)?,
        );
        let kept: Result<String, sqlx::Error> = write!(self, pool => async {
            let mut transaction = pool.begin().await?;
            let (id,): (String,) = sqlx::query_as(sql).bind(one.account.as_str()).bind(agent).bind(&one.id).bind(&policy)
                .bind(&one.secret).bind(one.updated_at.0).bind(&one.updated_by).fetch_one(&mut *transaction).await?;
            sqlx::query("DELETE FROM gone_receivers WHERE account = $1 AND owner = $2").bind(one.account.as_str()).bind(&id)
                .execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(id)
        }.await);
        Ok(kept.map_err(failed)? == one.id)
    }

    /// An agent's own policy goes; from then on it is judged by its account's. `false`: it has none.
    pub async fn delete_alert_policy(&self, account: &AccountId, agent: &AgentId) -> Result<bool> {
        let gone = "DELETE FROM gone_receivers WHERE account = $1 AND owner IN (SELECT id FROM alert_policies WHERE account = $1 AND agent_id = $2)";
        let policy = "DELETE FROM alert_policies WHERE account = $1 AND agent_id = $2";
        let done: Result<bool, sqlx::Error> = write!(self, pool => async {
            let mut transaction = pool.begin().await?;
            sqlx::query(gone).bind(account.as_str()).bind(agent.as_str()).execute(&mut *transaction).await?;
            let rows = sqlx::query(policy).bind(account.as_str()).bind(agent.as_str()).execute(&mut *transaction).await?.rows_affected();
            transaction.commit().await?;
            Ok(rows == 1)
        }.await);
        done.map_err(failed)
    }

    /// Up to when minutes have been judged, if any were.
    pub async fn alerts_judged(&self) -> Result<Option<Timestamp>> {
        let sql = "SELECT at FROM alert_position WHERE name = $1";
        let row: Option<(i64,)> =
            read!(self, pool => sqlx::query_as(sql).bind(JUDGED).fetch_optional(pool).await)
                .map_err(failed)?;
        Ok(row.map(|(at,)| Timestamp(at)))
    }

    /// Minutes are judged up to then; a clock that was set back is believed. `false`: the lease is not held any longer.
    pub async fn alerts_are_judged(&self, lease: &Lease, at: Timestamp) -> Result<bool> {
        let sql = sqlx::AssertSqlSafe(format!(
            "INSERT INTO alert_position (name, at) SELECT $1, CAST($2 AS BIGINT) WHERE EXISTS ({}) ON CONFLICT (name) DO UPDATE SET at = excluded.at",
            self.held_sql(["$3", "$4", "$5"])
        ));
        let rows = write!(self, pool => sqlx::query(sql).bind(JUDGED).bind(at.0).bind(&lease.name).bind(&lease.holder).bind(lease.epoch)
            .execute(pool).await.map(|done| done.rows_affected()))
        .map_err(failed)?;
        Ok(rows == 1)
    }

    /// Deletes at most `limit` that were over before `before`: how many went.
    pub async fn purge_alerts(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let sql = "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts WHERE resolved_at < $1 ORDER BY resolved_at LIMIT $2)";
        write!(self, pool => sqlx::query(sql).bind(before.0).bind(i64::from(limit)).execute(pool).await.map(|done| done.rows_affected()))
            .map_err(failed)
    }
}
