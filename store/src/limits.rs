//! Limits of agents, and what was taken of any limits: one row a subject, for all gateways.

use crate::db::{Store, document, failed, json, read, write};
use domain::{
    Result, Timestamp,
    id::{AccountId, AgentId, KeyId},
    limit::{self, Amount, Lease, Limits, Spent},
};

/// Which agent, as which incarnation.
#[derive(Debug, Clone, Copy)]
pub struct Whose<'a> {
    pub account: &'a AccountId,
    pub agent_id: &'a AgentId,
    pub incarnation: &'a str,
}

impl Store {
    pub async fn agent_limits(&self, incarnation: &str) -> Result<Limits> {
        let sql = "SELECT limits FROM agent_limits WHERE incarnation = $1";
        let row: Option<(String,)> =
            read!(self, pool => sqlx::query_as(sql).bind(incarnation).fetch_optional(pool).await)
                .map_err(failed)?;
        row.map_or_else(
            || Ok(Limits::default()),
            |(limits,)| document(&limits, "limits"),
        )
    }

    pub async fn set_agent_limits(
        &self,
        whose: Whose<'_>,
        limits: &Limits,
        (by, at): (&KeyId, Timestamp),
    ) -> Result<()> {
        let sql = "INSERT INTO agent_limits (incarnation, account, agent_id, limits, updated_by, updated_at) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (incarnation) DO UPDATE SET limits = excluded.limits, updated_by = excluded.updated_by, updated_at = excluded.updated_at";
        let limits = json(limits)?;
        write!(self, pool => sqlx::query(sql).bind(whose.incarnation).bind(whose.account.as_str()).bind(whose.agent_id.as_str()).bind(limits)
            .bind(by.as_str()).bind(at.0).execute(pool).await.map(|_| ()))
        .map_err(failed)
    }

    /// Gives `back` and takes of `want` what there is. One gateway at a time: the row is locked by the first statement.
    pub async fn lease_limits(
        &self,
        (account, subject): (&AccountId, &str),
        limits: &Limits,
        back: Amount,
        want: Amount,
    ) -> Result<Lease> {
        let lock = "INSERT INTO spent (account, subject, full_at_us, day, day_used, month, month_used, updated_at) VALUES ($1, $2, 0, 0, 0, 0, 0, $3) \
             ON CONFLICT (account, subject) DO UPDATE SET updated_at = excluded.updated_at \
             RETURNING full_at_us, day, day_used, month, month_used";
        let set = "UPDATE spent SET full_at_us = $3, day = $4, day_used = $5, month = $6, month_used = $7 WHERE account = $1 AND subject = $2";
        write!(self, pool => async {
            let mut transaction = pool.begin().await?;
            let row: (i64, i64, i64, i64, i64) = sqlx::query_as(lock).bind(account.as_str()).bind(subject).bind(self.now().0)
                .fetch_one(&mut *transaction).await?;
            let mut spent = Spent {
                full_at_us: row.0,
                day: row.1,
                day_used: u64::try_from(row.2).unwrap_or(0),
                month: row.3,
                month_used: u64::try_from(row.4).unwrap_or(0),
            };
            let lease = limit::lease(limits, &mut spent, self.now_us(), back, want);
            let used = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            sqlx::query(set).bind(account.as_str()).bind(subject).bind(spent.full_at_us).bind(spent.day).bind(used(spent.day_used))
                .bind(spent.month).bind(used(spent.month_used)).execute(&mut *transaction).await?;
            transaction.commit().await?;
            Ok::<_, sqlx::Error>(lease)
        }.await)
        .map_err(failed)
    }

    /// Deletes what nobody took anything of since `before`, at most `slice` rows; says how many.
    pub async fn purge_spent(&self, before: Timestamp, slice: u32) -> Result<u64> {
        let sql = "DELETE FROM spent WHERE (account, subject) IN (SELECT account, subject FROM spent WHERE updated_at < $1 LIMIT $2)";
        write!(self, pool => sqlx::query(sql).bind(before.0).bind(i64::from(slice)).execute(pool).await.map(|done| done.rows_affected()))
            .map_err(failed)
    }
}
