//! Who answers: one write, then everybody is told.

use super::Job;
use domain::{
    Result,
    traffic::{Route, Traffic},
};
use proto::v1::{TrafficChanged, event::Event};

/// For an agent that is deleted.
pub async fn nobody(job: &Job) -> Result<()> {
    route(job, &Traffic::default()).await?;
    job.notes.say("nobody answers any more");
    Ok(())
}

/// The route of the version that is deployed.
pub fn own(job: &Job) -> Result<Route> {
    let version = job.version()?;
    Ok(Route {
        version_id: version.id.clone(),
        version: version.spec.version.clone(),
        weight: 1000,
    })
}

pub async fn route(job: &Job, traffic: &Traffic) -> Result<()> {
    let (row, store) = (&job.deployment, &job.deps.store);
    let at = store.now();
    store
        .set_traffic(&row.account, &row.agent_id, &row.incarnation, traffic, at)
        .await?;
    let changed = Event::TrafficChanged(TrafficChanged {
        account: row.account.to_string(),
        agent_id: row.agent_id.to_string(),
    });
    tell(job, changed).await;
    Ok(())
}

/// Nobody may depend on hearing it, so nothing fails where nobody can be told.
pub async fn tell(job: &Job, event: Event) {
    if let Err(error) = job.deps.bus.tell(&job.deployment.account, event).await {
        tracing::warn!(error = ?error, deployment.id = %job.deployment.id, "others could not be told of a change");
    }
}
