//! Server-sent events (WHATWG HTML, 9.2): pulled by the reader, so a slow one holds nothing here but one event.

use crate::respond;
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use bytes::Bytes;
use domain::{Error, Result};
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use std::time::Duration;

/// A comment goes out after so long without an event, so that nobody between takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What is read of a stream, one event after the other.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "a schema; events are written as text")]
pub struct ServerSentEvent {
    /// To go on after it by `Last-Event-ID`.
    #[schema(required = false)]
    id: String,
    event: String,
    /// JSON.
    data: String,
}

/// One event as bytes.
pub fn event<T: Serialize>(name: &str, id: Option<&str>, data: &T) -> Bytes {
    let data = serde_json::to_string(data).unwrap_or_else(|_| "null".to_owned());
    frame(name, id, &data)
}

/// JSON keeps its meaning over several lines, wherever they break.
pub fn frame(name: &str, id: Option<&str>, data: &str) -> Bytes {
    let mut out = String::with_capacity(data.len() + 64);
    if let Some(id) = id {
        out.extend(["id: ", id, "\n"]);
    }
    out.extend(["event: ", name, "\n"]);
    for line in data.split(['\n', '\r']) {
        out.extend(["data: ", line, "\n"]);
    }
    out.push('\n');
    out.into()
}

/// Whatever gives events one after the other, and `None` at its end.
pub trait Source: Send + 'static {
    /// Dropped and called again whenever a comment is due: must be safe to cancel.
    fn next(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
}

pub fn response(source: impl Source) -> Response<Body> {
    let body = Body::from_stream(alive(source).map(Ok::<_, std::convert::Infallible>));
    let mut response = respond::with_type(StatusCode::OK, "text/event-stream", body);
    // Proxies that gather answers (nginx) let this one through as it comes.
    response
        .headers_mut()
        .insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn alive(source: impl Source) -> impl Stream<Item = Bytes> + Send {
    stream::unfold(source, async |mut source| {
        match tokio::time::timeout(KEEP_ALIVE, source.next()).await {
            Ok(Some(event)) => Some((event, source)),
            Ok(None) => None,
            Err(_) => Some((Bytes::from_static(b": still here\n\n"), source)),
        }
    })
}

/// Whether the caller would rather have events than one document.
pub fn wanted(headers: &HeaderMap) -> bool {
    let accepts = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    accepts.flat_map(|value| value.split(',')).any(|one| {
        one.split(';')
            .next()
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream"))
    })
}

/// Where a reader that comes back left off.
pub fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>> {
    let Some(value) = headers
        .get("last-event-id")
        .filter(|value| !value.is_empty())
    else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        Error::fault(
            "Last-Event-ID",
            "is not an id of these events; allowed is the id of the last event that came",
        )
    })
}

/// Whether an answer is such a stream.
pub fn is(response: &Response<Body>) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind == "text/event-stream")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        assert_eq!(
            frame("chunk", Some("7"), "{\"a\":1}"),
            "id: 7\nevent: chunk\ndata: {\"a\":1}\n\n"
        );
        assert_eq!(
            frame("log", None, "[1,\r\n2]"),
            "event: log\ndata: [1,\ndata: \ndata: 2]\n\n"
        );
        assert_eq!(
            event("progress", None, &"a\nb"),
            "event: progress\ndata: \"a\\nb\"\n\n"
        );
    }

    #[test]
    fn who_wants_events() {
        let accepting = |value: &'static str| {
            HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))])
        };
        assert!(wanted(&accepting("text/event-stream")));
        assert!(wanted(&accepting(
            "application/json, Text/Event-Stream;q=0.9"
        )));
        assert!(!wanted(&accepting("*/*")) && !wanted(&HeaderMap::new()));
    }

    struct Slow(u8);

    impl Source for Slow {
        async fn next(&mut self) -> Option<Bytes> {
            tokio::time::sleep(Duration::from_secs(20)).await;
            self.0 += 1;
            (self.0 < 2).then(|| Bytes::from_static(b"x"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn comments_go_out_while_nothing_comes() {
        let mut events = std::pin::pin!(alive(Slow(0)));
        assert_eq!(events.next().await.expect("a comment"), ": still here\n\n");
    }
}
