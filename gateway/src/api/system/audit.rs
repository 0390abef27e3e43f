//! GET /audit.

use crate::{app::App, door::Who, error::Answer, openapi, params::Params, respond};
use axum::{extract::State, response::Response};
use domain::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct AuditList {
    records: Vec<AuditLine>,
}

#[derive(Debug, Serialize, ToSchema)]
struct AuditLine {
    id: String,
    #[schema(schema_with = openapi::time)]
    at: Timestamp,
    /// Who.
    key_id: Option<String>,
    /// What.
    action: String,
    subject: String,
    /// From where.
    remote: Option<String>,
    request_id: String,
    /// `ok`, or the error's code.
    outcome: String,
}

/// List the newest changes
///
/// Newest first.
#[utoipa::path(get, path = "/api/v1/audit", operation_id = "list_audit", tag = "system",
    params(("limit" = Option<u32>, Query, description = "50 by default, at most 1000")),
    responses((status = 200, body = AuditList)))]
pub async fn audit(State(app): State<App>, who: Who, params: Params) -> Answer<Response> {
    let limit = params.integer("limit", 50, 1..=1000);
    params.check()?;
    who.key.reaches_all()?;
    let records = app.store.audit(&who.key.account, limit).await?;
    let line = |record: store::audit::Record| AuditLine {
        id: record.id,
        at: record.at,
        key_id: record.key_id,
        action: record.action,
        subject: record.subject,
        remote: record.remote,
        request_id: record.request_id,
        outcome: record.outcome,
    };
    Ok(respond::ok(&AuditList {
        records: records.into_iter().map(line).collect(),
    }))
}
