//! Peaks of memory as shares of what their versions may use.

use domain::{
    Result,
    id::{AccountId, VersionId},
};
use std::collections::HashMap;
use store::Store;

/// Limits that are remembered; beyond that they are asked for again.
const MOST_VERSIONS: usize = 10_000;

/// What versions may use.
#[derive(Default)]
pub struct Limits {
    /// In MB; `None`: such a version is not kept any longer.
    known: HashMap<VersionId, Option<f64>>,
}

impl Limits {
    /// `None` where the peak or the limit is not known.
    pub async fn share(
        &mut self,
        store: &Store,
        account: &AccountId,
        version: &VersionId,
        peak_mb: Option<f64>,
    ) -> Result<Option<f64>> {
        let Some(peak_mb) = peak_mb else {
            return Ok(None);
        };
        let limit = self.of(store, account, version).await?;
        Ok(limit.map(|limit| peak_mb / limit))
    }

    async fn of(
        &mut self,
        store: &Store,
        account: &AccountId,
        version: &VersionId,
    ) -> Result<Option<f64>> {
        if let Some(limit) = self.known.get(version) {
            return Ok(*limit);
        }
        if self.known.len() >= MOST_VERSIONS {
            self.known.clear();
        }
        let found = store.version(account, version).await?;
        let limit = found.map(|found| f64::from(found.spec.configuration.memory_limit_mb));
        self.known.insert(version.clone(), limit);
        Ok(limit)
    }
}
