//! GET /agents/{id}/instances.

use super::living;
use crate::{app::App, door::Who, error::Answer, openapi, params::Path, respond};
use axum::{extract::State, response::Response};
use domain::{Timestamp, id::VersionId, instance::State as InstanceState};
use serde::Serialize;
use std::collections::HashMap;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceList {
    agent_id: String,
    instances: Vec<InstanceLine>,
}

#[derive(Debug, Serialize, ToSchema)]
struct InstanceLine {
    instance_id: String,
    version: Option<String>,
    version_id: String,
    node_id: String,
    #[schema(schema_with = openapi::instance_state)]
    state: InstanceState,
    pid: Option<i64>,
    #[schema(schema_with = openapi::time)]
    created_at: Timestamp,
    #[schema(schema_with = openapi::maybe_time)]
    ready_at: Option<Timestamp>,
}

/// List an agent's living instances
///
/// Oldest first.
#[utoipa::path(get, path = "/api/v1/agents/{agent_id}/instances", operation_id = "list_instances", tag = "agents",
    params(("agent_id" = String, Path)), responses((status = 200, body = InstanceList)))]
pub async fn instances(
    State(app): State<App>,
    who: Who,
    Path(agent_id): Path<String>,
) -> Answer<Response> {
    let agent = living(&app, &who, &agent_id).await?;
    let living = app
        .store
        .living_instances(&agent.account, &agent.agent_id)
        .await?;
    let names = version_names(
        &app,
        &who,
        living.iter().map(|instance| &instance.version_id),
    )
    .await?;
    let line = |instance: store::instances::Instance| InstanceLine {
        instance_id: instance.id.to_string(),
        version: names.get(&instance.version_id).cloned(),
        version_id: instance.version_id.to_string(),
        node_id: instance.node_id.to_string(),
        state: instance.state,
        pid: instance.pid,
        created_at: instance.created_at,
        ready_at: instance.ready_at,
    };
    Ok(respond::ok(&InstanceList {
        agent_id: agent.agent_id.to_string(),
        instances: living.into_iter().map(line).collect(),
    }))
}

/// The agent's own words for versions.
pub async fn version_names(
    app: &App,
    who: &Who,
    ids: impl Iterator<Item = &VersionId>,
) -> Answer<HashMap<VersionId, String>> {
    let mut names = HashMap::new();
    for id in ids {
        if names.contains_key(id) {
            continue;
        }
        if let Some(version) = app.store.version(&who.key.account, id).await? {
            names.insert(id.clone(), version.spec.version.to_string());
        }
    }
    Ok(names)
}
