//! How deliveries come to be: in the transaction of what they tell.

use super::New;
use crate::{
    db::{Store, failed, parsed, read, write},
    executions::Key,
};
use domain::{Result, Timestamp, id::AccountId};

/// What is for a receiver that is gone is over at once, and is there to be seen.
pub(crate) const INSERT: &str = "INSERT INTO deliveries (id, account, subject, event, level, round, url, body, secret, sealed_for, status, attempts, \
     created_at, due_at, agent_id, execution_id, host) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, CASE WHEN g.gone = 0 THEN 'pending' ELSE 'disabled' END, 0, \
     CAST($11 AS BIGINT), CASE WHEN g.gone = 0 THEN CAST($11 AS BIGINT) END, $12, $13, $14 \
     FROM (SELECT COUNT(*) AS gone FROM gone_receivers WHERE account = $2 AND owner = $10 AND url = $7) AS g WHERE TRUE ON CONFLICT DO NOTHING";
pub(crate) const WITHHELD: &str =
    "UPDATE gone_receivers SET used_at = $4 WHERE account = $1 AND owner = $2 AND url = $3";

/// An execution whose caller was not told yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owed {
    pub key: Key,
    pub completed_at: Timestamp,
}

/// Inserts one in a transaction of either engine.
macro_rules! insert {
    ($transaction:expr, $new:expr) => {{
        let new: &$crate::deliveries::New = $new;
        let (agent, execution) = match &new.callback {
            Some((agent, execution)) => (agent.as_str(), execution.as_str()),
            None => ("", ""),
        };
        sqlx::query($crate::deliveries::keep::INSERT)
            .bind(new.id.as_str())
            .bind(new.account.as_str())
            .bind(&new.subject)
            .bind(&new.event)
            .bind(i64::from(new.level))
            .bind(i64::from(new.round))
            .bind(&new.url)
            .bind(&new.body)
            .bind(&new.secret)
            .bind(&new.sealed_for)
            .bind(new.created_at.0)
            .bind(agent)
            .bind(execution)
            .bind(domain::webhook::host(&new.url))
            .execute(&mut *$transaction)
            .await?;
        sqlx::query($crate::deliveries::keep::WITHHELD)
            .bind(new.account.as_str())
            .bind(&new.sealed_for)
            .bind(&new.url)
            .bind(new.created_at.0)
            .execute(&mut *$transaction)
            .await?;
    }};
}

pub(crate) use insert;

impl Store {
    /// Executions that have ended and whose callers were not told yet, the first end first, from after `after` on.
    pub async fn owed_callbacks(&self, after: Option<&Owed>, limit: u32) -> Result<Vec<Owed>> {
        let sql = "SELECT account, agent_id, id, completed_at FROM executions WHERE callback_owed IS NOT NULL AND completed_at IS NOT NULL \
             AND completed_at >= $1 AND (completed_at, account, agent_id, id) > ($1, $2, $3, $4) ORDER BY completed_at, account, agent_id, id LIMIT $5";
        let (at, (account, agent, id)) = match after {
            Some(owed) => (owed.completed_at.0, owed.key.words()),
            None => (i64::MIN, ("", "", "")),
        };
        let rows: Vec<(String, String, String, i64)> =
            read!(self, pool => sqlx::query_as(sql).bind(at).bind(account).bind(agent).bind(id).bind(i64::from(limit)).fetch_all(pool).await)
                .map_err(failed)?;
        let owed = |(account, agent, id, at): (String, String, String, i64)| {
            Ok(Owed {
                key: Key {
                    account: parsed(&account, "account")?,
                    agent_id: parsed(&agent, "agent id")?,
                    id: parsed(&id, "execution id")?,
                },
                completed_at: Timestamp(at),
            })
        };
        rows.into_iter().map(owed).collect()
    }

    /// Keeps what an execution's caller is told, once. `None` for `new`: there is nothing to tell any more. `false`: it was kept before.
    pub async fn keep_callback(&self, key: &Key, new: Option<&New>) -> Result<bool> {
        // Through COALESCE: the index of those that are owed must not look like a way to one row.
        let settle = "UPDATE executions SET callback_owed = NULL WHERE account = $1 AND agent_id = $2 AND id = $3 AND COALESCE(callback_owed, 0) = 1 \
             AND completed_at IS NOT NULL";
        let (account, agent, id) = key.words();
        let kept: Result<bool, sqlx::Error> = write!(self, pool => async {
            let mut transaction = pool.begin().await?;
            let rows = sqlx::query(settle).bind(account).bind(agent).bind(id).execute(&mut *transaction).await?.rows_affected();
            if rows == 0 {
                return Ok(false);
            }
            if let Some(new) = new {
                insert!(transaction, new);
            }
            transaction.commit().await?;
            Ok(true)
        }.await);
        kept.map_err(failed)
    }

    /// An agent's new webhook secret; the one before it signs too until then. `false`: there is no such living agent.
    pub async fn rotate_webhook_secret(
        &self,
        (account, incarnation): (&AccountId, &str),
        sealed: &[u8],
        until: Timestamp,
    ) -> Result<bool> {
        let sql = "UPDATE agents SET webhook_secret_before = webhook_secret, webhook_secret_until = $4, webhook_secret = $3 \
             WHERE account = $1 AND incarnation = $2 AND deleted_at IS NULL";
        let rows = write!(self, pool => sqlx::query(sql).bind(account.as_str()).bind(incarnation).bind(sealed).bind(until.0)
            .execute(pool).await.map(|done| done.rows_affected()))
        .map_err(failed)?;
        Ok(rows == 1)
    }
}
