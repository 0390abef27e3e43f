//! Deployments: the road of a version, and of a deletion; and orders to one on its way.

pub mod abort;
mod events;
pub mod get;
pub mod list;
pub mod order;
pub mod pause;
pub mod promote;
pub mod resume;
mod rollout;

use crate::{app::App, door, door::Who, error::Answer};
use domain::{Error, id::DeploymentId};
use store::deployments::Deployment;

/// The deployment of a path.
pub async fn found(
    app: &App,
    who: &Who,
    (agent_id, deployment_id): &(String, String),
) -> Answer<Deployment> {
    let agent_id = door::reach(app, who, agent_id).await?;
    let missing = || {
        Error::not_found(format!(
            "deployment {} of agent {agent_id}",
            domain::text::quote(deployment_id)
        ))
    };
    let id: DeploymentId = deployment_id.parse().map_err(|_| missing())?;
    let found = app.store.deployment(&who.key.account, &id).await?;
    let found = found.filter(|one| one.agent_id == agent_id);
    Ok(found.ok_or_else(missing)?)
}
