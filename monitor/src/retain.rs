//! What is too old is deleted, in slices, so that nobody waits long behind one.

use crate::Config;
use domain::{Result, Timestamp};
use std::time::Duration;
use store::Store;
use tokio_util::sync::CancellationToken;

const SLICE: u32 = 1000;
/// Between two slices: others may write.
const PAUSE: Duration = Duration::from_millis(10);

pub async fn run(config: &Config, store: &Store, stop: &CancellationToken) {
    let mut wait = config.first_purge_after;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = config.purge_every;
        let kept = i64::try_from(config.retention.as_millis()).unwrap_or(i64::MAX);
        let before = Timestamp(store.now().0.saturating_sub(kept));
        match purge(store, before, stop).await {
            Ok(rows) if rows > 0 => {
                tracing::info!(rows, before = %before, "old records were deleted");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(error = ?error, "old records could not be deleted"),
        }
    }
}

/// How many rows went.
async fn purge(store: &Store, before: Timestamp, stop: &CancellationToken) -> Result<u64> {
    let mut gone = 0;
    while !stop.is_cancelled() {
        let rows = store.purge_executions(before, SLICE).await?;
        gone += rows;
        if rows < u64::from(SLICE) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    while !stop.is_cancelled() {
        let rows = store.purge_logs(before, SLICE).await?;
        gone += rows;
        if rows < u64::from(SLICE) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(gone + store.purge_instances(before).await?)
}
