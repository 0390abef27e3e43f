//! GET /dead-letters.

use super::{DeadLetter, seen};
use crate::{api::Pagination, app::App, door::Who, error::Answer, params::Params, respond};
use axum::{extract::State, response::Response};
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetterList {
    dead_letters: Vec<DeadLetter>,
    pagination: Pagination,
}

/// List what could not be worked off
///
/// Newest first. A message that was delivered too often, because whoever took it died or failed, is kept here for a week; of each
/// kind of work of each version the newest 256. Its execution waits meanwhile, unless its row says otherwise.
#[utoipa::path(get, path = "/api/v1/dead-letters", operation_id = "list_dead_letters", tag = "system",
    params(("page" = Option<u32>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = DeadLetterList)))]
pub async fn list(State(app): State<App>, who: Who, params: Params) -> Answer<Response> {
    let page = params.page();
    params.check()?;
    who.key.reaches_all()?;
    let (skip, most) = (page.offset() as usize, page.limit as usize);
    let (found, total) = app.bus.dead(&who.key.account, skip, most).await?;
    let mut dead_letters = Vec::with_capacity(found.len());
    for dead in &found {
        dead_letters.push(seen(&app, &who, dead).await?.0);
    }
    Ok(respond::ok(&DeadLetterList {
        dead_letters,
        pagination: Pagination::new(page, total as u64),
    }))
}
