//! Back to the version before: one write, and then what was new finishes what it has and is let go of.

use super::{
    Job, provision, retire,
    shift_traffic::{self, route},
    take_down::let_go,
};
use crate::nodes;
use domain::{
    Error, Result,
    rollout::ALL,
    traffic::{Route, Traffic},
};
use store::versions::Version;
use tokio::time::Instant;

pub async fn run(job: &Job) -> Result<()> {
    let rollout = job.notes.rollout();
    let baseline = rollout
        .baseline
        .ok_or_else(|| Error::conflict("no version answered before"))?;
    let (own, store) = (shift_traffic::own(job)?, &job.deps.store);
    let moved = store.traffic(&job.deployment.incarnation).await?;
    let before = store
        .version(&job.deployment.account, &baseline.version_id)
        .await?;
    if moved.weight_of(&own.version_id) > 0 || moved.routes.is_empty() {
        if let Some(before) = &before {
            warm(job, &baseline, before).await?;
        }
        route(job, &Traffic::shared(baseline.clone(), own, 0)).await?;
        let at = store.now();
        job.notes.change(|rollout| {
            (rollout.weight, rollout.undone_at) = (0, Some(at));
        });
        job.notes.say(format!(
            "version {} answers {} % of the callers again",
            baseline.version,
            ALL / 10
        ));
    }
    if let Some(before) = before {
        let (min, max) = provision::bounds(&before.spec.scaling);
        provision::hold(&job.about(before), min, max).await?;
    }
    let version = job.version()?;
    let placed = store
        .envelopes_of_version(&version.account, &version.id)
        .await?;
    for one in &placed {
        retire::begin(job, one).await?;
    }
    let heard_by = Instant::now() + job.config.settle;
    let deadline = Instant::now() + retire::bound(job, &placed).await?;
    for one in &placed {
        retire::drained(job, one, heard_by, deadline).await?;
        let_go(job, one).await?;
    }
    job.notes
        .say(format!("version {} is taken down", version.spec.version));
    Ok(())
}

/// Callers go back to a version that can answer: where it has lost its instances it gets them again first. One that cannot start
/// gets nobody, and who answers now answers on.
async fn warm(job: &Job, baseline: &Route, before: &Version) -> Result<()> {
    let ready = job.ready_instances(baseline).await?;
    for one in &ready {
        if nodes::alive(job.means(), &one.node_id).await?.is_some() {
            return Ok(());
        }
    }
    let version = &baseline.version;
    job.notes.say(format!(
        "version {version} has no instance any more: it is started again before its callers go back"
    ));
    let within = job.config.provision;
    let about = job.about(before.clone());
    let started = tokio::time::timeout(within, provision::run(&about)).await;
    let started = started.unwrap_or_else(|_| {
        Err(Error::conflict(format!(
            "it was not ready within {} s",
            within.as_secs()
        )))
    });
    started.map_err(|error| {
        let words = format!(
            "callers stay: version {version} cannot be started again: {}",
            error.message
        );
        Error::new(error.kind, words).because(error)
    })
}
