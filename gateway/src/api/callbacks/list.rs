//! GET /agents/{id}/callbacks.

use super::{CallbackDocument, document};
use crate::{
    api::{Pagination, agents::known},
    app::App,
    door::Who,
    error::Answer,
    params::{Params, Path},
    respond,
};
use axum::{extract::State, response::Response};
use serde::Serialize;
use store::deliveries::Filter;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct CallbackList {
    agent_id: String,
    callbacks: Vec<CallbackDocument>,
    pagination: Pagination,
}

/// List an agent's callbacks
///
/// Newest first, each with every attempt. Sent again for about three days until it is taken; kept as long as executions.
#[utoipa::path(get, path = "/api/v1/agents/{agent_id}/callbacks", operation_id = "list_callbacks", tag = "executions",
    params(("agent_id" = String, Path),
        ("status" = Option<String>, Query, description = "pending, delivered, failed or disabled"),
        ("execution_id" = Option<String>, Query),
        ("page" = Option<u32>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = CallbackList)))]
pub async fn list(
    State(app): State<App>,
    who: Who,
    Path(agent_id): Path<String>,
    params: Params,
) -> Answer<Response> {
    let agent = known(&app, &who, &agent_id).await?;
    let filter = Filter {
        status: params.parsed("status"),
        execution_id: params.one("execution_id").map(str::to_owned),
    };
    let page = params.page();
    params.check()?;
    let (found, total) = app
        .store
        .callbacks(
            &who.key.account,
            &agent,
            &filter,
            (page.offset(), page.limit),
        )
        .await?;
    Ok(respond::ok(&CallbackList {
        agent_id: agent.to_string(),
        callbacks: found.into_iter().map(document).collect(),
        pagination: Pagination::new(page, total),
    }))
}
