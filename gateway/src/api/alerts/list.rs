//! GET /alerts.

use super::{AlertDocument, documents};
use crate::{api::Pagination, app::App, door::Who, error::Answer, params::Params, respond};
use axum::{extract::State, response::Response};
use serde::Serialize;
use store::alerts::Filter;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct AlertList {
    alerts: Vec<AlertDocument>,
    pagination: Pagination,
}

/// List alerts
///
/// Newest first, each with the figures that raised it and every webhook that was sent of it. Those that are over are kept as long as
/// executions.
#[utoipa::path(get, path = "/api/v1/alerts", operation_id = "list_alerts", tag = "alerts",
    params(("agent_id" = Option<String>, Query),
        ("status" = Option<String>, Query, description = "firing, escalated, acknowledged or resolved"),
        ("page" = Option<u32>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = AlertList)))]
pub async fn list(State(app): State<App>, who: Who, params: Params) -> Answer<Response> {
    let page = params.page();
    let filter = Filter {
        agent_id: params.parsed("agent_id"),
        status: params.parsed("status"),
        scope: who
            .key
            .agents
            .as_ref()
            .map(|agents| agents.iter().cloned().collect()),
        environments: who.key.environments.clone(),
    };
    params.check()?;
    let (found, total) = app
        .store
        .alerts(&who.key.account, &filter, (page.offset(), page.limit))
        .await?;
    Ok(respond::ok(&AlertList {
        alerts: documents(&app, found).await?,
        pagination: Pagination::new(page, total),
    }))
}
