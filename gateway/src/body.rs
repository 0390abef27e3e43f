//! Takes a request's body in: declared as JSON, bounded in bytes, and never waited for without end.

use crate::error::{Answer, Refusal};
use axum::{
    body::BodyDataStream,
    extract::Request,
    http::{HeaderMap, header},
};
use bytes::{Bytes, BytesMut};
use domain::{Error, Kind};
use futures::StreamExt;
use std::time::Duration;
use tokio::time::Instant;

/// How long a client may be silent in the middle of a body.
const SILENCE: Duration = Duration::from_secs(30);

/// And how much of it must come in a second, once that time is over: a byte now and then is silence.
const BYTES_PER_S: u64 = 4096;

/// How much of a body that is refused is still taken in, and for how long.
const DRAIN_BYTES: usize = 512 * 1024 * 1024;
const DRAIN_WITHIN: Duration = Duration::from_secs(20);

pub async fn read(request: Request, limit: usize) -> Answer<Bytes> {
    if !is_json(request.headers()) {
        return Err(Refusal::unsupported_media_type());
    }
    if is_encoded(request.headers()) {
        return Err(Refusal::encoded());
    }
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let mut chunks = request.into_body().into_data_stream();
    let collected = if declared.is_some_and(|length| length > limit) {
        Err(too_large(limit).into())
    } else {
        collect(&mut chunks, limit).await
    };
    if collected
        .as_ref()
        .is_err_and(|refusal| refusal.kind() != Kind::Timeout)
    {
        drain(chunks).await;
    }
    collected
}

/// Most clients send all of a body before they read an answer: one that was cut off would see a broken connection and
/// never learn why. Bounded in bytes and time.
async fn drain(mut chunks: BodyDataStream) {
    let reading = async {
        let mut left = DRAIN_BYTES;
        while let Some(Ok(chunk)) = chunks.next().await {
            match left.checked_sub(chunk.len()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    tokio::time::timeout(DRAIN_WITHIN, reading).await.ok();
}

async fn collect(chunks: &mut BodyDataStream, limit: usize) -> Answer<Bytes> {
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    let begun = Instant::now();
    loop {
        let so_far = rest.as_ref().map_or(first.len(), BytesMut::len);
        let due = SILENCE + Duration::from_secs(so_far as u64 / BYTES_PER_S);
        let wait = SILENCE.min(due.saturating_sub(begun.elapsed()));
        let next = tokio::time::timeout(wait, chunks.next()).await;
        let Ok(next) = next else {
            let message = format!(
                "the body stopped for {} s, or came slower than {BYTES_PER_S} bytes a second; send it again",
                SILENCE.as_secs()
            );
            return Err(Error::new(Kind::Timeout, message).into());
        };
        let chunk = match next {
            None => break,
            Some(Ok(chunk)) => chunk,
            Some(Err(error)) => {
                return Err(Error::fault("body", "ended before its declared length")
                    .because(error)
                    .into());
            }
        };
        if so_far + chunk.len() > limit {
            return Err(too_large(limit).into());
        }
        match &mut rest {
            Some(rest) => rest.extend_from_slice(&chunk),
            // Most bodies come in one piece and are not copied.
            None if first.is_empty() => first = chunk,
            None => {
                let mut both = BytesMut::with_capacity((first.len() + chunk.len()) * 2);
                both.extend_from_slice(&first);
                both.extend_from_slice(&chunk);
                rest = Some(both);
            }
        }
    }
    Ok(rest.map_or(first, BytesMut::freeze))
}

fn too_large(limit: usize) -> Error {
    Error::new(
        Kind::TooLarge,
        format!("the body is too large; allowed are at most {limit} bytes"),
    )
}

/// Anything but `identity` (RFC 9110, 8.4): what is packed could unpack to anything.
fn is_encoded(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    encodings.any(|one| !one.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// `application/json` or `application/…+json` (RFC 6838), with any parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or("").trim();
    let Some((kind, subtype)) = essence.split_once('/') else {
        return false;
    };
    let suffix = subtype
        .len()
        .checked_sub(5)
        .and_then(|at| subtype.get(at..));
    kind.eq_ignore_ascii_case("application")
        && (subtype.eq_ignore_ascii_case("json")
            || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn request(content_type: Option<&str>, body: &'static str) -> Request {
        let mut builder = axum::http::Request::post("/");
        if let Some(value) = content_type {
            builder = builder.header(header::CONTENT_TYPE, value);
        }
        builder.body(Body::from(body)).expect("a request")
    }

    #[tokio::test]
    async fn only_json_and_only_so_much() {
        for good in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/problem+json",
        ] {
            assert_eq!(read(request(Some(good), "{}"), 2).await.expect(good), "{}");
        }
        for bad in [
            None,
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
            Some("json"),
            Some("application/jsonx"),
        ] {
            assert!(read(request(bad, "{}"), 2).await.is_err(), "{bad:?}");
        }
        let large = read(request(Some("application/json"), "{} "), 2)
            .await
            .expect_err("too large");
        assert_eq!(large.kind(), Kind::TooLarge);
    }

    #[tokio::test]
    async fn pieces_are_put_together_and_counted() {
        let pieces = ["{\"a\"", ": [1, ", "2]", "}"];
        let stream = || {
            Body::from_stream(futures::stream::iter(pieces.map(Ok::<_, std::io::Error>)))
                .into_data_stream()
        };
        assert_eq!(
            collect(&mut stream(), 100).await.expect("all"),
            "{\"a\": [1, 2]}"
        );
        assert!(collect(&mut stream(), 10).await.is_err());
    }
}
