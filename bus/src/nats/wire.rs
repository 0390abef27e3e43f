//! Our messages and errors as NATS has them, and back.

use std::{error::Error as _, str::FromStr as _};

use async_nats::{
    HeaderMap, HeaderName, HeaderValue, RequestErrorKind,
    jetstream::{self, ErrorCode, context::PublishErrorKind},
};

use bytes::Bytes;

use crate::{
    error::{Error, Result},
    message::{Headers, Message},
};

/// In a reply: why there is no answer.
const REFUSAL: &str = "Bus-Error";
const BUSY: &str = "busy";
const UNANSWERED: &str = "unanswered";

/// "No more room": the only one of the many reasons that a publisher must tell apart.
const STORE_FAILED: ErrorCode = ErrorCode::STREAM_STORE_FAILED;

pub(super) fn headers(headers: &Headers) -> Result<Option<HeaderMap>> {
    if headers.is_empty() {
        return Ok(None);
    }
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter() {
        let name = HeaderName::from_str(name)
            .map_err(|error| Error::Setup(format!("header {name:?}: {error}")))?;
        let value = HeaderValue::from_str(value)
            .map_err(|error| Error::Setup(format!("header {name}: {error}")))?;
        map.insert(name, value);
    }
    Ok(Some(map))
}

pub(super) fn message(wire: async_nats::Message) -> Message {
    carried(wire.headers.as_ref(), wire.payload)
}

pub(super) fn carried(map: Option<&HeaderMap>, payload: Bytes) -> Message {
    let mut headers = Headers::default();
    for (name, values) in map.into_iter().flat_map(HeaderMap::iter) {
        let name: &str = name.as_ref();
        if let Some(value) = values.last()
            && !name.starts_with("Nats-")
            && !name.starts_with("Bus-")
        {
            headers.set(name.to_owned(), value.as_str());
        }
    }
    Message { headers, payload }
}

pub(super) fn refusal(error: &Error) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert(
        REFUSAL,
        if *error == Error::Busy {
            BUSY
        } else {
            UNANSWERED
        },
    );
    map
}

/// The answer, or the refusal that came in its place.
pub(super) fn answer(wire: async_nats::Message) -> Result<Message> {
    match wire
        .headers
        .as_ref()
        .and_then(|headers| headers.get(REFUSAL))
        .map(HeaderValue::as_str)
    {
        None => Ok(message(wire)),
        Some(BUSY) => Err(Error::Busy),
        Some(_) => Err(Error::Unanswered),
    }
}

pub(super) fn request_error(error: &async_nats::RequestError) -> Error {
    match error.kind() {
        RequestErrorKind::NoResponders => Error::NoResponders,
        RequestErrorKind::TimedOut => Error::Timeout,
        RequestErrorKind::InvalidSubject
        | RequestErrorKind::MaxPayloadExceeded
        | RequestErrorKind::Other => Error::unavailable(error),
    }
}

pub(super) fn store_error(error: &jetstream::context::PublishError) -> Error {
    let code = error
        .source()
        .and_then(|source| source.downcast_ref::<jetstream::Error>())
        .map(jetstream::Error::error_code);
    match (error.kind(), code) {
        (_, Some(STORE_FAILED)) => Error::Full,
        (PublishErrorKind::StreamNotFound, _) => {
            Error::Setup(format!("no stream takes this subject: {error}"))
        }
        _ => Error::unavailable(error),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mutate::cases;

    proptest! {
        #![proptest_config(cases())]

        /// A value is a line, whatever is put into it, and comes back as it was sent.
        #[test]
        fn headers_are_lines(values in prop::collection::vec(any::<String>(), 0..4)) {
            let mut sent = Message::new(Bytes::new());
            for (name, value) in ["traceparent", "tracestate", "a", "b"].into_iter().zip(&values) {
                sent = sent.with_header(name, value.as_str());
            }
            let map = headers(&sent.headers).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let got = carried(map.as_ref(), Bytes::new());
            for (name, value) in sent.headers.iter() {
                prop_assert_eq!(got.headers.get(name).map(str::trim), Some(value.trim()));
                prop_assert!(!value.contains(char::is_control));
            }
        }
    }
}
