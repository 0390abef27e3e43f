//! DELETE /keys/{id}.

use super::{KeyDocument, changed, named};
use crate::{app::App, door::Who, error::Answer, params::Path, respond};
use axum::{extract::State, response::Response};
use domain::Error;

/// Revoke a key
///
/// At once on this gateway, within two seconds on every other one. Asked again, it tells when that was. A key cannot revoke itself:
/// somebody must be left who can manage keys.
#[utoipa::path(delete, path = "/api/v1/keys/{key_id}", operation_id = "revoke_key", tag = "keys",
    params(("key_id" = String, Path)),
    responses((status = 200, body = KeyDocument), (status = 409, description = "It is the calling key itself (`CONFLICT`)")))]
pub async fn revoke(
    State(app): State<App>,
    who: Who,
    Path(key_id): Path<String>,
) -> Answer<Response> {
    let mut kept = named(&app, &who, &key_id).await?;
    who.key.may_grant(kept.grant())?;
    if kept.id == who.key.id {
        return Err(
            Error::conflict("a key cannot revoke itself; call with another key that may").into(),
        );
    }
    if kept.revoked_at.is_none() {
        let now = app.store.now();
        app.store
            .revoke_key(&who.key.account, &kept.id, now)
            .await?;
        changed(&app, &who.key.account).await;
        kept.revoked_at = Some(now);
    }
    Ok(respond::ok(&KeyDocument::from(kept)))
}
