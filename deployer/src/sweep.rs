//! Rows that nobody finished: of a process that is gone, or whose nudge was lost.

use crate::drive::Driver;
use domain::Result;
use std::collections::HashSet;
use store::deployments::Deployment;
use tokio_util::sync::CancellationToken;

/// Rows looked at in one sweep.
const SLICE: u32 = 500;

pub async fn run(driver: &Driver, stop: &CancellationToken) {
    // Whatever an earlier process left is taken up at once.
    let mut first = true;
    while !stop.is_cancelled() {
        match sweep(driver, first).await {
            Ok(()) => first = false,
            Err(error) => {
                tracing::warn!(error = ?error, "unfinished deployments could not be looked for");
            }
        }
        let wait = tokio::time::sleep(driver.config().sweep_every);
        tokio::select! {
            () = stop.cancelled() => return,
            () = wait => {}
        }
    }
}

async fn sweep(driver: &Driver, first: bool) -> Result<()> {
    let mut agents = HashSet::new();
    for row in driver.deps().store.unfinished_deployments(SLICE).await? {
        // The oldest of an agent says whether somebody is at it; the others wait for it.
        if agents.insert(row.incarnation.clone()) && (first || is_left(driver, &row)) {
            driver.drive(&row.incarnation, first);
        }
    }
    Ok(())
}

fn is_left(driver: &Driver, row: &Deployment) -> bool {
    let idle = driver.deps().store.now().since(row.updated_at);
    let begun = row.rev > 0;
    idle >= driver.config().abandoned_after || (!begun && idle >= driver.config().sweep_every)
}
