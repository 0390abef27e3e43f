//! GET /agents/{id}/executions.

use crate::{
    api::{
        Pagination,
        agents::{instances::version_names, known},
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
    execution::{FailureCode, Mode, Priority, Status},
};
use serde::Serialize;
use store::executions::{Execution, Filter};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct ExecutionList {
    agent_id: String,
    executions: Vec<ExecutionLine>,
    pagination: Pagination,
}

#[derive(Debug, Serialize, ToSchema)]
struct ExecutionLine {
    execution_id: String,
    #[schema(schema_with = openapi::execution_status)]
    status: Status,
    version: Option<String>,
    #[schema(schema_with = openapi::execution_mode)]
    mode: Mode,
    #[schema(schema_with = openapi::priority)]
    priority: Priority,
    session_id: Option<String>,
    user_id: Option<String>,
    attempt: u32,
    #[schema(schema_with = openapi::time)]
    accepted_at: Timestamp,
    #[schema(schema_with = openapi::maybe_time)]
    started_at: Option<Timestamp>,
    #[schema(schema_with = openapi::maybe_time)]
    completed_at: Option<Timestamp>,
    duration: Option<f64>,
    queue_time: Option<f64>,
    /// Null where it did not fail.
    #[schema(schema_with = openapi::maybe_failure_code)]
    error_code: Option<FailureCode>,
}

/// List an agent's executions
///
/// Newest first; also of an agent that was deleted since.
#[utoipa::path(get, path = "/api/v1/agents/{agent_id}/executions", operation_id = "list_executions", tag = "executions",
    params(("agent_id" = String, Path), ("status" = Option<String>, Query), ("session_id" = Option<String>, Query),
        ("from" = Option<String>, Query, description = "RFC 3339: accepted at this moment or later"),
        ("to" = Option<String>, Query, description = "RFC 3339: accepted before this moment"),
        ("page" = Option<u32>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = ExecutionList)))]
pub async fn list(
    State(app): State<App>,
    who: Who,
    Path(agent_id): Path<String>,
    params: Params,
) -> Answer<Response> {
    let agent = known(&app, &who, &agent_id).await?;
    let filter = Filter {
        status: params.parsed("status"),
        session_id: params.one("session_id").map(str::to_owned),
        from: params.time("from"),
        to: params.time("to"),
    };
    let page = params.page();
    params.check()?;
    let (rows, total) = app
        .store
        .executions(&who.key.account, &agent, &filter, page.offset(), page.limit)
        .await?;
    let names = version_names(&app, &who, rows.iter().map(|row| &row.version_id)).await?;
    let line = |row: Execution| ExecutionLine {
        execution_id: row.key.id.to_string(),
        status: row.status,
        version: names.get(&row.version_id).cloned(),
        mode: row.mode,
        priority: row.priority,
        session_id: row.caller.session_id,
        user_id: row.caller.user_id,
        attempt: row.attempt,
        accepted_at: row.accepted_at,
        started_at: row.started_at,
        completed_at: row.completed_at,
        duration: row.duration_ms,
        queue_time: row.queue_ms,
        error_code: row.error.map(|failure| failure.code),
    };
    Ok(respond::ok(&ExecutionList {
        agent_id: agent.to_string(),
        executions: rows.into_iter().map(line).collect(),
        pagination: Pagination::new(page, total),
    }))
}
