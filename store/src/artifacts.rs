//! Code by content: in its row, or, where an object store is configured, there, and the row says so.

use crate::{
    db::{Store, corrupt, failed, read},
    versions::Artifact,
};
use bytes::Bytes;
use domain::{Error, Result, artifact, id::AccountId};

const ROW: &str = "row";
const BLOB: &str = "blob";

/// The row follows the bytes: code that is deployed again is found where it was put last.
pub(crate) const INSERT: &str = "INSERT INTO artifacts (account, digest, bytes, created_at, stored, size) VALUES ($1, $2, $3, $4, $5, $6) \
     ON CONFLICT (account, digest) DO UPDATE SET bytes = excluded.bytes, stored = excluded.stored, size = excluded.size \
     WHERE artifacts.stored <> excluded.stored";

/// What a row says of where the code is.
pub(crate) struct Place<'a> {
    pub stored: &'static str,
    pub bytes: &'a [u8],
}

fn name(digest: &str) -> String {
    format!("artifacts/{digest}")
}

impl Store {
    /// To be called before the row is committed: a row never names code that is not there. Twice is harmless.
    pub(crate) async fn put_artifact<'a>(&self, code: &'a Artifact) -> Result<Place<'a>> {
        let Some(blobs) = &self.blobs else {
            return Ok(Place {
                stored: ROW,
                bytes: &code.bytes,
            });
        };
        if artifact::digest(&code.bytes) != code.digest {
            return Err(Error::internal(format!(
                "code is not what its digest {} says",
                code.digest
            )));
        }
        let bytes = Bytes::from_owner(std::sync::Arc::clone(&code.bytes));
        blobs.put(&name(&code.digest), bytes).await?;
        Ok(Place {
            stored: BLOB,
            bytes: &[],
        })
    }

    pub async fn artifact(&self, account: &AccountId, digest: &str) -> Result<Option<Vec<u8>>> {
        let sql = "SELECT bytes, stored, size FROM artifacts WHERE account = $1 AND digest = $2";
        let row: Option<(Vec<u8>, String, Option<i64>)> = read!(self, pool => sqlx::query_as(sql).bind(account.as_str()).bind(digest).fetch_optional(pool).await).map_err(failed)?;
        match row {
            None => Ok(None),
            Some((bytes, stored, _)) if stored == ROW => Ok(Some(bytes)),
            Some((_, stored, Some(size))) if stored == BLOB => {
                let size = u64::try_from(size).map_err(|_| corrupt("size of code"))?;
                self.fetch_artifact(digest, size).await.map(Some)
            }
            Some(_) => Err(corrupt("place of code")),
        }
    }

    async fn fetch_artifact(&self, digest: &str, size: u64) -> Result<Vec<u8>> {
        let blobs = self.blobs.as_ref().ok_or_else(|| {
            Error::internal(format!(
                "the code {digest} is in an object store and none is configured; set blobs.url as it was, or deploy it again"
            ))
        })?;
        let bytes = blobs.get(&name(digest), size).await?.ok_or_else(|| {
            Error::internal(format!(
                "the code {digest} is missing in {blobs}; deploy it again"
            ))
        })?;
        if artifact::digest(&bytes) != digest {
            return Err(Error::internal(format!(
                "the code {digest} in {blobs} is not what was put there; deploy it again"
            )));
        }
        Ok(bytes)
    }
}
