//! Agents: deployed, listed, read, deleted.

pub mod delete;
pub mod deploy;
mod deployed;
mod egress;
pub mod get;
pub mod instances;
pub mod limits;
pub mod list;
pub mod logs;
pub mod replace_limits;
pub mod request;
pub mod rollback;
pub mod rotate_webhook_secret;
pub mod update;
pub mod update_request;
pub mod versions;
pub mod wellbeing;

use crate::{app::App, door::Who, error::Answer};
use domain::{Error, id::AgentId};
use store::agents::Agent;

/// The living agent of a path.
pub async fn living(app: &App, who: &Who, agent_id: &str) -> Answer<Agent> {
    let id = crate::door::reach(app, who, agent_id).await?;
    let agent = app.store.agent(&who.key.account, &id).await?;
    Ok(agent.ok_or_else(|| Error::not_found(format!("agent {id}")))?)
}

/// The agent of a path that lives or once lived: its executions stay readable.
pub async fn known(app: &App, who: &Who, agent_id: &str) -> Answer<AgentId> {
    let id = crate::door::reach(app, who, agent_id).await?;
    if app.store.agent_ever_lived(&who.key.account, &id).await? {
        return Ok(id);
    }
    Err(Error::not_found(format!("agent {id}")).into())
}
