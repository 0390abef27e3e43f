//! POST /dead-letters/{id}/redrive.

use super::{DeadLetter, over, seen};
use crate::{app::App, door::Who, error::Answer, params::Path, respond};
use axum::{extract::State, response::Response};
use domain::{Error, text::quote};

/// Put a dead letter back
///
/// Its message goes back where it came from, once, and counts its deliveries anew; it is no dead letter any longer. Answers with the
/// letter as it was.
#[utoipa::path(post, path = "/api/v1/dead-letters/{dead_letter_id}/redrive", operation_id = "redrive_dead_letter", tag = "system",
    params(("dead_letter_id" = String, Path)),
    responses((status = 200, body = DeadLetter),
        (status = 409, description = "What it is about has ended meanwhile (`CONFLICT`)")))]
pub async fn redrive(
    State(app): State<App>,
    who: Who,
    Path(dead_letter_id): Path<String>,
) -> Answer<Response> {
    who.key.reaches_all()?;
    let missing = || Error::not_found(format!("dead letter {}", quote(&dead_letter_id)));
    let id: u64 = dead_letter_id.parse().map_err(|_| missing())?;
    let dead = app.bus.dead_one(&who.key.account, id).await?;
    let (letter, open) = seen(&app, &who, &dead.ok_or_else(missing)?).await?;
    if !open {
        return Err(over(&letter).into());
    }
    if !app.bus.redrive(id).await.map_err(Error::from)? {
        return Err(missing().into());
    }
    Ok(respond::ok(&letter))
}
