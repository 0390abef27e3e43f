//! Deliveries as callers read them, and send them again.

use super::{Attempt, COLUMNS, Delivery, Row, delivery};
use crate::db::{Store, failed, read, write};
use domain::{
    Result, Timestamp,
    id::{AccountId, AgentId, DeliveryId},
    webhook::Status,
};
use sqlx::QueryBuilder;
use std::collections::HashMap;

/// All must hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub status: Option<Status>,
    pub execution_id: Option<String>,
}

type AttemptRow = (String, i64, i64, i64, Option<i64>, Option<String>);

/// Of one delivery, with its attempts.
pub type Told = (Delivery, Vec<Attempt>);

fn attempts(rows: Vec<AttemptRow>) -> HashMap<String, Vec<Attempt>> {
    let mut attempts: HashMap<String, Vec<Attempt>> = HashMap::new();
    for (id, attempt, at, duration_ms, status, error) in rows {
        attempts.entry(id).or_default().push(Attempt {
            attempt: u32::try_from(attempt).unwrap_or(u32::MAX),
            at: Timestamp(at),
            duration_ms: u32::try_from(duration_ms).unwrap_or(u32::MAX),
            status: status.and_then(|status| u16::try_from(status).ok()),
            error,
        });
    }
    attempts
}

macro_rules! conditions {
    ($query:ident, $account:expr, $agent:expr, $filter:expr) => {
        $query
            .push(" WHERE account = ")
            .push_bind($account.as_str())
            .push(" AND agent_id <> '' AND agent_id = ")
            .push_bind($agent.as_str());
        if let Some(status) = $filter.status {
            $query.push(" AND status = ").push_bind(status.as_str());
        }
        if let Some(execution) = &$filter.execution_id {
            $query
                .push(" AND execution_id <> '' AND execution_id = ")
                .push_bind(execution.as_str());
        }
    };
}

impl Store {
    /// Of each of these subjects, in the order in which they came, with their attempts.
    pub async fn deliveries_of(
        &self,
        account: &AccountId,
        subjects: &[&str],
    ) -> Result<HashMap<String, Vec<Told>>> {
        if subjects.is_empty() {
            return Ok(HashMap::new());
        }
        let rows: Vec<Row> = read!(self, pool => {
            let mut query = QueryBuilder::new(format!("SELECT {COLUMNS}, '' AS body FROM deliveries WHERE account = "));
            query.push_bind(account.as_str()).push(" AND subject IN (");
            let mut names = query.separated(", ");
            for subject in subjects {
                names.push_bind(*subject);
            }
            query.push(") ORDER BY created_at, level, id LIMIT 10000").build_query_as().persistent(false).fetch_all(pool).await
        })
        .map_err(failed)?;
        let mut found: HashMap<String, Vec<Told>> = HashMap::new();
        for one in self.with_attempts(account, rows).await? {
            found.entry(one.0.subject.clone()).or_default().push(one);
        }
        Ok(found)
    }

    /// A page of an agent's callbacks, newest first, with their attempts, and how many there are.
    pub async fn callbacks(
        &self,
        account: &AccountId,
        agent: &AgentId,
        filter: &Filter,
        (offset, limit): (u32, u32),
    ) -> Result<(Vec<Told>, u64)> {
        let rows: Vec<Row> = read!(self, pool => {
            let mut query = QueryBuilder::new(format!("SELECT {COLUMNS}, '' AS body FROM deliveries"));
            conditions!(query, account, agent, filter);
            query.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(i64::from(limit)).push(" OFFSET ").push_bind(i64::from(offset));
            query.build_query_as().persistent(false).fetch_all(pool).await
        })
        .map_err(failed)?;
        let (total,): (i64,) = read!(self, pool => {
            let mut query = QueryBuilder::new("SELECT COUNT(*) FROM deliveries");
            conditions!(query, account, agent, filter);
            query.build_query_as().persistent(false).fetch_one(pool).await
        })
        .map_err(failed)?;
        Ok((
            self.with_attempts(account, rows).await?,
            total.unsigned_abs(),
        ))
    }

    pub async fn callback(
        &self,
        account: &AccountId,
        agent: &AgentId,
        id: &DeliveryId,
    ) -> Result<Option<Told>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {COLUMNS}, '' AS body FROM deliveries WHERE id = $3 AND account = $1 AND agent_id = $2 AND execution_id <> ''"
        ));
        let rows: Vec<Row> = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(agent.as_str()).bind(id.as_str())
            .fetch_all(pool).await)
        .map_err(failed)?;
        Ok(self.with_attempts(account, rows).await?.pop())
    }

    async fn with_attempts(&self, account: &AccountId, rows: Vec<Row>) -> Result<Vec<Told>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let mut made = HashMap::new();
        for some in rows.chunks(500) {
            let found: Vec<AttemptRow> = read!(self, pool => {
                let mut query = QueryBuilder::new("SELECT delivery_id, attempt, at, duration_ms, status, error FROM delivery_attempts WHERE account = ");
                query.push_bind(account.as_str()).push(" AND delivery_id IN (");
                let mut names = query.separated(", ");
                for row in some {
                    names.push_bind(row.0.as_str());
                }
                query.push(") ORDER BY delivery_id, attempt").build_query_as().persistent(false).fetch_all(pool).await
            })
            .map_err(failed)?;
            made.extend(attempts(found));
        }
        let told = |row: Row| {
            let made = made.remove(row.0.as_str()).unwrap_or_default();
            Ok((delivery(row)?, made))
        };
        rows.into_iter().map(told).collect()
    }

    /// Sends one again from now on, as if anew, and to a receiver that was gone. `false`: it was tried that often already, or is no more.
    pub async fn redeliver(&self, one: &Delivery, most: u32, now: Timestamp) -> Result<bool> {
        let back = "DELETE FROM gone_receivers WHERE account = $1 AND owner = $2 AND url = $3";
        let again = "UPDATE deliveries SET status = 'pending', tried_before = attempts, due_at = $3 WHERE id = $1 AND account = $2 AND attempts < $4";
        let done: Result<bool, sqlx::Error> = write!(self, pool => async {
            let mut transaction = pool.begin().await?;
            sqlx::query(back).bind(one.account.as_str()).bind(&one.sealed_for).bind(&one.url).execute(&mut *transaction).await?;
            let rows = sqlx::query(again).bind(one.id.as_str()).bind(one.account.as_str()).bind(now.0).bind(i64::from(most))
                .execute(&mut *transaction).await?.rows_affected();
            transaction.commit().await?;
            Ok(rows == 1)
        }.await);
        done.map_err(failed)
    }
}
