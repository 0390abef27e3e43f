//! Executions: begun, waited for, streamed, read, cancelled.

pub mod background;
pub mod cancel;
mod dispatch;
pub mod document;
pub mod execute;
pub mod get;
pub mod list;
pub mod logs;
pub mod repeat;
pub mod request;
pub mod stream;
pub mod watch;

use crate::{app::App, door, door::Who, error::Answer};
use domain::{
    Error,
    id::{AccountId, VersionId},
};
use store::executions::{Execution, Key};

/// The execution of a path, as far as the caller's key reaches.
pub async fn found(app: &App, who: &Who, agent_id: &str, execution_id: &str) -> Answer<Execution> {
    let agent_id = door::reach(app, who, agent_id).await?;
    let missing = || {
        Error::not_found(format!(
            "execution {} of agent {agent_id}",
            domain::text::quote(execution_id)
        ))
    };
    let key = Key {
        account: who.key.account.clone(),
        id: execution_id.parse().map_err(|_| missing())?,
        agent_id: agent_id.clone(),
    };
    Ok(app.store.execution(&key).await?.ok_or_else(missing)?)
}

/// The agent's own word for a version.
pub async fn version_name(
    app: &App,
    account: &AccountId,
    id: &VersionId,
) -> Answer<Option<String>> {
    let version = app.store.version(account, id).await?;
    Ok(version.map(|version| version.spec.version.to_string()))
}

pub fn status_url(app: &App, key: &Key) -> String {
    format!("{}/executions/{}", app.agent_url(&key.agent_id), key.id)
}
