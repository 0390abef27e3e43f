//! Webhooks on their way, and every attempt to deliver them.

use crate::db::{Store, failed, parsed, read, write};
use domain::{
    Result, Timestamp,
    id::{AccountId, DeliveryId},
    webhook::Status,
};
use sqlx::QueryBuilder;
use std::collections::HashMap;

/// One message to one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    pub id: DeliveryId,
    pub account: AccountId,
    /// What it is about. Of a subject, event, level, round and URL there is one.
    pub subject: String,
    pub event: String,
    pub level: u8,
    pub round: u32,
    pub url: String,
    pub body: String,
    /// That it is signed with, sealed.
    pub secret: Vec<u8>,
    pub sealed_for: String,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub id: DeliveryId,
    pub account: AccountId,
    pub subject: String,
    pub event: String,
    pub level: u8,
    pub url: String,
    pub body: String,
    pub secret: Vec<u8>,
    pub sealed_for: String,
    pub status: Status,
    /// Made so far, one that is being made included.
    pub attempts: u32,
    pub created_at: Timestamp,
    pub due_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub attempt: u32,
    pub at: Timestamp,
    pub duration_ms: u32,
    /// `None`: nobody answered.
    pub status: Option<u16>,
    pub error: Option<String>,
}

type Row = (
    String,
    String,
    String,
    String,
    i64,
    String,
    String,
    Vec<u8>,
    String,
    String,
    i64,
    i64,
    Option<i64>,
);

pub(crate) const INSERT: &str = "INSERT INTO deliveries (id, account, subject, event, level, round, url, body, secret, sealed_for, status, attempts, \
     created_at, due_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'pending', 0, $11, $11) ON CONFLICT DO NOTHING";
const COLUMNS: &str = "SELECT id, account, subject, event, level, url, body, secret, sealed_for, status, attempts, created_at, due_at FROM deliveries";

fn delivery(row: Row) -> Result<Delivery> {
    Ok(Delivery {
        id: parsed(&row.0, "delivery id")?,
        account: parsed(&row.1, "account")?,
        subject: row.2,
        event: row.3,
        level: u8::try_from(row.4).unwrap_or(u8::MAX),
        url: row.5,
        body: row.6,
        secret: row.7,
        sealed_for: row.8,
        status: parsed(&row.9, "status")?,
        attempts: u32::try_from(row.10).unwrap_or(u32::MAX),
        created_at: Timestamp(row.11),
        due_at: row.12.map(Timestamp),
    })
}

impl Store {
    /// Of all accounts, the longest due first.
    pub async fn due_deliveries(&self, now: Timestamp, limit: u32) -> Result<Vec<Delivery>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE due_at IS NOT NULL AND due_at <= $1 ORDER BY due_at, id LIMIT $2"
        ));
        let rows: Vec<Row> = read!(self, pool => sqlx::query_as(sql).bind(now.0).bind(i64::from(limit)).fetch_all(pool).await)
            .map_err(failed)?;
        rows.into_iter().map(delivery).collect()
    }

    /// Begins its next attempt; whoever takes it and dies is followed at `again_at`. `false`: somebody else took it.
    pub async fn take_delivery(&self, one: &Delivery, again_at: Timestamp) -> Result<bool> {
        let sql = "UPDATE deliveries SET attempts = attempts + 1, due_at = $3 WHERE id = $1 AND attempts = $2 AND status = 'pending'";
        let rows = write!(self, pool => sqlx::query(sql).bind(one.id.as_str()).bind(i64::from(one.attempts)).bind(again_at.0)
            .execute(pool).await.map(|done| done.rows_affected()))
        .map_err(failed)?;
        Ok(rows == 1)
    }

    /// Keeps an attempt that has ended, and what follows. `false`: another attempt has begun since, whose word counts.
    pub async fn attempted(
        &self,
        one: &Delivery,
        attempt: &Attempt,
        status: Status,
        due_at: Option<Timestamp>,
    ) -> Result<bool> {
        let record = "INSERT INTO delivery_attempts (delivery_id, account, attempt, at, duration_ms, status, error) VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT DO NOTHING";
        let next = "UPDATE deliveries SET status = $3, due_at = $4 WHERE id = $1 AND attempts = $2 AND status = 'pending'";
        let count = i64::from(attempt.attempt);
        let written: Result<bool, sqlx::Error> = write!(self, pool => async {
            let mut transaction = pool.begin().await?;
            sqlx::query(record).bind(one.id.as_str()).bind(one.account.as_str()).bind(count).bind(attempt.at.0).bind(i64::from(attempt.duration_ms))
                .bind(attempt.status.map(i64::from)).bind(&attempt.error).execute(&mut *transaction).await?;
            let rows = sqlx::query(next).bind(one.id.as_str()).bind(count).bind(status.as_str()).bind(due_at.map(|at| at.0))
                .execute(&mut *transaction).await?.rows_affected();
            transaction.commit().await?;
            Ok(rows == 1)
        }.await);
        written.map_err(failed)
    }

    /// Of each of these subjects, in the order in which they came, with their attempts.
    pub async fn deliveries_of(
        &self,
        account: &AccountId,
        subjects: &[&str],
    ) -> Result<HashMap<String, Vec<(Delivery, Vec<Attempt>)>>> {
        if subjects.is_empty() {
            return Ok(HashMap::new());
        }
        let rows: Vec<Row> = read!(self, pool => {
            let mut query = QueryBuilder::new(COLUMNS);
            query.push(" WHERE account = ").push_bind(account.as_str()).push(" AND subject IN (");
            let mut names = query.separated(", ");
            for subject in subjects {
                names.push_bind(*subject);
            }
            query.push(") ORDER BY created_at, level, id LIMIT 10000").build_query_as().persistent(false).fetch_all(pool).await
        })
        .map_err(failed)?;
        type AttemptRow = (String, i64, i64, i64, Option<i64>, Option<String>);
        let made: Vec<AttemptRow> = read!(self, pool => {
            let mut query = QueryBuilder::new("SELECT delivery_id, attempt, at, duration_ms, status, error FROM delivery_attempts WHERE account = ");
            query.push_bind(account.as_str()).push(" AND delivery_id IN (SELECT id FROM deliveries WHERE account = ").push_bind(account.as_str())
                .push(" AND subject IN (");
            let mut names = query.separated(", ");
            for subject in subjects {
                names.push_bind(*subject);
            }
            query.push(")) ORDER BY delivery_id, attempt LIMIT 100000").build_query_as().persistent(false).fetch_all(pool).await
        })
        .map_err(failed)?;
        let mut attempts: HashMap<String, Vec<Attempt>> = HashMap::new();
        for (id, attempt, at, duration_ms, status, error) in made {
            attempts.entry(id).or_default().push(Attempt {
                attempt: u32::try_from(attempt).unwrap_or(u32::MAX),
                at: Timestamp(at),
                duration_ms: u32::try_from(duration_ms).unwrap_or(u32::MAX),
                status: status.and_then(|status| u16::try_from(status).ok()),
                error,
            });
        }
        let mut found: HashMap<String, Vec<(Delivery, Vec<Attempt>)>> = HashMap::new();
        for row in rows {
            let one = delivery(row)?;
            let made = attempts.remove(one.id.as_str()).unwrap_or_default();
            found
                .entry(one.subject.clone())
                .or_default()
                .push((one, made));
        }
        Ok(found)
    }

    /// Receivers that said since then that they are gone.
    pub async fn disabled_receivers(
        &self,
        account: &AccountId,
        since: Timestamp,
    ) -> Result<Vec<String>> {
        let sql = "SELECT DISTINCT url FROM deliveries WHERE account = $1 AND created_at >= $2 AND status = 'disabled'";
        let rows: Vec<(String,)> = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(since.0).fetch_all(pool).await)
            .map_err(failed)?;
        Ok(rows.into_iter().map(|(url,)| url).collect())
    }

    /// Deletes at most `limit` that are over and were made before `before`, with their attempts: how many went.
    pub async fn purge_deliveries(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let old = "SELECT id FROM deliveries WHERE created_at < $1 AND due_at IS NULL ORDER BY created_at LIMIT $2";
        let attempts = sqlx::AssertSqlSafe(format!(
            "DELETE FROM delivery_attempts WHERE delivery_id IN ({old})"
        ));
        let deliveries = sqlx::AssertSqlSafe(format!("DELETE FROM deliveries WHERE id IN ({old})"));
        let purged: Result<u64, sqlx::Error> = write!(self, pool => async {
            let mut transaction = pool.begin().await?;
            sqlx::query(attempts).bind(before.0).bind(i64::from(limit)).execute(&mut *transaction).await?;
            let rows = sqlx::query(deliveries).bind(before.0).bind(i64::from(limit)).execute(&mut *transaction).await?.rows_affected();
            transaction.commit().await?;
            Ok(rows)
        }.await);
        purged.map_err(failed)
    }
}
