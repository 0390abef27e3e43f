//! GET /keys.

use super::KeyDocument;
use crate::{api::Pagination, app::App, door::Who, error::Answer, params::Params, respond};
use axum::{extract::State, response::Response};
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct KeyList {
    keys: Vec<KeyDocument>,
    pagination: Pagination,
}

/// List keys
///
/// Newest first, without their secrets, which nobody has.
#[utoipa::path(get, path = "/api/v1/keys", operation_id = "list_keys", tag = "keys",
    params(("page" = Option<u32>, Query), ("limit" = Option<u32>, Query),
        ("all" = Option<bool>, Query, description = "Those that are revoked or over too; false by default")),
    responses((status = 200, body = KeyList)))]
pub async fn list(State(app): State<App>, who: Who, params: Params) -> Answer<Response> {
    let page = params.page();
    let all = params.flag("all");
    params.check()?;
    who.key.reaches_all()?;
    let (keys, total) = app
        .store
        .keys(
            &who.key.account,
            all,
            app.store.now(),
            (page.offset(), page.limit),
        )
        .await?;
    Ok(respond::ok(&KeyList {
        keys: keys.into_iter().map(KeyDocument::from).collect(),
        pagination: Pagination::new(page, total),
    }))
}
