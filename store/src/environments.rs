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

    /// Versions need these, now.
    pub async fn use_archives(&self, digests: &[&str], now: Timestamp) -> Result<()> {
        let sql = "UPDATE environments SET used_at = $1 WHERE digest = $2 AND used_at < $1";
        for digest in digests {
            write!(self, pool => sqlx::query(sql).bind(now.0).bind(*digest).execute(pool).await.map(|_| ()))
                .map_err(failed)?;
        }
        Ok(())
    }

    /// Those that were made, and last needed, before.
    pub async fn unused_archives(&self, before: Timestamp, limit: u32) -> Result<Vec<Archive>> {
        let sql = "SELECT digest, libc, archive, size, created_at FROM environments WHERE used_at < $1 AND created_at < $1 \
             ORDER BY digest, libc LIMIT $2";
        let rows: Vec<(String, String, String, i64, i64)> =
            read!(self, pool => sqlx::query_as(sql).bind(before.0).bind(i64::from(limit)).fetch_all(pool).await)
                .map_err(failed)?;
        rows.into_iter()
            .map(|(digest, libc, archive, size, created_at)| {
                Ok(Archive {
                    digest,
                    libc,
                    archive,
                    size: u64::try_from(size).map_err(|_| corrupt("size of an environment"))?,
                    created_at: Timestamp(created_at),
                })
            })
            .collect()
    }

    /// `false`: it was needed, or made anew, meanwhile.
    pub async fn forget_archive(&self, gone: &Archive, before: Timestamp) -> Result<bool> {
        let sql = "DELETE FROM environments WHERE digest = $1 AND libc = $2 AND archive = $3 AND used_at < $4 AND created_at < $4";
        let rows = write!(self, pool => sqlx::query(sql).bind(&gone.digest).bind(&gone.libc).bind(&gone.archive).bind(before.0)
            .execute(pool).await.map(|done| done.rows_affected()))
        .map_err(failed)?;
        Ok(rows == 1)
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
