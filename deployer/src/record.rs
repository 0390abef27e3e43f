//! The row of a deployment that this process drives: every change is a compare-and-set.

use domain::{
    Error, Kind, Result, Timestamp,
    deployment::{Input, State},
};
use std::time::Duration;
use store::{Store, deployments::Deployment};

/// How often a change is tried again while the database is away.
const TRIES: u32 = 20;

pub(crate) struct Record {
    store: Store,
    row: Deployment,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recorded {
    Mine,
    /// Another process changed the row: it drives the deployment, or ended it.
    Theirs,
}

impl Record {
    pub fn new(store: Store, row: Deployment) -> Self {
        Self { store, row }
    }

    pub fn state(&self) -> &State {
        &self.row.state
    }

    pub fn row(&self) -> &Deployment {
        &self.row
    }

    pub fn changed_at(&self) -> Timestamp {
        self.row.updated_at
    }

    /// Several inputs as one change.
    pub async fn apply(&mut self, inputs: impl IntoIterator<Item = Input>) -> Result<Recorded> {
        let at = self.store.now();
        let mut next = self.row.state.clone();
        for input in inputs {
            let said = format!("{input:?}");
            next = next.step(input, at).ok_or_else(|| {
                Error::internal(format!("{said} does not fit deployment {}", self.row.id))
            })?;
        }
        let mut tries = 0;
        let done = loop {
            let row = &self.row;
            let advanced = self
                .store
                .advance_deployment(&row.account, &row.id, row.rev, &next, at)
                .await;
            match advanced {
                Err(error)
                    if matches!(error.kind, Kind::Unavailable | Kind::Timeout) && tries < TRIES =>
                {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(50 * u64::from(tries))).await;
                }
                other => break other?,
            }
        };
        if !done && !self.was_ours(&next).await? {
            return Ok(Recorded::Theirs);
        }
        self.row.rev += 1;
        self.row.state = next;
        self.row.updated_at = at;
        Ok(Recorded::Mine)
    }

    /// A change whose answer was lost may have been made.
    async fn was_ours(&self, next: &State) -> Result<bool> {
        let row = &self.row;
        let found = self.store.deployment(&row.account, &row.id).await?;
        Ok(found.is_some_and(|found| found.rev == row.rev + 1 && found.state == *next))
    }
}
