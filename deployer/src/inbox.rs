//! The bus to calls: every nudge names a deployment whose row waits.

use crate::drive::Driver;
use bus::{Delivery, Work};
use domain::{
    Result,
    deployment::Status,
    id::{AccountId, DeploymentId},
};
use proto::{
    convert::{read, word},
    v1,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Ends when `stop` was asked for or the bus is drained.
pub async fn run(driver: &Driver, mut work: Work, stop: &CancellationToken, tasks: &TaskTracker) {
    loop {
        let delivery = tokio::select! {
            () = stop.cancelled() => return,
            next = work.next() => next,
        };
        let Some(delivery) = delivery else { return };
        let driver = driver.clone();
        tasks.spawn(async move {
            if let Err(error) = take(&driver, delivery).await {
                tracing::warn!(error = ?error, "a nudge to a deployment was not taken; the sweep finds its row");
            }
        });
    }
}

/// Acknowledged when the deployment has ended or another process has it; kept alive meanwhile.
async fn take(driver: &Driver, mut delivery: Delivery) -> Result<()> {
    let nudge = std::mem::take(&mut delivery.message);
    let message: v1::Deploy = read(nudge.payload)?;
    let account: AccountId = word(&message.account)?;
    let id: DeploymentId = word(&message.deployment_id)?;
    let _traced = driver.traced(&id, nudge.headers.trace());
    loop {
        let row = driver.deps().store.deployment(&account, &id).await?;
        let Some(row) = row.filter(|row| row.state.status == Status::Deploying) else {
            break;
        };
        let (mut driven, fresh) = driver.drive(&row.incarnation, false);
        loop {
            // The sender never sends: an answer means that the drive has ended.
            let third = driver.config().ack_wait / 3;
            match tokio::time::timeout(third, driven.changed()).await {
                Ok(_) => break,
                Err(_) => delivery.in_progress().await.map_err(domain::Error::from)?,
            }
        }
        if driver.is_stopping() {
            // Not acknowledged: another deployer, or the next process, takes it.
            return Ok(());
        }
        // An older drive may have ended without having seen this row; a fresh one that leaves it has given it away.
        if fresh {
            break;
        }
    }
    delivery.ack().await.map_err(domain::Error::from)
}
