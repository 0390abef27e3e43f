//! The stream of what was delivered too often: looked through, read, and put back where it came from.

use async_nats::{
    HeaderMap,
    jetstream::{
        Context, Message as Wire,
        consumer::{AckPolicy, pull},
        stream::{DeleteMessageErrorKind, RawMessageErrorKind},
    },
};
use domain::Timestamp;
use futures::StreamExt as _;
use std::time::Duration;

use super::{lease, streams, wire};
use crate::{
    error::{Error, Result},
    message::Message,
    subject::{self, Subject},
    work::DeadLetter,
};

/// In a dead letter: how often it had been delivered.
pub(super) const DELIVERIES: &str = "Bus-Deliveries";
/// Asked for at once; more would not fit in front of one subscription.
const BATCH: usize = 10_000;

/// Newest first. Only headers travel, so that the whole stream costs a few megabytes at worst.
pub(super) async fn letters(
    context: &Context,
    account: &str,
    timeout: Duration,
) -> Result<Vec<DeadLetter>> {
    let config = pull::Config {
        filter_subject: subject::dead_of(account),
        ack_policy: AckPolicy::None,
        headers_only: true,
        inactive_threshold: timeout,
        ..pull::Config::default()
    };
    let consumer = context
        .create_consumer_on_stream(config, streams::DEAD)
        .await
        .map_err(Error::unavailable)?;
    let mut letters = Vec::new();
    loop {
        let before = letters.len();
        let mut found = consumer
            .fetch()
            .max_messages(BATCH)
            .messages()
            .await
            .map_err(Error::unavailable)?;
        while let Some(wire) = found.next().await {
            letters.extend(listed(&wire.map_err(Error::unavailable)?)?);
        }
        if letters.len() < before + BATCH {
            break;
        }
    }
    letters.reverse();
    Ok(letters)
}

fn listed(wire: &Wire) -> Result<Option<DeadLetter>> {
    let info = wire.info().map_err(Error::unavailable)?;
    let headers = wire.message.headers.as_ref();
    let at = info.published.unix_timestamp_nanos();
    Ok(letter(
        info.stream_sequence,
        &wire.message.subject,
        headers,
        at,
    ))
}

/// `None`: it is no dead letter of ours.
fn letter(id: u64, subject: &str, headers: Option<&HeaderMap>, nanos: i128) -> Option<DeadLetter> {
    let deliveries = headers.and_then(|headers| headers.get(DELIVERIES));
    Some(DeadLetter {
        id,
        subject: Subject::of_dead(subject)?,
        deliveries: deliveries
            .and_then(|count| count.as_str().parse().ok())
            .unwrap_or_default(),
        dead_at: Timestamp(i64::try_from(nanos / 1_000_000).unwrap_or(i64::MAX)),
    })
}

pub(super) async fn read(context: &Context, id: u64) -> Result<Option<(DeadLetter, Message)>> {
    if id == 0 {
        return Ok(None);
    }
    let stream = context
        .get_stream_no_info(streams::DEAD)
        .await
        .map_err(Error::unavailable)?;
    let raw = match stream.get_raw_message(id).await {
        Ok(raw) => raw,
        Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::unavailable(error)),
    };
    let at = raw.time.unix_timestamp_nanos();
    let letter = letter(raw.sequence, &raw.subject, Some(&raw.headers), at);
    let message = wire::carried(Some(&raw.headers), raw.payload);
    Ok(letter.map(|letter| (letter, message)))
}

/// Stored where it came from first, under a name that a second try has too; then gone from here.
pub(super) async fn redrive(context: &Context, id: u64) -> Result<bool> {
    let Some((letter, message)) = read(context, id).await? else {
        return Ok(false);
    };
    let name = format!("{}/redriven/{id}", letter.subject);
    lease::store(context, &letter.subject, &name, message).await?;
    let stream = context
        .get_stream_no_info(streams::DEAD)
        .await
        .map_err(Error::unavailable)?;
    match stream.delete_message(id).await {
        Ok(_) => Ok(true),
        // Somebody did the same just now.
        Err(error) if matches!(error.kind(), DeleteMessageErrorKind::JetStream(_)) => Ok(true),
        Err(error) => Err(Error::unavailable(error)),
    }
}
