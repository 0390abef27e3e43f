//! PATCH /keys/{id}.

use super::{KeyDocument, changed, named};
use crate::{
    api::limits::{self, LimitsRequest},
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
use domain::{
    Error, Result, Timestamp,
    key::{GRACE, Grant, ROTATED_AFTER},
    limit::Limits,
    text,
};
use store::keys::{Change, Kept, Rotation};
use utoipa::ToSchema;

const MOST_BYTES: usize = 16 * 1024;

/// What shall be otherwise; what is left out stays as it is.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema; the body is read by its fields")]
pub struct ChangeKeyRequest {
    /// 1 to 100 characters, for the reader of the list.
    #[schema(required = false, min_length = 1, max_length = 100)]
    name: String,
    /// All limits anew; `{}` lifts them.
    #[schema(required = false)]
    limits: LimitsRequest,
    /// True: due 90 days after it was made, or at once if that has passed, and over 30 days later. False: it lasts until it is revoked.
    #[schema(required = false)]
    auto_rotation: bool,
}

/// Change a key
///
/// Its name, limits and rotation; at once on this gateway, within two seconds on every other one. What it may do and reach does not change:
/// make another one for that. A key does not change itself.
#[utoipa::path(patch, path = "/api/v1/keys/{key_id}", operation_id = "change_key", tag = "keys",
    params(("key_id" = String, Path)), request_body = ChangeKeyRequest,
    responses((status = 200, body = KeyDocument),
        (status = 409, description = "It is the calling key itself, is revoked or over, or was replaced (`CONFLICT`)")))]
pub async fn change(
    State(app): State<App>,
    who: Who,
    Path(key_id): Path<String>,
    request: Request,
) -> Answer<Response> {
    let bytes = body::read(request, MOST_BYTES).await?;
    let (mut wanted, auto_rotation) = read(&bytes)?;
    let now = app.store.now();
    let kept = named(&app, &who, &key_id).await?;
    who.key.may_grant(Grant {
        limits: wanted.limits.as_ref().unwrap_or(&kept.limits),
        ..kept.grant()
    })?;
    if kept.id == who.key.id {
        let message = "a key does not change itself; call with another key that may";
        return Err(Error::conflict(message).into());
    }
    let over = kept.revoked_at.is_some() || kept.expires_at.is_some_and(|end| end <= now);
    wanted.rotation = auto_rotation
        .filter(|auto| *auto != kept.auto_rotation)
        .map(|auto| rotation(auto, &kept, now));
    if over
        || !app
            .store
            .change_key(&who.key.account, &kept.id, &wanted)
            .await?
    {
        let message = format!(
            "key {} is revoked, over or replaced; change its successor",
            kept.id
        );
        return Err(Error::conflict(message).into());
    }
    changed(&app, &who.key.account).await;
    let kept = named(&app, &who, &key_id).await?;
    Ok(respond::ok(&KeyDocument::from(kept)))
}

fn rotation(auto: bool, kept: &Kept, now: Timestamp) -> Rotation {
    let rotate_at = auto.then(|| now.max(kept.created_at + ROTATED_AFTER));
    Rotation {
        auto,
        rotate_at,
        expires_at: rotate_at.map(|due| due + GRACE),
    }
}

fn read(bytes: &[u8]) -> Result<(Change, Option<bool>)> {
    let (document, _) = json::read(bytes, &[])?;
    let faults = Faults::default();
    let fields = Fields::of(&document, &faults);
    let name = fields.text_that("name", |name| text::line(name, 100));
    let limits: Option<Limits> = fields
        .value("limits")
        .map(|_| limits::read(&fields.object("limits")));
    let auto_rotation = fields.flag("auto_rotation");
    drop(fields);
    faults.check()?;
    let change = Change {
        name: name.map(str::to_owned),
        limits,
        rotation: None,
    };
    Ok((change, auto_rotation))
}
