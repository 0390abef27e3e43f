//! GET /agents/{id}/executions/{eid}/logs: what was written, and with `follow` what is written until the end.

use super::{document::LogEntry, found, repeat::MOST_LINES, stream::log_event, watch};
use crate::{
    app::App,
    door::Who,
    error::Answer,
    params::{Params, Path},
    respond, sse,
};
use axum::{extract::State, http::HeaderMap, response::Response};
use bytes::Bytes;
use proto::{
    convert::from_log_line,
    v1::{WatchEvent, WatchRequest, watch_event::Event},
};
use serde::Serialize;
use serde_json::json;
use std::{collections::VecDeque, time::Duration};
use store::{
    executions::{Execution, Key},
    logs::Kept,
};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct ExecutionLogs<'a> {
    execution_id: &'a str,
    agent_id: &'a str,
    logs: Vec<LogEntry<'a>>,
    /// Lines over what one execution may write.
    dropped: u64,
}

/// Between two looks at the rows, where nobody tells us of new lines.
const PAUSE: Duration = Duration::from_millis(500);

/// Read an execution's log
///
/// With `follow=true` as server-sent events: `log` for every line, `end` after the last one.
#[utoipa::path(get, path = "/api/v1/agents/{agent_id}/executions/{execution_id}/logs", operation_id = "execution_logs", tag = "executions",
    params(("agent_id" = String, Path), ("execution_id" = String, Path), ("follow" = Option<bool>, Query),
        ("Last-Event-ID" = Option<u64>, Header, description = "The last line that came, to go on after it")),
    responses((status = 200, content((ExecutionLogs = "application/json"), (sse::ServerSentEvent = "text/event-stream")))))]
pub async fn logs(
    State(app): State<App>,
    who: Who,
    Path((agent_id, execution_id)): Path<(String, String)>,
    params: Params,
    headers: HeaderMap,
) -> Answer<Response> {
    let row = found(&app, &who, &agent_id, &execution_id).await?;
    let follow = params.flag("follow");
    params.check()?;
    let after = sse::last_event_id(&headers)?
        .and_then(|after| i64::try_from(after).ok())
        .unwrap_or(-1);
    if follow {
        return Ok(sse::response(Follow::begin(app, row, after).await?));
    }
    let kept = app
        .store
        .execution_logs(&row.key, after, MOST_LINES)
        .await?;
    Ok(respond::ok(&ExecutionLogs {
        execution_id: row.key.id.as_str(),
        agent_id: row.key.agent_id.as_str(),
        logs: kept.iter().map(|kept| LogEntry::from(&kept.line)).collect(),
        dropped: row.usage.logs_dropped,
    }))
}

/// The rows' lines first, then the executor's as they come; where it cannot be asked, the rows again and again.
struct Follow {
    app: App,
    key: Key,
    ready: VecDeque<Bytes>,
    watched: Option<watch::Events>,
    /// The place of the last line that went out.
    last: i64,
    over: bool,
}

impl Follow {
    async fn begin(app: App, row: Execution, after: i64) -> Answer<Self> {
        let mut follow = Self {
            key: row.key.clone(),
            ready: VecDeque::new(),
            watched: None,
            last: after,
            over: false,
            app,
        };
        // Watched before the rows are read, so that no line falls between.
        if !row.status.is_terminal() {
            follow.watch(&row).await?;
        }
        follow.read_rows().await?;
        Ok(follow)
    }

    async fn watch(&mut self, row: &Execution) -> Answer<()> {
        let Some(node) = &row.node_id else {
            return Ok(());
        };
        let request = WatchRequest {
            account: self.key.account.to_string(),
            agent_id: self.key.agent_id.to_string(),
            execution_id: self.key.id.to_string(),
            after: 0,
        };
        if let Some(address) = watch::address_of(&self.app, node).await? {
            self.watched = watch::watch(&self.app, &address, request).await.ok();
        }
        Ok(())
    }

    async fn read_rows(&mut self) -> Answer<bool> {
        let kept = self
            .app
            .store
            .execution_logs(&self.key, self.last, MOST_LINES)
            .await?;
        let any = !kept.is_empty();
        for Kept { seq, line, .. } in kept {
            self.last = self.last.max(seq);
            self.ready.extend(log_event(Some(&seq.to_string()), &line));
        }
        Ok(any)
    }

    fn told(&mut self, told: WatchEvent) {
        match told.event {
            // From the rows it went out already.
            Some(Event::Log(_)) if told.place <= self.last => {}
            Some(Event::Log(line)) => {
                let Ok(line) = from_log_line(line) else {
                    return;
                };
                self.last = told.place;
                self.ready
                    .extend(log_event(Some(&self.last.to_string()), &line));
            }
            Some(Event::Lost(events)) => {
                self.ready
                    .push_back(sse::event("lost", None, &json!({"events": events})));
            }
            Some(Event::Result(_)) => self.finish(),
            Some(Event::Chunk(_) | Event::Progress(_)) | None => {}
        }
    }

    fn finish(&mut self) {
        self.ready.push_back(sse::event("end", None, &json!({})));
        self.over = true;
    }

    /// Nobody tells us: looks at the rows until the execution has ended and its last line is out.
    async fn look(&mut self) -> Answer<()> {
        let ended = self
            .app
            .store
            .execution(&self.key)
            .await?
            .is_none_or(|row| row.status.is_terminal());
        if !self.read_rows().await? {
            if ended {
                self.finish();
            } else {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }
}

impl sse::Source for Follow {
    async fn next(&mut self) -> Option<Bytes> {
        let closing = self.app.closing.clone();
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            let Some(watched) = &mut self.watched else {
                tokio::select! {
                    looked = self.look() => looked.ok()?,
                    () = closing.cancelled() => return None,
                }
                continue;
            };
            let told = tokio::select! {
                told = watched.message() => told,
                () = closing.cancelled() => return None,
            };
            match told {
                Ok(Some(told)) => self.told(told),
                Ok(None) | Err(_) => self.watched = None,
            }
        }
    }
}
