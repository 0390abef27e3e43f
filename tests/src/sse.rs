//! Server-sent events as a test reads them: one after the other, with a deadline.

use crate::Value;
use reqwest::Response;
use std::time::Duration;

const NEXT_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub id: Option<String>,
    pub name: String,
    pub data: Value,
}

#[derive(Debug)]
pub struct Events {
    response: Response,
    buffer: String,
}

impl Events {
    pub(crate) async fn new(response: Response) -> Self {
        let status = response.status();
        if !status.is_success() {
            panic!(
                "no stream: {status} {}",
                response.text().await.unwrap_or_default()
            );
        }
        let kind = response
            .headers()
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
            .to_owned();
        assert!(kind.starts_with("text/event-stream"), "{kind}");
        Self {
            response,
            buffer: String::new(),
        }
    }

    /// `None` at the end; comments (heartbeats) are passed over.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                if let Some(event) = parse(&block) {
                    return Some(event);
                }
            }
            let chunk = tokio::time::timeout(NEXT_WITHIN, self.response.chunk())
                .await
                .expect("an event within the deadline");
            let bytes = chunk.expect("the stream goes on")?;
            self.buffer
                .push_str(std::str::from_utf8(&bytes).expect("whole characters"));
        }
    }

    pub async fn all(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn parse(block: &str) -> Option<Event> {
    let (mut id, mut name, mut data) = (None, String::new(), Vec::new());
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => id = Some(value.to_owned()),
            "event" => value.clone_into(&mut name),
            "data" => data.push(value),
            _ => {}
        }
    }
    if data.is_empty() {
        return None;
    }
    let data = data.join("\n");
    let data = serde_json::from_str(&data)
        .unwrap_or_else(|error| panic!("{name}: no JSON ({error}): {data}"));
    Some(Event { id, name, data })
}
