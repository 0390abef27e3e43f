//! What one monitor does at a time: rolls up, judges, and deletes what is old.

use crate::{Config, alerts::Watch, retain::Retention, roll::Roller};
use domain::Result;
use std::sync::Arc;
use store::Store;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// `due` is told where there is a webhook to send.
pub async fn run(config: &Config, store: &Store, due: Arc<Notify>, stop: &CancellationToken) {
    let mut roller = Roller::new(config, store);
    let mut retention = Retention::new(config);
    let mut watch = Watch::new(config, store, due);
    let mut tick = tokio::time::interval(config.roll_every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        if let Err(error) = round(&mut roller, &mut retention, &mut watch, stop).await {
            tracing::warn!(error = ?error, "executions could not be rolled up; it is tried again");
        }
    }
    roller.release().await;
}

async fn round(
    roller: &mut Roller,
    retention: &mut Retention,
    watch: &mut Watch,
    stop: &CancellationToken,
) -> Result<()> {
    if !roller.round(stop).await? {
        watch.away();
        return Ok(());
    }
    if let Some(lease) = &roller.lease
        && let Err(error) = watch.turn(lease).await
    {
        tracing::warn!(error = ?error, "alerts could not be judged; it is tried again");
    }
    retention.turn(roller, stop).await
}
