//! PUT /agents/{id}/limits.

use super::{deploy, living};
use crate::{
    api::limits::{self, LimitsDocument, LimitsRequest},
    app::App,
    body,
    door::Who,
    error::Answer,
    fields::{Faults, Fields},
    json,
    params::Path,
    respond,
};
use axum::{
    extract::{Request, State},
    response::Response,
};
use domain::{Error, Kind, Result, limit::Limits};
use store::limits::Whose;

const MOST_BYTES: usize = 16 * 1024;

/// Limit an agent
///
/// How often it may be executed, by all keys together, whatever version answers: at once on this gateway, within seconds on every other
/// one. `{}` lifts all limits. What is over them is refused with 429 `RATE_LIMITED`.
#[utoipa::path(put, path = "/api/v1/agents/{agent_id}/limits", operation_id = "replace_agent_limits", tag = "agents",
    params(("agent_id" = String, Path)), request_body = LimitsRequest, responses((status = 200, body = LimitsDocument)))]
pub async fn replace_limits(
    State(app): State<App>,
    who: Who,
    Path(agent_id): Path<String>,
    request: Request,
) -> Answer<Response> {
    let agent = living(&app, &who, &agent_id).await?;
    let limits = read(&body::read(request, MOST_BYTES).await?)?;
    if !who.key.limits.is_empty() {
        let message = "this key has limits of its own, and sets none";
        return Err(Error::new(Kind::Forbidden, message).into());
    }
    let whose = Whose {
        account: &agent.account,
        agent_id: &agent.agent_id,
        incarnation: &agent.incarnation,
    };
    let by = (&who.key.id, app.store.now());
    app.store.set_agent_limits(whose, &limits, by).await?;
    deploy::tell_of(&app, &agent.account, &agent.agent_id).await;
    Ok(respond::ok(&LimitsDocument::from(limits)))
}

fn read(bytes: &[u8]) -> Result<Limits> {
    let (document, _) = json::read(bytes, &[])?;
    let faults = Faults::default();
    let limits = limits::read(&Fields::of(&document, &faults));
    faults.check()?;
    Ok(limits)
}
