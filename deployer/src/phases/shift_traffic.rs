//! Who answers: one write, then everybody is told.

use super::Job;
use domain::{Result, traffic::Traffic};
use proto::v1::{TrafficChanged, event::Event};

pub async fn run(job: &Job) -> Result<()> {
    let row = &job.deployment;
    let traffic = if job.is_delete() {
        Traffic::default()
    } else {
        let version = job.version()?;
        Traffic::all_to(version.id.clone(), version.spec.version.clone())
    };
    let store = &job.deps.store;
    store
        .set_traffic(
            &row.account,
            &row.agent_id,
            &row.incarnation,
            &traffic,
            store.now(),
        )
        .await?;
    let changed = Event::TrafficChanged(TrafficChanged {
        account: row.account.to_string(),
        agent_id: row.agent_id.to_string(),
    });
    tell(job, changed).await;
    job.notes.say(match traffic.routes.first() {
        Some(route) => format!("version {} answers", route.version),
        None => "nobody answers any more".to_owned(),
    });
    Ok(())
}

/// Nobody may depend on hearing it, so nothing fails where nobody can be told.
pub async fn tell(job: &Job, event: Event) {
    if let Err(error) = job.deps.bus.tell(&job.deployment.account, event).await {
        tracing::warn!(error = ?error, deployment.id = %job.deployment.id, "others could not be told of a change");
    }
}
