//! POST /alerts/{id}/acknowledge.

use super::{AlertDocument, documents};
use crate::{
    app::App,
    body,
    door::{self, Who},
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
    Error, Kind, Result,
    id::AlertId,
    text::{self, quote},
};
use store::alerts::Kept;
use utoipa::ToSchema;

const MOST_BYTES: usize = 16 * 1024;

/// Who takes it, and what for. `{}` is enough.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "a schema; the body is read by its fields")]
pub struct AcknowledgeRequest {
    /// For the readers of the list; 1000 characters at most.
    #[schema(required = false, max_length = 1000)]
    note: String,
}

/// Acknowledge an alert
///
/// Nobody else is told from then on. Asked again, it tells who did and when. It is over once its figures are good again; should it
/// come back after that, it is to be acknowledged anew.
#[utoipa::path(post, path = "/api/v1/alerts/{alert_id}/acknowledge", operation_id = "acknowledge_alert", tag = "alerts",
    params(("alert_id" = String, Path)), request_body = AcknowledgeRequest,
    responses((status = 200, body = AlertDocument), (status = 409, description = "It is over (`CONFLICT`)")))]
pub async fn acknowledge(
    State(app): State<App>,
    who: Who,
    Path(alert_id): Path<String>,
    request: Request,
) -> Answer<Response> {
    let bytes = body::read(request, MOST_BYTES).await?;
    let note = note(&bytes)?;
    let before = named(&app, &who, &alert_id).await?;
    let by = (who.key.id.as_str(), note.as_deref());
    let account = &who.key.account;
    app.store
        .acknowledge_alert(account, &before.id, by, app.store.now())
        .await?;
    let after = named(&app, &who, &alert_id).await?;
    if after.alert.acknowledged_at.is_none() {
        return Err(Error::conflict(format!(
            "alert {} is over; there is nothing to take",
            after.id
        ))
        .into());
    }
    let document = documents(&app, vec![after]).await?.pop();
    let document = document.ok_or_else(|| Error::internal("an alert is lost"))?;
    Ok(respond::ok(&document))
}

fn note(bytes: &[u8]) -> Result<Option<String>> {
    let (document, _) = json::read(bytes, &[])?;
    let faults = Faults::default();
    let fields = Fields::of(&document, &faults);
    let note = fields.text_that("note", |note| text::prose(note, 1000, true));
    drop(fields);
    faults.check()?;
    Ok(note.map(str::to_owned))
}

/// The alert that a path names, as far as the key reaches.
async fn named(app: &App, who: &Who, id: &str) -> Answer<Kept> {
    let unknown = || Error::not_found(format!("alert {}", quote(id)));
    let parsed: AlertId = id.parse().map_err(|_| unknown())?;
    let kept = app.store.alert(&who.key.account, &parsed).await?;
    let kept = kept.ok_or_else(unknown)?;
    match door::reaches(app, who, &kept.agent_id).await {
        Ok(()) => Ok(kept),
        Err(error) if error.kind == Kind::NotFound => Err(unknown().into()),
        Err(error) => Err(error.into()),
    }
}
