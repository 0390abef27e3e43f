//! POST /keys/{id}/rotate.

use super::{NewKeyDocument, Wanted, changed, made, named};
use crate::{
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
    http::StatusCode,
    response::Response,
};
use domain::{
    Error, Result,
    key::{GRACE, GRACE_DAYS, Permission},
};
use std::time::Duration;
use utoipa::ToSchema;

const MOST_BYTES: usize = 16 * 1024;

/// How a key is replaced. `{}` is enough.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema; the body is read by its fields")]
pub struct RotateKeyRequest {
    /// For how many days the old key still works: 0 to 30, 30 by default.
    #[schema(required = false, maximum = 30, default = 30)]
    grace_days: u32,
}

/// Rotate a key
///
/// A new key with the same name, permissions, scope and limits; the old one works for some days more. A key is replaced once. Without
/// `key:manage` a key may replace itself alone: once it is due, and if its `auto_rotation` is on; until then its answers say so by
/// `Deprecation`, `Sunset` and a `Link` with `rel="successor-version"`.
#[utoipa::path(post, path = "/api/v1/keys/{key_id}/rotate", operation_id = "rotate_key", tag = "keys",
    params(("key_id" = String, Path)), request_body = RotateKeyRequest,
    responses((status = 201, body = NewKeyDocument), (status = 409, description = "It is revoked, over, or was replaced already (`CONFLICT`)")))]
pub async fn rotate(
    State(app): State<App>,
    who: Who,
    Path(key_id): Path<String>,
    request: Request,
) -> Answer<Response> {
    let bytes = body::read(request, MOST_BYTES).await?;
    let grace = grace(&bytes)?;
    let old = named(&app, &who, &key_id).await?;
    let now = app.store.now();
    if who.key.allows(Permission::KeyManage).is_ok() {
        who.key.may_grant(old.grant())?;
    } else {
        who.key.may_replace_itself(now)?;
    }
    let conflict = |why: &str| Error::conflict(format!("key {} {why}", old.id));
    if let Some(new) = &old.replaced_by {
        return Err(conflict(&format!("was replaced by {new}")).into());
    }
    if old.revoked_at.is_some() || old.expires_at.is_some_and(|end| end <= now) {
        return Err(conflict("is revoked or over; create a new one").into());
    }
    let wanted = Wanted {
        name: old.name.clone(),
        permissions: old.permissions.clone(),
        agents: old.agents.clone(),
        environments: old.environments.clone(),
        limits: old.limits,
        auto_rotation: old.auto_rotation,
    };
    let made = made(&app, &who, wanted);
    let rotated = app
        .store
        .rotate_key(&old.id, now + grace, &made.new)
        .await?;
    if !rotated {
        return Err(conflict("was replaced or revoked just now").into());
    }
    changed(&app, &who.key.account).await;
    Ok(respond::json(
        StatusCode::CREATED,
        &NewKeyDocument::from(made),
    ))
}

fn grace(bytes: &[u8]) -> Result<Duration> {
    let (document, _) = json::read(bytes, &[])?;
    let faults = Faults::default();
    let days = Fields::of(&document, &faults).integer("grace_days", 0..=GRACE_DAYS);
    faults.check()?;
    Ok(days.map_or(GRACE, |days| {
        Duration::from_secs(u64::from(days) * 24 * 3600)
    }))
}
