//! Notes who changed what, when, from where, and how it ended.

use crate::{app::App, door::Who, error::Code};
use axum::response::Response;
use domain::Timestamp;
use store::audit::Record;

/// What a change was about, where its path does not say; rides in the response's extensions.
#[derive(Debug, Clone)]
pub struct Subject(pub String);

/// What will be noted of an answered request.
pub fn record(who: &Who, action: &str, path: String, at: Timestamp, response: &Response) -> Record {
    let code = response.extensions().get::<Code>().map(|code| code.0);
    let subject = response
        .extensions()
        .get::<Subject>()
        .map(|subject| subject.0.clone());
    Record {
        id: format!("aud_{}", uuid::Uuid::now_v7().as_simple()),
        account: who.key.account.clone(),
        at,
        key_id: Some(who.key.id.to_string()),
        action: action.to_owned(),
        subject: subject.unwrap_or(path),
        remote: who.remote.map(|ip| ip.to_string()),
        request_id: who.request_id.clone(),
        outcome: code.unwrap_or("ok").to_owned(),
    }
}

/// The answer stands already: that it could not be noted is for the log.
pub async fn note(app: &App, record: Record) {
    if let Err(error) = app.store.note_audit(&record).await {
        tracing::error!(error = ?error, action = record.action, subject = record.subject, "a change is missing in the audit");
    }
}
