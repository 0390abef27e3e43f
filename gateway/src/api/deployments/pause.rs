//! POST /agents/{id}/deployments/{deployment_id}/pause.

use super::order::{Ordered, order};
use crate::{app::App, door::Who, error::Answer, params::Path};
use axum::{extract::State, response::Response};
use domain::rollout::Order;

/// Pause a deployment
///
/// Callers stay where they are, and its time stands still, until it is resumed, promoted or aborted. Rollback triggers still act.
#[utoipa::path(post, path = "/api/v1/agents/{agent_id}/deployments/{deployment_id}/pause", operation_id = "pause_deployment", tag = "deployments",
    params(("agent_id" = String, Path), ("deployment_id" = String, Path)),
    responses((status = 202, body = Ordered, description = "Ordered; its document shows what comes of it"),
        (status = 409, description = "It is not in a state for that; the message says why (`CONFLICT`)")))]
pub async fn pause(
    State(app): State<App>,
    who: Who,
    Path(path): Path<(String, String)>,
) -> Answer<Response> {
    order(&app, &who, path, Order::Pause).await
}
