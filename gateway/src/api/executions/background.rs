//! Async executions: the row first, then the message, then the answer.

use super::{execute::Call, repeat, status_url};
use crate::{app::App, error::Answer, openapi, respond};
use axum::response::Response;
use domain::{
    Timestamp,
    execution::{Mode, Status},
};
use serde::Serialize;
use store::executions::Key;
use utoipa::ToSchema;

/// An async execution that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub struct QueuedExecution {
    execution_id: String,
    #[schema(schema_with = openapi::execution_status)]
    status: Status,
    /// When it has ended at the latest, if it begins at once and is not tried again.
    #[schema(schema_with = openapi::time)]
    estimated_completion: Timestamp,
    status_url: String,
    callback_url: Option<String>,
}

pub async fn accept(app: &App, mut call: Call) -> Answer<Response> {
    let key = call.key();
    app.estimates
        .room(&app.store, &key.account, app.config.max_open_executions)
        .await?;
    let digest = call.body_digest.clone().unwrap_or_default();
    let accepted_at = call.way.execute.accepted_at;
    let due = accepted_at + call.options().timeout();
    let callback_url = call.options().callback_url.clone();
    if !app.store.insert_execution(call.row()?).await? {
        call.admitted.put_back();
        return repeat::repeat(app, key, &digest, Mode::Async, None).await;
    }
    call.way.sets_out(app);
    if let Err(error) = app
        .bus
        .enqueue_execution(&call.way.execute, accepted_at)
        .await
    {
        tracing::warn!(execution.id = %key.id, error = ?error, "no executor was told of an async execution; a sweep finds its row");
    }
    Ok(answer(app, &key, Status::Queued, due, callback_url))
}

pub fn answer(
    app: &App,
    key: &Key,
    status: Status,
    estimated_completion: Timestamp,
    callback_url: Option<String>,
) -> Response {
    respond::ok(&QueuedExecution {
        execution_id: key.id.to_string(),
        status,
        estimated_completion,
        status_url: status_url(app, key),
        callback_url,
    })
}
