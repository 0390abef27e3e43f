//! What was handed over too often and nobody got further with: shown, and put back by a person.

pub mod list;
pub mod redrive;

use crate::{api::executions::version_name, app::App, door::Who, error::Answer, openapi};
use bus::{Dead, Of};
use domain::{Error, Timestamp, deployment, id::VersionId};
use serde::Serialize;
use store::executions::Key;
use utoipa::ToSchema;

/// A message that was delivered too often, and what it is about.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetter {
    id: String,
    #[schema(schema_with = kind)]
    kind: &'static str,
    /// Null where the message cannot be read, or what it is about is not kept any longer.
    agent_id: Option<String>,
    version: Option<String>,
    /// Null for a deployment.
    execution_id: Option<String>,
    /// Null for an execution.
    deployment_id: Option<String>,
    /// How often it was delivered before it was given up.
    deliveries: u32,
    #[schema(schema_with = openapi::time)]
    dead_at: Timestamp,
    /// Of the execution or deployment, as it is now; null where there is none.
    status: Option<&'static str>,
}

fn kind() -> utoipa::openapi::schema::ObjectBuilder {
    openapi::of_words(&["execution", "deployment"])
}

/// A letter, and whether there is something left to do about it.
async fn seen(app: &App, who: &Who, dead: &Dead) -> Answer<(DeadLetter, bool)> {
    let mut letter = DeadLetter {
        id: dead.id.to_string(),
        kind: "execution",
        agent_id: None,
        version: None,
        execution_id: None,
        deployment_id: None,
        deliveries: dead.deliveries,
        dead_at: dead.dead_at,
        status: None,
    };
    let account = &who.key.account;
    let mut version: Option<VersionId> = None;
    let mut open = false;
    match &dead.of {
        // Nobody knows whose it is; whoever can read it by now will.
        Of::Unreadable => open = true,
        Of::Execution {
            agent_id,
            version_id,
            execution_id,
        } => {
            let key = Key {
                account: account.clone(),
                agent_id: agent_id.clone(),
                id: execution_id.clone(),
            };
            if let Some(row) = app.store.execution(&key).await? {
                open = !row.status.is_terminal();
                letter.status = Some(row.status.as_str());
            }
            letter.agent_id = Some(agent_id.to_string());
            letter.execution_id = Some(execution_id.to_string());
            version = Some(version_id.clone());
        }
        Of::Deployment(id) => {
            letter.kind = "deployment";
            letter.deployment_id = Some(id.to_string());
            if let Some(row) = app.store.deployment(account, id).await? {
                open = row.state.status == deployment::Status::Deploying;
                letter.status = Some(row.state.status.as_str());
                letter.agent_id = Some(row.agent_id.to_string());
                version = row.version_id;
            }
        }
    }
    if let Some(id) = version {
        letter.version = version_name(app, account, &id).await?;
    }
    Ok((letter, open))
}

fn over(letter: &DeadLetter) -> Error {
    let what = letter
        .execution_id
        .as_ref()
        .or(letter.deployment_id.as_ref());
    let what = what.map_or("what it is about", String::as_str);
    let message = match letter.status {
        Some(status) => {
            format!("{what} has ended meanwhile as {status}; there is nothing to do again")
        }
        None => format!("{what} is not kept any longer; there is nothing to do again"),
    };
    Error::conflict(message)
}
