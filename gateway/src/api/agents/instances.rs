//! GET /agents/{id}/instances.

use super::living;
use crate::{app::App, door::Who, error::Answer, openapi, params::Path, respond};
use axum::{extract::State, response::Response};
use domain::{
    Timestamp, execution::FailureCode, health::Health, id::VersionId,
    instance::State as InstanceState, waterfall::How,
};
use serde::Serialize;
use std::collections::HashMap;
use store::crash_loops::CrashLoop;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct InstanceList {
    agent_id: String,
    instances: Vec<InstanceLine>,
    /// Versions whose every start leads nowhere, by node; the next start waits.
    crash_loops: Vec<CrashLoopLine>,
}

#[derive(Debug, Serialize, ToSchema)]
struct CrashLoopLine {
    version: Option<String>,
    version_id: String,
    node_id: String,
    /// Starts in a row.
    crashes: u32,
    #[schema(schema_with = openapi::time)]
    since: Timestamp,
    /// When the next start is due.
    #[schema(schema_with = openapi::time)]
    retry_at: Timestamp,
    /// How the last start ended.
    #[schema(schema_with = openapi::failure_code)]
    code: FailureCode,
    reason: String,
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
    /// Forked from a template that has imported the agent, or spawned; null where an executor of an older release made it.
    #[schema(schema_with = openapi::maybe_instance_start)]
    start: Option<How>,
    #[schema(schema_with = openapi::time)]
    created_at: Timestamp,
    #[schema(schema_with = openapi::maybe_time)]
    ready_at: Option<Timestamp>,
    /// By its health checks; degraded after a bad one, replaced after three.
    #[schema(schema_with = openapi::health)]
    health: Health,
    complaint: Option<String>,
    /// Its only session, with `isolation: session`.
    session_id: Option<String>,
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
    let loops = app
        .store
        .crash_loops(&agent.account, Some(&agent.agent_id))
        .await?;
    let names = version_names(
        &app,
        &who,
        living
            .iter()
            .map(|instance| &instance.version_id)
            .chain(loops.iter().map(|one| &one.version_id)),
    )
    .await?;
    let line = |instance: store::instances::Instance| InstanceLine {
        instance_id: instance.id.to_string(),
        version: names.get(&instance.version_id).cloned(),
        version_id: instance.version_id.to_string(),
        node_id: instance.node_id.to_string(),
        state: instance.state,
        pid: instance.pid,
        start: instance.start,
        created_at: instance.created_at,
        ready_at: instance.ready_at,
        health: instance.health,
        complaint: instance.complaint,
        session_id: instance.session_id,
    };
    let looping = |one: CrashLoop| CrashLoopLine {
        version: names.get(&one.version_id).cloned(),
        version_id: one.version_id.to_string(),
        node_id: one.node_id.to_string(),
        crashes: one.crashes,
        since: one.since,
        retry_at: one.retry_at,
        code: one.failure.code,
        reason: one.failure.message,
    };
    Ok(respond::ok(&InstanceList {
        agent_id: agent.agent_id.to_string(),
        instances: living.into_iter().map(line).collect(),
        crash_loops: loops.into_iter().map(looping).collect(),
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
