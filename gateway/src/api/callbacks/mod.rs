//! Callbacks of an agent's executions: what was sent to whom, and what came of it.

pub mod list;
pub mod redeliver;

use crate::openapi;
use domain::{Timestamp, webhook};
use serde::Serialize;
use store::deliveries::{Attempt, Delivery};
use utoipa::ToSchema;

/// The end of one execution, told to the URL that its caller gave.
#[derive(Debug, Serialize, ToSchema)]
pub struct CallbackDocument {
    /// Its `webhook-id`, the same with every attempt.
    callback_id: String,
    execution_id: String,
    /// execution. and how it ended.
    event: String,
    url: String,
    /// disabled: the receiver answered 410 to this or another callback of the agent; it is sent nothing until one is sent again.
    #[schema(schema_with = openapi::webhook_status)]
    status: webhook::Status,
    #[schema(schema_with = openapi::time)]
    created_at: Timestamp,
    /// Null once it is over.
    #[schema(schema_with = openapi::maybe_time)]
    next_attempt_at: Option<Timestamp>,
    attempts: Vec<AttemptDocument>,
}

/// One `POST` of a webhook.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttemptDocument {
    attempt: u32,
    #[schema(schema_with = openapi::time)]
    at: Timestamp,
    duration_ms: u32,
    /// Null where nobody answered.
    status_code: Option<u16>,
    error: Option<String>,
}

impl From<Attempt> for AttemptDocument {
    fn from(one: Attempt) -> Self {
        Self {
            attempt: one.attempt,
            at: one.at,
            duration_ms: one.duration_ms,
            status_code: one.status,
            error: one.error,
        }
    }
}

fn document((of, attempts): (Delivery, Vec<Attempt>)) -> CallbackDocument {
    CallbackDocument {
        callback_id: of.id.to_string(),
        execution_id: of.execution_id,
        event: of.event,
        url: of.url,
        status: of.status,
        created_at: of.created_at,
        next_attempt_at: of.due_at,
        attempts: attempts.into_iter().map(AttemptDocument::from).collect(),
    }
}
