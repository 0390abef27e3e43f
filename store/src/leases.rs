//! Leases: of those that could do a thing, one does it. Taken and kept by compare-and-set against the database's own time;
//! a write under a lease carries its epoch and is refused when somebody else has taken the lease since.

use crate::{
    clock::{LITE_NOW, PG_NOW},
    db::{Db, Store, failed, read, write},
};
use domain::Result;
use std::time::Duration;

/// Of the deployer that moves what lost and leaving nodes host.
pub const KEEPER: &str = "keeper";
/// Of the monitor that rolls executions up, judges alerts and deletes what is old.
pub const ROLLER: &str = "roller";

/// What its holder shows with every write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub name: String,
    /// One word a process and start: a process that starts again is another holder.
    pub holder: String,
    pub epoch: i64,
}

impl Store {
    /// Takes a lease that nobody holds, or that was held too long. `None`: another holds it.
    pub async fn acquire(&self, name: &str, holder: &str, ttl: Duration) -> Result<Option<Lease>> {
        let now = self.now_sql();
        let sql = sqlx::AssertSqlSafe(format!(
            "INSERT INTO leases (name, holder, epoch, expires_at) VALUES ($1, $2, 1, {now} + $3) \
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, epoch = leases.epoch + 1, expires_at = excluded.expires_at \
             WHERE leases.expires_at <= {now} OR leases.holder = excluded.holder RETURNING epoch"
        ));
        let row: Option<(i64,)> =
            write!(self, pool => sqlx::query_as(sql).bind(name).bind(holder).bind(millis(ttl)).fetch_optional(pool).await)
                .map_err(failed)?;
        Ok(row.map(|(epoch,)| Lease {
            name: name.to_owned(),
            holder: holder.to_owned(),
            epoch,
        }))
    }

    /// Holds it for longer. `false`: it is not held any more, and everything done under it has to end.
    pub async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<bool> {
        let now = self.now_sql();
        let sql = sqlx::AssertSqlSafe(format!(
            "UPDATE leases SET expires_at = {now} + $4 WHERE name = $1 AND holder = $2 AND epoch = $3 AND expires_at > {now}"
        ));
        let rows = write!(self, pool => sqlx::query(sql).bind(&lease.name).bind(&lease.holder).bind(lease.epoch).bind(millis(ttl))
            .execute(pool).await.map(|done| done.rows_affected()))
        .map_err(failed)?;
        Ok(rows == 1)
    }

    /// Gives it back, for the next one to take at once.
    pub async fn release(&self, lease: &Lease) -> Result<()> {
        let sql = "UPDATE leases SET expires_at = 0 WHERE name = $1 AND holder = $2 AND epoch = $3";
        write!(self, pool => sqlx::query(sql).bind(&lease.name).bind(&lease.holder).bind(lease.epoch).execute(pool).await.map(|_| ()))
            .map_err(failed)
    }

    /// Whether somebody holds it now.
    pub async fn is_leased(&self, name: &str) -> Result<bool> {
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT CAST(COUNT(*) AS BIGINT) FROM leases WHERE name = $1 AND expires_at > {}",
            self.now_sql()
        ));
        let (held,): (i64,) =
            read!(self, pool => sqlx::query_as(sql).bind(name).fetch_one(pool).await)
                .map_err(failed)?;
        Ok(held > 0)
    }

    /// Selects a row where the lease with these name, holder and epoch is held. Under Postgres its row is kept from changing
    /// until the statement around it is committed; SQLite has one writer.
    pub(crate) fn held_sql(&self, [name, holder, epoch]: [&str; 3]) -> String {
        let (now, share) = match &self.db {
            Db::Lite { .. } => (LITE_NOW, ""),
            Db::Pg(_) => (PG_NOW, " FOR SHARE"),
        };
        format!(
            "SELECT 1 FROM leases WHERE name = {name} AND holder = {holder} AND epoch = {epoch} AND expires_at > {now}{share}"
        )
    }

    fn now_sql(&self) -> &'static str {
        match &self.db {
            Db::Lite { .. } => LITE_NOW,
            Db::Pg(_) => PG_NOW,
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
