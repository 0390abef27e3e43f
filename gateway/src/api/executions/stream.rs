//! Streamed executions: events as they happen, and at last the result; resumable while the executor remembers.

use super::{
    dispatch::Dispatched,
    document::{ExecutionResult, LogEntry, outcome},
    execute::{Call, Sent, lost, send, unanswered, unexpected, wait_for, with_output},
    repeat::{self, Looks, lines},
    version_name, watch,
};
use crate::{app::App, error::Answer, sse};
use axum::{http::HeaderValue, response::Response};
use bytes::Bytes;
use domain::{
    Error,
    execution::{Mode, Outcome},
    log::Line,
};
use proto::{
    convert::{Reply, from_log_line, from_outcome},
    v1::{WatchEvent, WatchRequest, watch_event::Event},
};
use serde_json::json;
use store::executions::{Execution, Key};

pub async fn begin(app: &App, mut call: Call, after: Option<u64>) -> Answer<Response> {
    let key = call.key();
    let sent = send(app, &mut call).await?;
    let (execute, waited) = (&call.way.execute, call.way.deadline);
    let reply = match sent {
        Sent::Dispatched(Dispatched::Replied(reply)) => reply,
        Sent::Dispatched(Dispatched::Recorded) => {
            let row = app.store.execution(&key).await?;
            let row =
                row.ok_or_else(|| Error::unavailable("the execution has no row; try again"))?;
            return resume(app, row, after).await;
        }
        Sent::Dispatched(Dispatched::Untaken(error) | Dispatched::Lost(error)) => {
            return Err(lost(app, execute, error).await);
        }
        Sent::Taken(key, digest) => {
            return repeat::repeat(app, key, &digest, Mode::Stream, after).await;
        }
    };
    let mut events = Events::new(app, key.clone(), Some(call.version.clone()), waited);
    match reply {
        Ok(Reply::Accepted { node_address }) => events.watch(&node_address, 0).await,
        Ok(Reply::Outcome(outcome)) => events.end(&outcome),
        Ok(Reply::OutcomeByReference(outcome)) => {
            events.end(&*with_output(app, &key, outcome).await?);
        }
        Ok(other) => return Err(unexpected(app, &key, other)),
        Err(error) => return Err(unanswered(app, execute, waited, error).await),
    }
    Ok(response(events))
}

/// Goes on after the last event that the caller has seen; where the executor has forgotten, with the result alone.
pub async fn resume(app: &App, row: Execution, after: Option<u64>) -> Answer<Response> {
    let version = version_name(app, &row.key.account, &row.version_id).await?;
    let mut events = Events::new(app, row.key.clone(), version, wait_for(&row.options));
    let address = match &row.node_id {
        Some(node) => watch::address_of(app, node).await?,
        None => None,
    };
    if let Some(address) = address {
        events.watch(&address, after.unwrap_or(0)).await;
    }
    Ok(response(events))
}

fn response(events: Events) -> Response {
    let id = HeaderValue::from_str(events.key.id.as_str());
    let mut response = sse::response(events);
    if let Ok(id) = id {
        response.headers_mut().insert("x-execution-id", id);
    }
    response
}

struct Events {
    app: App,
    key: Key,
    version: Option<String>,
    /// `None`: only the row is left to tell the result.
    watched: Option<watch::Events>,
    looks: Looks,
    /// The last event, ready to go.
    result: Option<Bytes>,
    over: bool,
}

impl Events {
    fn new(app: &App, key: Key, version: Option<String>, limit: std::time::Duration) -> Self {
        Self {
            app: app.clone(),
            key,
            version,
            watched: None,
            looks: Looks::new(limit),
            result: None,
            over: false,
        }
    }

    async fn watch(&mut self, address: &str, after: u64) {
        let request = WatchRequest {
            account: self.key.account.to_string(),
            agent_id: self.key.agent_id.to_string(),
            execution_id: self.key.id.to_string(),
            after,
        };
        match watch::watch(&self.app, address, request).await {
            Ok(events) => self.watched = Some(events),
            Err(error) => {
                tracing::debug!(execution.id = %self.key.id, error = ?error, "an execution cannot be watched: its row tells the result");
            }
        }
    }

    fn end(&mut self, outcome: &Outcome) {
        self.result = Some(self.result_event(None, outcome));
    }

    fn result_event(&self, id: Option<&str>, outcome: &Outcome) -> Bytes {
        sse::event(
            "result",
            id,
            &ExecutionResult::of(self.key.id.as_str(), self.version.as_deref(), outcome),
        )
    }

    /// `None`: nothing for the caller, or the row must tell the result.
    fn told(&mut self, told: WatchEvent) -> Option<Bytes> {
        let id = told.seq.to_string();
        match told.event? {
            Event::Chunk(data) => Some(sse::frame(
                "chunk",
                Some(&id),
                std::str::from_utf8(&data).unwrap_or("null"),
            )),
            Event::Log(line) => log_event(Some(&id), &from_log_line(line).ok()?),
            Event::Progress(percent) => Some(sse::event(
                "progress",
                Some(&id),
                &json!({"progress": percent}),
            )),
            Event::Lost(events) => Some(sse::event("lost", None, &json!({"events": events}))),
            Event::Result(message) => {
                self.watched = None;
                let (outcome, false) = from_outcome(message).ok()? else {
                    return None;
                };
                self.over = true;
                Some(self.result_event(Some(&id), &outcome))
            }
        }
    }

    async fn told_by_row(&mut self) -> Answer<Bytes> {
        let row = self.looks.until_ended(&self.app, &self.key).await?;
        let logs = lines(&self.app, &self.key).await?;
        Ok(self.result_event(None, &outcome(row, logs)))
    }
}

pub fn log_event(id: Option<&str>, line: &Line) -> Option<Bytes> {
    Some(sse::event("log", id, &LogEntry::from(line)))
}

impl sse::Source for Events {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.over {
                return None;
            }
            if let Some(result) = self.result.take() {
                self.over = true;
                return Some(result);
            }
            let Some(watched) = &mut self.watched else {
                break;
            };
            match watched.message().await {
                Ok(Some(told)) => {
                    if let Some(event) = self.told(told) {
                        return Some(event);
                    }
                }
                Ok(None) | Err(_) => self.watched = None,
            }
        }
        let event = match self.told_by_row().await {
            Ok(event) => event,
            Err(refusal) => sse::event(
                "error",
                None,
                &json!({"code": crate::error::table(refusal.kind()).1}),
            ),
        };
        self.over = true;
        Some(event)
    }
}
