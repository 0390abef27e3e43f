//! Undoes provisioning, for a deployment that does not come to answer.

use super::Job;
use crate::nodes;
use domain::{Result, envelope};
use store::envelopes::{Placed, Wanted};

/// Lets go of the version everywhere, unless callers are routed to it. What cannot be reached reads its rows with its next beat.
pub(crate) async fn take_down(job: &Job) {
    if let Err(error) = all(job).await {
        tracing::warn!(error = ?error, deployment.id = %job.deployment.id, "a version that shall not run could not be taken down everywhere");
    }
}

async fn all(job: &Job) -> Result<()> {
    let Some(version) = &job.version else {
        return Ok(());
    };
    let store = &job.deps.store;
    let traffic = store.traffic(&version.incarnation).await?;
    if traffic
        .routes
        .iter()
        .any(|route| route.version_id == version.id)
    {
        return Ok(());
    }
    for placed in store
        .envelopes_of_version(&version.account, &version.id)
        .await?
    {
        let_go(job, &placed).await?;
    }
    Ok(())
}

/// The row first; the order only where somebody can hear it.
pub(crate) async fn let_go(job: &Job, placed: &Placed) -> Result<()> {
    let version = &placed.envelope.version_id;
    let wanted = Wanted::ending(version, envelope::State::Retired);
    let generation = job.place(&placed.account, &placed.node_id, &wanted).await?;
    if let Some(node) = nodes::alive(job.means(), &placed.node_id).await?
        && let Err(error) =
            nodes::ensure(job.means(), &node, &placed.account, version, generation).await
    {
        tracing::warn!(error = ?error, node.id = %node.id, version.id = %version, "an executor was not told to let go of a version");
    }
    Ok(())
}
