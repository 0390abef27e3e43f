//! What is told of the future and of the backlog: from the rows, read at most once in a while.

use crate::cache::{Cache, Life};
use domain::{Error, Kind, Result, id::AccountId};
use std::time::Duration;
use store::Store;

pub struct Estimates {
    deployments: Cache<AccountId, Duration>,
    open: Cache<AccountId, u32>,
}

/// Where no deployment has ended well yet.
const FIRST_DEPLOYMENT: Duration = Duration::from_secs(60);
const DEPLOYMENT: Life = Life {
    fresh: Duration::from_secs(60),
    kept: Duration::from_secs(600),
};
const OPEN: Life = Life {
    fresh: Duration::from_secs(1),
    kept: Duration::from_secs(5),
};

impl Default for Estimates {
    fn default() -> Self {
        Self {
            deployments: Cache::new(1000),
            open: Cache::new(1000),
        }
    }
}

impl Estimates {
    /// The mean time of the newest deployments that ended well.
    pub async fn deployment(&self, store: &Store, account: &AccountId) -> Duration {
        let read = async || {
            let mean = store.mean_deployment(account, 20).await?;
            Ok(Some(mean.unwrap_or(FIRST_DEPLOYMENT)))
        };
        let known = self.deployments.get(account, |_| DEPLOYMENT, read).await;
        known.ok().flatten().unwrap_or(FIRST_DEPLOYMENT)
    }

    /// Refuses where the account has too much waiting; exact to a second.
    pub async fn room(&self, store: &Store, account: &AccountId, most: u32) -> Result<()> {
        let read = async || store.open_executions(account, most).await.map(Some);
        let open = self.open.get(account, |_| OPEN, read).await?;
        if open.unwrap_or(0) < most {
            return Ok(());
        }
        let message = format!(
            "{most} executions wait or run already, the most that are allowed; try again when some have ended"
        );
        Err(Error::new(Kind::Exhausted, message))
    }
}
