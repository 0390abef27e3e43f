//! POST /agents/{id}/webhook-secret/rotate.

use super::living;
use crate::{
    app::App,
    body,
    door::Who,
    error::Answer,
    fields::{Faults, Fields},
    json, key, openapi,
    params::Path,
    respond,
};
use axum::{
    extract::{Request, State},
    response::Response,
};
use domain::{Error, Result, Timestamp};
use serde::Serialize;
use std::time::Duration;
use store::Place;
use utoipa::ToSchema;

const MOST_BYTES: usize = 16 * 1024;
const GRACE_HOURS: u32 = 24;
/// A week.
const MOST_HOURS: u32 = 168;

/// How the secret is replaced. `{}` is enough.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "a schema; the body is read by its fields")]
pub struct RotateWebhookSecretRequest {
    /// For how many hours the old secret signs beside the new one. 0: not at all, where it has leaked.
    #[schema(required = false, minimum = 0, maximum = 168, default = 24)]
    grace_hours: u32,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct NewWebhookSecret {
    agent_id: String,
    /// Shown this once.
    webhook_secret: String,
    /// Until then callbacks are signed with the old secret as well.
    #[schema(schema_with = openapi::time)]
    old_secret_until: Timestamp,
}

/// Rotate an agent's webhook secret
///
/// Callbacks that are sent from now on, also those that are tried again, are signed with the new secret and, for a while, with the one before:
/// `webhook-signature` then holds two. Of one that was itself replaced in its grace nothing is left.
#[utoipa::path(post, path = "/api/v1/agents/{agent_id}/webhook-secret/rotate", operation_id = "rotate_webhook_secret", tag = "agents",
    params(("agent_id" = String, Path)), request_body = RotateWebhookSecretRequest,
    responses((status = 200, body = NewWebhookSecret)))]
pub async fn rotate_webhook_secret(
    State(app): State<App>,
    who: Who,
    Path(agent_id): Path<String>,
    request: Request,
) -> Answer<Response> {
    let bytes = body::read(request, MOST_BYTES).await?;
    let grace = grace(&bytes)?;
    let agent = living(&app, &who, &agent_id).await?;
    let (secret, until) = (key::webhook_secret(), app.store.now() + grace);
    let place = Place::webhook_secret(&who.key.account, &agent.incarnation);
    let sealed = app.store.seal(&place, secret.as_bytes())?;
    let whose = (&who.key.account, agent.incarnation.as_str());
    if !app
        .store
        .rotate_webhook_secret(whose, &sealed, until)
        .await?
    {
        return Err(Error::not_found(format!("agent {}", agent.agent_id)).into());
    }
    Ok(respond::ok(&NewWebhookSecret {
        agent_id: agent.agent_id.to_string(),
        webhook_secret: secret,
        old_secret_until: until,
    }))
}

fn grace(bytes: &[u8]) -> Result<Duration> {
    let (document, _) = json::read(bytes, &[])?;
    let faults = Faults::default();
    let hours = Fields::of(&document, &faults).integer("grace_hours", 0..=MOST_HOURS);
    faults.check()?;
    let hours = hours.unwrap_or(GRACE_HOURS);
    Ok(Duration::from_secs(u64::from(hours) * 3600))
}
