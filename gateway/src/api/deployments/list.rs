//! GET /agents/{id}/deployments.

use crate::{
    api::{
        Pagination,
        agents::{instances::version_names, living},
    },
    app::App,
    door::Who,
    error::Answer,
    openapi,
    params::{Params, Path},
    respond,
};
use axum::{extract::State, response::Response};
use domain::{
    Timestamp,
    deployment::{Kind, Phase, Status},
};
use serde::Serialize;
use store::deployments::Deployment;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct DeploymentList {
    agent_id: String,
    deployments: Vec<DeploymentLine>,
    pagination: Pagination,
}

#[derive(Debug, Serialize, ToSchema)]
struct DeploymentLine {
    deployment_id: String,
    #[schema(schema_with = openapi::deployment_kind)]
    kind: Kind,
    /// Null for a deletion.
    version: Option<String>,
    #[schema(schema_with = openapi::deployment_status)]
    status: Status,
    progress: u32,
    /// The one that runs, comes next or failed; null when all are done.
    #[schema(schema_with = openapi::maybe_phase)]
    current_phase: Option<Phase>,
    /// Why it failed or was superseded.
    reason: Option<String>,
    created_by: String,
    #[schema(schema_with = openapi::time)]
    created_at: Timestamp,
    #[schema(schema_with = openapi::time)]
    updated_at: Timestamp,
}

/// List an agent's deployments
///
/// Newest first.
#[utoipa::path(get, path = "/api/v1/agents/{agent_id}/deployments", operation_id = "list_deployments", tag = "deployments",
    params(("agent_id" = String, Path), ("page" = Option<u32>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = DeploymentList)))]
pub async fn list(
    State(app): State<App>,
    who: Who,
    Path(agent_id): Path<String>,
    params: Params,
) -> Answer<Response> {
    let agent = living(&app, &who, &agent_id).await?;
    let page = params.page();
    params.check()?;
    let (deployments, total) = app
        .store
        .deployments(&agent.incarnation, page.offset(), page.limit)
        .await?;
    let names = version_names(
        &app,
        &who,
        deployments.iter().filter_map(|one| one.version_id.as_ref()),
    )
    .await?;
    let line = |one: Deployment| DeploymentLine {
        deployment_id: one.id.to_string(),
        kind: one.kind,
        version: one
            .version_id
            .as_ref()
            .and_then(|id| names.get(id).cloned()),
        status: one.state.status,
        progress: one.state.progress(),
        current_phase: one.state.current().map(|phase| phase.name),
        reason: one.state.reason,
        created_by: one.created_by,
        created_at: one.created_at,
        updated_at: one.updated_at,
    };
    Ok(respond::ok(&DeploymentList {
        agent_id: agent.agent_id.to_string(),
        deployments: deployments.into_iter().map(line).collect(),
        pagination: Pagination::new(page, total),
    }))
}
