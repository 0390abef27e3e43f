//! POST /agents/{id}/deployments/{deployment_id}/abort.

use super::order::{Ordered, order};
use crate::{app::App, door::Who, error::Answer, params::Path};
use axum::{extract::State, response::Response};
use domain::rollout::Order;

/// Abort a deployment
///
/// Callers go back to the version before at once, and what was new is taken down. It ends as `rolled_back`, or `failed` where no version answered before.
#[utoipa::path(post, path = "/api/v1/agents/{agent_id}/deployments/{deployment_id}/abort", operation_id = "abort_deployment", tag = "deployments",
    params(("agent_id" = String, Path), ("deployment_id" = String, Path)),
    responses((status = 202, body = Ordered, description = "Ordered; its document shows what comes of it"),
        (status = 409, description = "It is not in a state for that; the message says why (`CONFLICT`)")))]
pub async fn abort(
    State(app): State<App>,
    who: Who,
    Path(path): Path<(String, String)>,
) -> Answer<Response> {
    order(&app, &who, path, Order::Abort).await
}
