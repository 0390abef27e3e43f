//! DELETE /agents/{id}: drains it, then removes it. Its executions stay readable.

use super::{
    deploy::{is_deleting, made, tell},
    living,
};
use crate::{api::keys, app::App, door::Who, error::Answer, openapi, params::Path, respond};
use axum::{extract::State, http::StatusCode, response::Response};
use domain::{
    deployment::{Kind, Status},
    id::DeploymentId,
    rollout::Plan,
};
use serde::Serialize;
use store::{
    agents::{Accepted, Agent},
    deployments::{Deployment, New},
};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct DeleteResponse {
    #[schema(value_type = String)]
    deployment_id: DeploymentId,
    agent_id: String,
    /// Of the deployment that deletes: `deployed` means done.
    #[schema(schema_with = openapi::deployment_status)]
    status: Status,
}

/// Delete an agent
///
/// Requests in flight end, then everything of it is taken down. Asked again while it goes on, it gives the same deployment.
/// The agent's own key is revoked at once.
#[utoipa::path(delete, path = "/api/v1/agents/{agent_id}", operation_id = "delete_agent", tag = "agents",
    params(("agent_id" = String, Path)),
    responses((status = 202, body = DeleteResponse, description = "Being deleted; follow it by its deployment_id")))]
pub async fn delete(
    State(app): State<App>,
    who: Who,
    Path(agent_id): Path<String>,
) -> Answer<Response> {
    let agent = living(&app, &who, &agent_id).await?;
    let (newest, _) = app.store.deployments(&agent.incarnation, 0, 1).await?;
    let deployment = match newest.into_iter().find(is_deleting) {
        Some(running) => running,
        None => begin(&app, &who, &agent).await?,
    };
    revoke(&app, &deployment).await?;
    let body = DeleteResponse {
        deployment_id: deployment.id,
        agent_id: agent.agent_id.to_string(),
        status: deployment.state.status,
    };
    Ok(respond::json(StatusCode::ACCEPTED, &body))
}

async fn begin(app: &App, who: &Who, agent: &Agent) -> Answer<Deployment> {
    let new = New {
        id: DeploymentId::from_uuid(uuid::Uuid::now_v7()),
        account: agent.account.clone(),
        agent_id: agent.agent_id.clone(),
        incarnation: agent.incarnation.clone(),
        version_id: None,
        kind: Kind::Delete,
        plan: Plan::default(),
        created_by: who.key.id.to_string(),
        created_at: app.store.now(),
    };
    let deployment = made(&new);
    let accepted = Accepted {
        agent: None,
        version: None,
        artifact: None,
        deployment: new,
    };
    app.store.accept_deployment(&accepted).await?;
    if let Err(error) = app.bus.deploy(&deployment.account, &deployment.id).await {
        tracing::warn!(deployment.id = %deployment.id, error = ?error, "a deployer was not nudged; it finds the row by itself");
    }
    tell(app, &deployment).await;
    Ok(deployment)
}

async fn revoke(app: &App, deployment: &Deployment) -> Answer<()> {
    let account = &deployment.account;
    app.store
        .revoke_agent_keys(account, &deployment.agent_id, app.store.now())
        .await?;
    keys::changed(app, account).await;
    Ok(())
}
