//! The three streams, created or brought in line at start: what waits to be run, what waits to be
//! deployed, what was delivered too often.

use std::time::Duration;

use async_nats::jetstream::{
    Context, ErrorCode,
    context::{CreateStreamErrorKind, GetStreamErrorKind},
    stream::{Config as Stream, DiscardPolicy, RetentionPolicy, StorageType},
};

use super::Config;
use crate::{
    error::{Error, Result},
    subject::{DEAD_STREAM, DEPLOY_STREAM, Subject, WORK_STREAM},
};

const WORK: &str = "PHALANX_WORK";
const DEPLOY: &str = "PHALANX_DEPLOY";
pub(super) const DEAD: &str = "PHALANX_DEAD";

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Headers and framing on top of our own bound.
const MESSAGE_MARGIN: usize = 16 * 1024;

/// The stream that stores this subject.
pub(super) fn of(subject: &Subject) -> Result<&'static str> {
    match subject.verb() {
        "work" => Ok(WORK),
        "deploy" => Ok(DEPLOY),
        _ => Err(Error::Setup(format!("{subject} is not a durable subject"))),
    }
}

pub(super) async fn ensure_all(context: &Context, config: &Config) -> Result<()> {
    for wanted in wanted(config) {
        ensure(context, &wanted).await?;
    }
    Ok(())
}

fn wanted(config: &Config) -> [Stream; 3] {
    let size = i32::try_from(config.limits.message + MESSAGE_MARGIN).unwrap_or(i32::MAX);
    let common = Stream {
        storage: StorageType::File,
        max_message_size: size,
        num_replicas: config.replicas.max(1),
        duplicate_window: config.limits.duplicates,
        ..Stream::default()
    };
    let queue = Stream {
        retention: RetentionPolicy::WorkQueue,
        discard: DiscardPolicy::New,
        ..common.clone()
    };
    [
        Stream {
            name: WORK.to_owned(),
            description: Some("async executions, one message each, until acknowledged".to_owned()),
            subjects: vec![WORK_STREAM.to_owned()],
            max_messages: config.work_messages,
            max_bytes: config.work_bytes,
            max_age: config.work_age,
            ..queue.clone()
        },
        Stream {
            name: DEPLOY.to_owned(),
            description: Some("commands to the deployer, until acknowledged".to_owned()),
            subjects: vec![DEPLOY_STREAM.to_owned()],
            max_messages: 100_000,
            max_bytes: 128 << 20,
            max_age: DAY,
            ..queue
        },
        Stream {
            name: DEAD.to_owned(),
            description: Some("what was delivered too often, for a person to look at".to_owned()),
            subjects: vec![DEAD_STREAM.to_owned()],
            retention: RetentionPolicy::Limits,
            discard: DiscardPolicy::Old,
            max_messages: 100_000,
            max_messages_per_subject: i64::try_from(config.limits.dead).unwrap_or(i64::MAX),
            max_bytes: 256 << 20,
            max_age: 7 * DAY,
            ..common
        },
    ]
}

async fn ensure(context: &Context, wanted: &Stream) -> Result<()> {
    let existing = match context.get_stream(&wanted.name).await {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(reason)
                if reason.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                if create(context, wanted).await? {
                    return Ok(());
                }
                context
                    .get_stream(&wanted.name)
                    .await
                    .map_err(Error::unavailable)?
            }
            GetStreamErrorKind::JetStream(reason) => return Err(refused(wanted, &reason)),
            _ => {
                return Err(Error::Unavailable(format!(
                    "{error}: is the server up and JetStream enabled (`-js`)?"
                )));
            }
        },
    };
    let existing = existing.cached_info().config.clone();
    let merged = merge(existing.clone(), wanted);
    if merged == existing {
        return Ok(());
    }
    tracing::info!(
        stream = wanted.name,
        "a stream has other settings than ours: it is updated"
    );
    context
        .update_stream(&merged)
        .await
        .map_err(|error| refused(wanted, &error))?;
    Ok(())
}

/// False if somebody else was quicker.
async fn create(context: &Context, wanted: &Stream) -> Result<bool> {
    let Err(error) = context.create_stream(wanted.clone()).await else {
        return Ok(true);
    };
    match error.kind() {
        CreateStreamErrorKind::JetStream(reason)
            if reason.error_code() == ErrorCode::STREAM_NAME_EXIST =>
        {
            Ok(false)
        }
        CreateStreamErrorKind::TimedOut => Err(Error::unavailable(error)),
        _ => Err(refused(wanted, &error)),
    }
}

/// Ours on top of what an operator may have added (placement, compression and the like).
fn merge(existing: Stream, wanted: &Stream) -> Stream {
    let wanted = wanted.clone();
    Stream {
        description: wanted.description,
        subjects: wanted.subjects,
        retention: wanted.retention,
        discard: wanted.discard,
        storage: wanted.storage,
        max_messages: wanted.max_messages,
        max_messages_per_subject: match wanted.max_messages_per_subject {
            0 => existing.max_messages_per_subject,
            bound => bound,
        },
        max_bytes: wanted.max_bytes,
        max_age: wanted.max_age,
        max_message_size: wanted.max_message_size,
        num_replicas: wanted.num_replicas,
        duplicate_window: wanted.duplicate_window,
        ..existing
    }
}

fn refused(wanted: &Stream, reason: &impl std::fmt::Display) -> Error {
    Error::Setup(format!(
        "stream {} cannot be made what it must be ({:?} retention on {}): {reason}; remove or rename what is in its way",
        wanted.name,
        wanted.retention,
        wanted.subjects.join(", "),
    ))
}
