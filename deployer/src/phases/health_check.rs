//! Whether what was provisioned stays up: enough instances are ready, and a moment later still are.

use super::{Job, Pace, provision};
use domain::{Result, envelope};
use std::time::Duration;
use store::nodes::Node;

/// Between two looks that must agree.
const APART: Duration = Duration::from_millis(100);

pub async fn run(job: &Job) -> Result<()> {
    let version = job.version()?;
    let hosts = job.hosts().await?;
    provision_the_lost(job, &hosts).await?;
    // With no minimum the one that proved the import may have been let go of since.
    let (needed, _) = job.bounds()?;
    let wanted = if version.spec.health_check.enabled {
        2
    } else {
        1
    };
    let (mut good, mut pace) = (0, Pace::new());
    loop {
        let ready = provision::ready(job, &hosts).await?;
        if ready >= needed {
            good += 1;
            if good == wanted {
                job.notes.say(format!("{ready} instances are healthy"));
                return Ok(());
            }
            tokio::time::sleep(APART).await;
        } else {
            good = 0;
            job.notes
                .wait_for(format!("{ready} of {needed} instances were ready"));
            pace.wait().await;
        }
    }
}

/// A node that was provisioned may have died since, and another stands in for it.
async fn provision_the_lost(job: &Job, hosts: &[Node]) -> Result<()> {
    let version = job.version()?;
    let store = &job.deps.store;
    let placed = store
        .envelopes_of_version(&version.account, &version.id)
        .await?;
    let serves = |node: &Node| {
        placed.iter().any(|placed| {
            placed.node_id == node.id && placed.envelope.state == envelope::State::Serving
        })
    };
    if hosts.iter().all(serves) {
        return Ok(());
    }
    job.notes
        .say("an executor was lost; another one takes its place");
    provision::run(job).await
}
