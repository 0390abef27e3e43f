//! DELETE /alerts/policy.

use super::{AlertPolicyDocument, policy_document};
use crate::{app::App, door::Who, error::Answer, params::Params, respond};
use axum::{extract::State, response::Response};
use domain::Error;

/// Delete an agent's own alert policy
///
/// From then on the agent is judged by its account's, or the default, which is what is answered. Its signing secret goes with it, and what it
/// still had to send is sent.
#[utoipa::path(delete, path = "/api/v1/alerts/policy", operation_id = "delete_alert_policy", tag = "alerts",
    params(("agent_id" = String, Query)),
    responses((status = 200, body = AlertPolicyDocument),
        (status = 404, description = "There is no such agent in reach of this key, or it has no policy of its own (`NOT_FOUND`)")))]
pub async fn delete_policy(State(app): State<App>, who: Who, params: Params) -> Answer<Response> {
    let named = params.one("agent_id").map(str::to_owned);
    if named.is_none() {
        params.fault(
            "agent_id",
            "is missing; allowed is an agent that has a policy of its own",
        );
    }
    params.check()?;
    let agent = crate::door::reach(&app, &who, &named.unwrap_or_default()).await?;
    let account = &who.key.account;
    if !app.store.delete_alert_policy(account, &agent).await? {
        return Err(Error::not_found(format!("an alert policy of agent {agent}")).into());
    }
    let kept = app.store.alert_policy(account, None).await?;
    Ok(respond::ok(&policy_document(
        Some(agent.to_string()),
        kept,
        None,
    )))
}
