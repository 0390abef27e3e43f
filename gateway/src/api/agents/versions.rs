//! GET /agents/{id}/versions.

use super::{
    deployed::{
        DeployedConfiguration, DeployedMonitoring, DeployedPackages, DeployedScaling,
        DeployedSecurity,
    },
    living,
};
use crate::{
    api::Pagination,
    app::App,
    door::Who,
    error::Answer,
    openapi,
    params::{Params, Path},
    respond,
};
use axum::{extract::State, response::Response};
use domain::{Timestamp, agent::Environment, traffic::Traffic};
use serde::Serialize;
use store::versions::Version;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct VersionList {
    agent_id: String,
    versions: Vec<VersionLine>,
    pagination: Pagination,
}

#[derive(Debug, Serialize, ToSchema)]
struct VersionLine {
    version: String,
    version_id: String,
    name: String,
    description: String,
    tags: Vec<String>,
    #[schema(schema_with = openapi::environment)]
    environment: Environment,
    entrypoint: String,
    dependencies: DeployedPackages,
    configuration: DeployedConfiguration,
    auto_scaling: DeployedScaling,
    security: DeployedSecurity,
    monitoring: DeployedMonitoring,
    /// SHA-256 of the code.
    code_digest: String,
    /// The share of the agent's requests that it answers, 0 to 100.
    traffic_percentage: f64,
    #[schema(schema_with = openapi::time)]
    created_at: Timestamp,
}

/// List an agent's versions
///
/// Newest first.
#[utoipa::path(get, path = "/api/v1/agents/{agent_id}/versions", operation_id = "list_versions", tag = "agents",
    params(("agent_id" = String, Path), ("page" = Option<u32>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = VersionList)))]
pub async fn versions(
    State(app): State<App>,
    who: Who,
    Path(agent_id): Path<String>,
    params: Params,
) -> Answer<Response> {
    let agent = living(&app, &who, &agent_id).await?;
    let page = params.page();
    params.check()?;
    let (versions, total) = app
        .store
        .versions(&agent.incarnation, page.offset(), page.limit)
        .await?;
    let traffic = app.store.traffic(&agent.incarnation).await?;
    Ok(respond::ok(&VersionList {
        agent_id: agent.agent_id.to_string(),
        versions: versions
            .into_iter()
            .map(|version| line(version, &traffic))
            .collect(),
        pagination: Pagination::new(page, total),
    }))
}

fn line(version: Version, traffic: &Traffic) -> VersionLine {
    let weight = traffic
        .routes
        .iter()
        .find(|route| route.version_id == version.id)
        .map_or(0, |route| route.weight);
    let spec = version.spec;
    VersionLine {
        version: spec.version.to_string(),
        version_id: version.id.to_string(),
        dependencies: (&spec).into(),
        configuration: (&spec).into(),
        auto_scaling: (&spec).into(),
        security: (&spec).into(),
        monitoring: (&spec).into(),
        name: spec.name,
        description: spec.description,
        tags: spec.tags,
        environment: spec.environment,
        entrypoint: spec.entrypoint.into(),
        code_digest: version.artifact,
        traffic_percentage: f64::from(weight) / 10.0,
        created_at: version.created_at,
    }
}
