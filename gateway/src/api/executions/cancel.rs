//! POST /agents/{id}/executions/{eid}/cancel: answers once the work has really stopped.

use super::found;
use crate::{app::App, door::Who, error::Answer, openapi, params::Path, respond};
use axum::{extract::State, response::Response};
use domain::{
    Error,
    execution::{Failure, FailureCode, FailurePhase, Mode, Status},
};
use proto::convert::Reply;
use serde::Serialize;
use std::time::Duration;
use store::executions::{Execution, Key};
use utoipa::ToSchema;

/// Until whoever holds it has stopped it.
const STOPPING: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize, ToSchema)]
pub struct CancelResponse {
    execution_id: String,
    agent_id: String,
    /// `cancelled`, or how it had ended before.
    #[schema(schema_with = openapi::execution_status)]
    status: Status,
    /// It was over before this call.
    already: bool,
}

/// Cancel an execution
///
/// Answers once its work has really stopped. Asked again, or too late, it tells how the execution ended.
#[utoipa::path(post, path = "/api/v1/agents/{agent_id}/executions/{execution_id}/cancel", operation_id = "cancel_execution", tag = "executions",
    params(("agent_id" = String, Path), ("execution_id" = String, Path)), responses((status = 200, body = CancelResponse)))]
pub async fn cancel(
    State(app): State<App>,
    who: Who,
    Path((agent_id, execution_id)): Path<(String, String)>,
) -> Answer<Response> {
    let row = found(&app, &who, &agent_id, &execution_id).await?;
    let already = row.status.is_terminal();
    let status = if already {
        row.status
    } else {
        stop(&app, &row).await?
    };
    Ok(respond::ok(&CancelResponse {
        execution_id: row.key.id.to_string(),
        agent_id: row.key.agent_id.to_string(),
        status,
        already: already || status != Status::Cancelled,
    }))
}

/// Until its work has really stopped; how it ended.
pub async fn stop(app: &App, row: &Execution) -> Answer<Status> {
    let key = &row.key;
    // A waiting async execution is begun by its row, so the row alone keeps it from beginning. A sync one may run unseen.
    let waits = row.mode == Mode::Async && row.status == Status::Queued;
    if waits && take_back(app, key).await? {
        return Ok(Status::Cancelled);
    }
    let asked = app
        .bus
        .cancel_execution(
            &key.account,
            &key.agent_id,
            &row.version_id,
            &key.id,
            STOPPING,
        )
        .await;
    let silence = match asked {
        Ok(Reply::Cancelled(status)) => return Ok(status),
        Ok(Reply::Refused(error)) | Err(error) => error,
        Ok(_) => Error::internal("the executor's answer to a cancellation does not fit"),
    };
    if take_back(app, key).await? {
        return Ok(Status::Cancelled);
    }
    match app.store.execution(key).await? {
        Some(now) if now.status.is_terminal() => Ok(now.status),
        _ => Err(Error::unavailable(
            "the executor that runs this execution does not answer; try again",
        )
        .because(silence)
        .into()),
    }
}

async fn take_back(app: &App, key: &Key) -> Answer<bool> {
    let failure = Failure::new(
        FailureCode::Cancelled,
        FailurePhase::Spawn,
        "cancelled before it began",
    );
    Ok(app
        .store
        .cancel_queued_execution(key, &failure, app.store.now())
        .await?)
}
