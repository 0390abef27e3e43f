//! GET /alerts/policy.

use super::{AlertPolicyDocument, policy_document};
use crate::{
    app::App,
    door::{Who, reach},
    error::Answer,
    params::Params,
    respond,
};
use axum::{extract::State, response::Response};
use domain::id::AgentId;

/// Read an alert policy
///
/// With `agent_id`: what that agent is judged by, be it its own, the account's or the default.
#[utoipa::path(get, path = "/api/v1/alerts/policy", operation_id = "get_alert_policy", tag = "alerts",
    params(("agent_id" = Option<String>, Query)), responses((status = 200, body = AlertPolicyDocument),
        (status = 404, description = "There is no such agent in reach of this key (`NOT_FOUND`)")))]
pub async fn policy(State(app): State<App>, who: Who, params: Params) -> Answer<Response> {
    let named = params.one("agent_id").map(str::to_owned);
    params.check()?;
    let agent = whose(&app, &who, named).await?;
    let mut kept = match &agent {
        Some(agent) => {
            app.store
                .alert_policy(&who.key.account, Some(agent))
                .await?
        }
        None => None,
    };
    if kept.is_none() {
        kept = app.store.alert_policy(&who.key.account, None).await?;
    }
    let agent = agent.map(|agent| agent.to_string());
    Ok(respond::ok(&policy_document(agent, kept, None)))
}

/// The living agent of that name; `None`: the whole account.
pub async fn whose(app: &App, who: &Who, named: Option<String>) -> Answer<Option<AgentId>> {
    let Some(named) = named else {
        who.key.reaches_all()?;
        return Ok(None);
    };
    let agent = reach(app, who, &named).await?;
    let living = app.store.agent(&who.key.account, &agent).await?;
    if living.is_none() {
        return Err(domain::Error::not_found(format!("agent {agent}")).into());
    }
    Ok(Some(agent))
}
