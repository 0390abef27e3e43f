//! POST /agents/{id}/callbacks/{cid}/redeliver.

use super::{CallbackDocument, document};
use crate::{
    api::agents::known, app::App, callbacks::due, door::Who, error::Answer, params::Path, respond,
};
use axum::{extract::State, response::Response};
use domain::{
    Error,
    id::{AgentId, DeliveryId},
    text::quote,
};
use store::deliveries::{Attempt, Delivery};

/// Of one callback, however often it is sent again.
const MOST_ATTEMPTS: u32 = 100;

/// Send a callback again
///
/// At once, whatever came of it before, with the same body and `webhook-id`, signed with the agent's secret of now; and then by the whole
/// schedule anew. A receiver that was gone is sent callbacks again.
#[utoipa::path(post, path = "/api/v1/agents/{agent_id}/callbacks/{callback_id}/redeliver", operation_id = "redeliver_callback", tag = "executions",
    params(("agent_id" = String, Path), ("callback_id" = String, Path)),
    responses((status = 200, body = CallbackDocument), (status = 409, description = "It was sent a hundred times (`CONFLICT`)")))]
pub async fn redeliver(
    State(app): State<App>,
    who: Who,
    Path((agent_id, callback_id)): Path<(String, String)>,
) -> Answer<Response> {
    let agent = known(&app, &who, &agent_id).await?;
    let (one, _) = found(&app, &who, &agent, &callback_id).await?;
    let now = app.store.now();
    if !app.store.redeliver(&one, MOST_ATTEMPTS, now).await? {
        let message = format!(
            "callback {} was sent {} times; allowed are {MOST_ATTEMPTS}",
            one.id, one.attempts
        );
        return Err(Error::conflict(message).into());
    }
    due(&app, &who.key.account).await;
    let told = found(&app, &who, &agent, &callback_id).await?;
    Ok(respond::ok(&document(told)))
}

async fn found(
    app: &App,
    who: &Who,
    agent: &AgentId,
    id: &str,
) -> Answer<(Delivery, Vec<Attempt>)> {
    let unknown = || Error::not_found(format!("callback {} of agent {agent}", quote(id)));
    let parsed: DeliveryId = id.parse().map_err(|_| unknown())?;
    let found = app.store.callback(&who.key.account, agent, &parsed).await?;
    Ok(found.ok_or_else(unknown)?)
}
