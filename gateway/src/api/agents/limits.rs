//! GET /agents/{id}/limits.

use super::living;
use crate::{
    api::limits::LimitsDocument, app::App, door::Who, error::Answer, params::Path, respond,
};
use axum::{extract::State, response::Response};

/// Read an agent's limits
///
/// How often it may be executed, by all keys together.
#[utoipa::path(get, path = "/api/v1/agents/{agent_id}/limits", operation_id = "get_agent_limits", tag = "agents",
    params(("agent_id" = String, Path)), responses((status = 200, body = LimitsDocument)))]
pub async fn limits(
    State(app): State<App>,
    who: Who,
    Path(agent_id): Path<String>,
) -> Answer<Response> {
    let agent = living(&app, &who, &agent_id).await?;
    let limits = app.store.agent_limits(&agent.incarnation).await?;
    Ok(respond::ok(&LimitsDocument::from(limits)))
}
