//! Environments that one node has built and packed for the others. The row is what is believed: the object store behind it
//! may be shared, so what comes from there is compared with `archive`.

use crate::db::{Store, corrupt, failed, read, write};
use domain::{Result, Timestamp};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Of lock and interpreter.
    pub digest: String,
    /// Compiled packages fit the C library they were chosen for.
    pub libc: String,
    /// Digest of the packed bytes.
    pub archive: String,
    pub size: u64,
    pub created_at: Timestamp,
}

impl Archive {
    /// What the object store calls it: two nodes that pack the same environment at once never overwrite each other.
    pub fn name(&self) -> String {
        format!(
            "environments/{}/{}/{}",
            self.digest, self.libc, self.archive
        )
    }
}

impl Store {
    pub async fn archive(&self, digest: &str, libc: &str) -> Result<Option<Archive>> {
        let sql =
            "SELECT archive, size, created_at FROM environments WHERE digest = $1 AND libc = $2";
        let row: Option<(String, i64, i64)> =
            read!(self, pool => sqlx::query_as(sql).bind(digest).bind(libc).fetch_optional(pool).await)
                .map_err(failed)?;
        row.map(|(archive, size, created_at)| {
            Ok(Archive {
                digest: digest.to_owned(),
                libc: libc.to_owned(),
                archive,
                size: u64::try_from(size).map_err(|_| corrupt("size of an environment"))?,
                created_at: Timestamp(created_at),
            })
        })
        .transpose()
    }

    /// The first one stays, unless it is `replaced`, which was found missing or spoilt. `false`: another one stays.
    pub async fn keep_archive(&self, new: &Archive, replaced: Option<&str>) -> Result<bool> {
        let sql = "INSERT INTO environments (digest, libc, archive, size, created_at) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (digest, libc) DO UPDATE SET archive = excluded.archive, size = excluded.size, created_at = excluded.created_at \
             WHERE environments.archive = $6";
        let size = i64::try_from(new.size).map_err(|_| corrupt("size of an environment"))?;
        let rows = write!(self, pool => sqlx::query(sql).bind(&new.digest).bind(&new.libc).bind(&new.archive).bind(size).bind(new.created_at.0)
            .bind(replaced.unwrap_or_default()).execute(pool).await.map(|done| done.rows_affected()))
        .map_err(failed)?;
        Ok(rows == 1)
    }
}
