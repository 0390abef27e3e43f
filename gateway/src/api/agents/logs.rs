//! GET /agents/{id}/logs: the newest lines of an agent, and with `follow` what it writes from now on.

use super::known;
use crate::{
    api::executions::{document::LogEntry, watch},
    app::App,
    door::Who,
    error::Answer,
    params::{Params, Path},
    respond, sse,
};
use axum::{extract::State, http::HeaderMap, response::Response};
use bytes::Bytes;
use domain::{Timestamp, id::ExecutionId, log::Line};
use futures::{StreamExt, stream::SelectAll};
use proto::{
    convert::from_log_line,
    v1::{WatchRequest, watch_event::Event},
};
use serde::Serialize;
use serde_json::json;
use std::collections::{HashMap, VecDeque};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct AgentLogs<'a> {
    agent_id: &'a str,
    logs: Vec<AgentLogEntry<'a>>,
}

#[derive(Debug, Serialize, ToSchema)]
struct AgentLogEntry<'a> {
    #[serde(flatten)]
    line: LogEntry<'a>,
    /// Null for what an instance says outside of any.
    execution_id: Option<&'a str>,
}

/// Read an agent's log
///
/// The newest lines, oldest first. With `follow=true` as server-sent events: `log` for every line, `lost` with a count
/// where the reader was too slow. A reader that comes back with `Last-Event-ID` gets what was logged since: at most `limit`
/// lines, with `lost` for those before, and lines of that very millisecond once more.
#[utoipa::path(get, path = "/api/v1/agents/{agent_id}/logs", operation_id = "agent_logs", tag = "agents",
    params(("agent_id" = String, Path),
        ("Last-Event-ID" = Option<u64>, Header, description = "With `follow`: the last line that came, to go on after it"), ("follow" = Option<bool>, Query),
        ("since" = Option<String>, Query, description = "RFC 3339"), ("limit" = Option<u32>, Query, description = "200 by default, at most 1000")),
    responses((status = 200, content((AgentLogs = "application/json"), (sse::ServerSentEvent = "text/event-stream")))))]
pub async fn logs(
    State(app): State<App>,
    who: Who,
    Path(agent_id): Path<String>,
    params: Params,
    headers: HeaderMap,
) -> Answer<Response> {
    let agent = known(&app, &who, &agent_id).await?;
    let account = &who.key.account;
    let follow = params.flag("follow");
    let told = params.time("since").unwrap_or(Timestamp(0));
    let limit = params.integer("limit", 200, 1..=1000);
    params.check()?;
    let after = sse::last_event_id(&headers)?
        .filter(|_| follow)
        .map(|id| Timestamp(i64::try_from(id).unwrap_or(i64::MAX)));
    let since = after.map_or(told, |after| after.max(told));
    let mut watched = SelectAll::new();
    if follow {
        let request = WatchRequest {
            account: account.to_string(),
            agent_id: agent.to_string(),
            execution_id: String::new(),
            after: 0,
        };
        for address in watch::addresses(&app).await? {
            watched.extend(watch::watch(&app, &address, request.clone()).await.ok());
        }
    }
    let kept = app.store.agent_logs(account, &agent, since, limit).await?;
    if !follow {
        let entry = |kept: &'_ store::logs::Kept| -> serde_json::Value {
            let id = kept.execution_id.as_ref().map(ExecutionId::as_str);
            serde_json::to_value(AgentLogEntry {
                line: LogEntry::from(&kept.line),
                execution_id: id,
            })
            .unwrap_or_default()
        };
        let logs: Vec<serde_json::Value> = kept.iter().map(entry).collect();
        return Ok(respond::ok(
            &json!({"agent_id": agent.as_str(), "logs": logs}),
        ));
    }
    let mut ready = VecDeque::new();
    if after.is_some() {
        let all = app.store.count_agent_logs(account, &agent, since).await?;
        let lost = all.saturating_sub(kept.len() as u64);
        if lost > 0 {
            ready.push_back(sse::event("lost", None, &json!({"events": lost})));
        }
    }
    let mut seen = Seen::default();
    ready.extend(kept.iter().map(|kept| {
        seen.add(&kept.line);
        event(
            &kept.line,
            kept.execution_id.as_ref().map(ExecutionId::as_str),
        )
    }));
    Ok(sse::response(Follow {
        ready,
        seen,
        watched,
        app,
    }))
}

fn event(line: &Line, execution_id: Option<&str>) -> Bytes {
    let id = line.timestamp.0.max(0).to_string();
    let line = LogEntry::from(line);
    sse::event("log", Some(&id), &AgentLogEntry { line, execution_id })
}

/// Lines that went out already, each as often as it did.
#[derive(Debug, Default)]
pub struct Seen(HashMap<(Timestamp, String), u32>);

impl Seen {
    pub fn add(&mut self, line: &Line) {
        *self
            .0
            .entry((line.timestamp, line.message.clone()))
            .or_default() += 1;
    }

    /// Whether it went out; asked again, it is another line.
    pub fn take(&mut self, line: &Line) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let key = (line.timestamp, line.message.clone());
        match self.0.get_mut(&key) {
            Some(1) => self.0.remove(&key).is_some(),
            Some(times) => {
                *times -= 1;
                true
            }
            None => false,
        }
    }
}

/// The rows' lines, then every executor's as they come.
struct Follow {
    app: App,
    ready: VecDeque<Bytes>,
    seen: Seen,
    watched: SelectAll<watch::Events>,
}

impl sse::Source for Follow {
    async fn next(&mut self) -> Option<Bytes> {
        let closing = self.app.closing.clone();
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let told = tokio::select! {
                told = self.watched.next() => told?,
                () = closing.cancelled() => return None,
            };
            // An executor that is gone tells no more; the others go on.
            let Ok(told) = told else { continue };
            match told.event {
                Some(Event::Log(line)) => {
                    let Ok(line) = from_log_line(line) else {
                        continue;
                    };
                    if !self.seen.take(&line) {
                        let id = Some(told.execution_id.as_str()).filter(|id| !id.is_empty());
                        return Some(event(&line, id));
                    }
                }
                Some(Event::Lost(events)) => {
                    return Some(sse::event("lost", None, &json!({"events": events})));
                }
                Some(Event::Chunk(_) | Event::Progress(_) | Event::Result(_)) | None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::log::Level;

    #[test]
    fn lines_are_seen_as_often_as_they_went_out() {
        let line = |message: &str| Line {
            timestamp: Timestamp(1),
            level: Level::Info,
            message: message.into(),
            context: None,
        };
        let mut seen = Seen::default();
        seen.add(&line("a"));
        seen.add(&line("a"));
        assert!(seen.take(&line("a")) && seen.take(&line("a")) && !seen.take(&line("a")));
        assert!(!seen.take(&line("b")));
    }
}
