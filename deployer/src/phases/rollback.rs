//! Back to the version before: one write, and then what was new finishes what it has and is let go of.

use super::{
    Job, provision, retire,
    shift_traffic::{self, route},
    take_down::let_go,
};
use domain::{Error, Result, rollout::ALL, traffic::Traffic};
use tokio::time::Instant;

pub async fn run(job: &Job) -> Result<()> {
    let rollout = job.notes.rollout();
    let baseline = rollout
        .baseline
        .ok_or_else(|| Error::conflict("no version answered before"))?;
    let (own, store) = (shift_traffic::own(job)?, &job.deps.store);
    let moved = store.traffic(&job.deployment.incarnation).await?;
    if moved.weight_of(&own.version_id) > 0 || moved.routes.is_empty() {
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
    let version = &baseline.version_id;
    if let Some(before) = store.version(&job.deployment.account, version).await? {
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
