//! GET /agents/{id}/executions/{eid}.

use super::{document::ExecutionStatus, found, repeat::lines, version_name};
use crate::{app::App, door::Who, error::Answer, params::Path, respond};
use axum::{extract::State, response::Response};

/// Read an execution
///
/// Also of an agent that was deleted since.
#[utoipa::path(get, path = "/api/v1/agents/{agent_id}/executions/{execution_id}", operation_id = "get_execution", tag = "executions",
    params(("agent_id" = String, Path), ("execution_id" = String, Path)), responses((status = 200, body = ExecutionStatus)))]
pub async fn get(
    State(app): State<App>,
    who: Who,
    Path((agent_id, execution_id)): Path<(String, String)>,
) -> Answer<Response> {
    let row = found(&app, &who, &agent_id, &execution_id).await?;
    let version = version_name(&app, &row.key.account, &row.version_id).await?;
    let logs = lines(&app, &row.key).await?;
    Ok(respond::ok(&ExecutionStatus::of(
        &row,
        version.as_deref(),
        logs.iter(),
    )))
}
