//! Webhooks on their way, every attempt to deliver them, and receivers that said that they are gone.

mod due;
pub(crate) mod keep;
mod list;

use crate::{
    db::{Store, failed, parsed, read, write},
    seal::Place,
};
use domain::{
    Result, Timestamp,
    id::{AccountId, AgentId, DeliveryId},
    webhook::Status,
};

pub use due::{Looked, Shares, Turn};
pub use keep::Owed;
pub use list::Filter;

/// One message to one receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct New {
    pub id: DeliveryId,
    pub account: AccountId,
    /// What it is about. Of a subject, event, level, round and URL there is one.
    pub subject: String,
    /// Of a callback: whose, and of which execution.
    pub callback: Option<(AgentId, String)>,
    pub event: String,
    pub level: u8,
    pub round: u32,
    pub url: String,
    pub body: String,
    /// That it is signed with, sealed. Empty: the agent's, whose incarnation is `sealed_for`.
    pub secret: Vec<u8>,
    pub sealed_for: String,
    pub created_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub id: DeliveryId,
    pub account: AccountId,
    pub subject: String,
    pub execution_id: String,
    pub event: String,
    pub level: u8,
    pub url: String,
    /// Empty in lists.
    pub body: String,
    pub secret: Vec<u8>,
    pub sealed_for: String,
    pub status: Status,
    /// Made so far, one that is being made included.
    pub attempts: u32,
    /// Of those, the ones before it was to be sent again.
    pub tried_before: u32,
    pub created_at: Timestamp,
    pub due_at: Option<Timestamp>,
}

/// One that may be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub id: DeliveryId,
    pub account: AccountId,
    pub host: String,
    pub attempts: u32,
    pub tried_before: u32,
    /// Of its body.
    pub bytes: u32,
}

/// One that is due and holds what we never wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub id: String,
    pub why: String,
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

/// [`COLUMNS`], and the body.
type Row = (
    String,
    String,
    String,
    String,
    String,
    i64,
    String,
    Vec<u8>,
    String,
    String,
    i64,
    i64,
    i64,
    Option<i64>,
    String,
);

/// All but the body.
const COLUMNS: &str = "id, account, subject, execution_id, event, level, url, secret, sealed_for, status, attempts, tried_before, created_at, due_at";
/// Of a delivery: its receiver said that it is gone.
const GONE: &str = "EXISTS (SELECT 1 FROM gone_receivers g WHERE g.account = deliveries.account AND g.owner = deliveries.sealed_for AND g.url = deliveries.url)";

fn delivery(row: Row) -> Result<Delivery> {
    Ok(Delivery {
        id: parsed(&row.0, "delivery id")?,
        account: parsed(&row.1, "account")?,
        subject: row.2,
        execution_id: row.3,
        event: row.4,
        level: u8::try_from(row.5).unwrap_or(u8::MAX),
        url: row.6,
        secret: row.7,
        sealed_for: row.8,
        status: parsed(&row.9, "status")?,
        attempts: u32::try_from(row.10).unwrap_or(u32::MAX),
        tried_before: u32::try_from(row.11).unwrap_or(u32::MAX),
        created_at: Timestamp(row.12),
        due_at: row.13.map(Timestamp),
        body: row.14,
    })
}

impl Store {
    /// Begins its next attempt; whoever takes it and dies is followed at `again_at`. `None`: somebody else took it, or its receiver is
    /// gone and it is over. Of one that cannot be read the attempt has begun all the same.
    pub async fn take_delivery(
        &self,
        one: &Due,
        again_at: Timestamp,
    ) -> Result<Option<Result<Delivery, Unreadable>>> {
        let take = sqlx::AssertSqlSafe(format!(
            "UPDATE deliveries SET attempts = attempts + 1, due_at = $3 WHERE id = $1 AND attempts = $2 AND status = 'pending' AND NOT {GONE} \
             RETURNING {COLUMNS}, body"
        ));
        let give_up = sqlx::AssertSqlSafe(format!(
            "UPDATE deliveries SET status = 'disabled', due_at = NULL WHERE id = $1 AND status = 'pending' AND {GONE}"
        ));
        let (id, attempts) = (one.id.as_str(), i64::from(one.attempts));
        let taken: Result<Option<Row>, sqlx::Error> = write!(self, pool => async {
            let taken = sqlx::query_as(take).bind(id).bind(attempts).bind(again_at.0).fetch_optional(pool).await?;
            if taken.is_none() {
                sqlx::query(give_up).bind(id).execute(pool).await?;
            }
            Ok(taken)
        }.await);
        let unreadable = |why: String| {
            let id = one.id.to_string();
            Ok(Some(Err(Unreadable { id, why })))
        };
        match taken {
            Ok(None) => Ok(None),
            Ok(Some(row)) => match delivery(row) {
                Ok(taken) => Ok(Some(Ok(taken))),
                Err(error) => unreadable(error.message),
            },
            Err(sqlx::Error::ColumnDecode { index, .. }) => {
                unreadable(format!("a row holds a bad column {index}"))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// What signs a delivery now: with an agent's secret, for some time, the one before it.
    pub async fn signing_secrets(&self, one: &Delivery, now: Timestamp) -> Result<Vec<String>> {
        let of_agent = one.secret.is_empty();
        let place = if of_agent {
            Place::webhook_secret(&one.account, &one.sealed_for)
        } else {
            Place::alert_policy(&one.account, &one.sealed_for)
        };
        let sealed = if of_agent {
            let sql = "SELECT webhook_secret, CASE WHEN webhook_secret_until > $3 THEN webhook_secret_before END \
                 FROM agents WHERE account = $1 AND incarnation = $2";
            let row: Option<(Vec<u8>, Option<Vec<u8>>)> = read!(self, pool => sqlx::query_as(sql).bind(one.account.as_str()).bind(&one.sealed_for)
                .bind(now.0).fetch_optional(pool).await)
            .map_err(failed)?;
            row.into_iter()
                .flat_map(|(new, before)| [Some(new), before])
                .flatten()
                .collect()
        } else {
            vec![one.secret.clone()]
        };
        let open = |sealed: &Vec<u8>| {
            let secret = self.unseal(&place, sealed)?;
            Ok(String::from_utf8_lossy(&secret).into_owned())
        };
        sealed.iter().map(open).collect()
    }

    /// Keeps an attempt that has ended, and what follows: a receiver that is gone is sent nothing else either. `false`: another attempt
    /// has begun since, whose word counts.
    pub async fn attempted(
        &self,
        one: &Delivery,
        attempt: &Attempt,
        status: Status,
        due_at: Option<Timestamp>,
    ) -> Result<bool> {
        let record = "INSERT INTO delivery_attempts (delivery_id, account, attempt, at, duration_ms, status, error) VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT DO NOTHING";
        let next = "UPDATE deliveries SET status = $3, due_at = $4 WHERE id = $1 AND attempts = $2 AND (status = 'pending' OR $3 = 'delivered')";
        let gone = "INSERT INTO gone_receivers (account, owner, url, gone_at, used_at) VALUES ($1, $2, $3, $4, $4) ON CONFLICT DO NOTHING";
        let others = "UPDATE deliveries SET status = 'disabled', due_at = NULL WHERE account = $1 AND url = $3 AND due_at IS NOT NULL AND sealed_for = $2 AND status = 'pending'";
        let count = i64::from(attempt.attempt);
        let written: Result<bool, sqlx::Error> = write!(self, pool => async {
            let mut transaction = pool.begin().await?;
            sqlx::query(record).bind(one.id.as_str()).bind(one.account.as_str()).bind(count).bind(attempt.at.0).bind(i64::from(attempt.duration_ms))
                .bind(attempt.status.map(i64::from)).bind(&attempt.error).execute(&mut *transaction).await?;
            let rows = sqlx::query(next).bind(one.id.as_str()).bind(count).bind(status.as_str()).bind(due_at.map(|at| at.0))
                .execute(&mut *transaction).await?.rows_affected();
            if rows == 1 && status == Status::Disabled {
                sqlx::query(gone).bind(one.account.as_str()).bind(&one.sealed_for).bind(&one.url).bind(attempt.at.0).execute(&mut *transaction).await?;
                sqlx::query(others).bind(one.account.as_str()).bind(&one.sealed_for).bind(&one.url).execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            Ok(rows == 1)
        }.await);
        written.map_err(failed)
    }

    /// Deletes at most `limit` that are over and were made before `before`, with their attempts, and receivers that are gone for as long
    /// and that nothing was withheld from: how many deliveries went.
    pub async fn purge_deliveries(&self, before: Timestamp, limit: u32) -> Result<u64> {
        let old = "SELECT id FROM deliveries WHERE created_at < $1 AND due_at IS NULL ORDER BY created_at, id LIMIT $2";
        let attempts = sqlx::AssertSqlSafe(format!(
            "DELETE FROM delivery_attempts WHERE delivery_id IN ({old})"
        ));
        let deliveries = sqlx::AssertSqlSafe(format!("DELETE FROM deliveries WHERE id IN ({old})"));
        let gone = "DELETE FROM gone_receivers WHERE used_at < $1 AND NOT EXISTS (SELECT 1 FROM alert_policies p WHERE p.id = gone_receivers.owner)";
        let purged: Result<u64, sqlx::Error> = write!(self, pool => async {
            let mut transaction = pool.begin().await?;
            sqlx::query(attempts).bind(before.0).bind(i64::from(limit)).execute(&mut *transaction).await?;
            let rows = sqlx::query(deliveries).bind(before.0).bind(i64::from(limit)).execute(&mut *transaction).await?.rows_affected();
            sqlx::query(gone).bind(before.0).execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok(rows)
        }.await);
        purged.map_err(failed)
    }
}
