//! `domain` to messages and back. What comes from the wire is checked like anything else that comes from outside.

use crate::{status, v1};
use bytes::Bytes;
use domain::{
    Error, Result, Timestamp,
    execution::{Caller, Failure, Options, Outcome, Status, Usage},
    id::{AccountId, AgentId, ExecutionId, VersionId},
    log::Line,
    verdict::{Histogram, Sample},
    waterfall::{Sent, Waterfall},
};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use std::time::Duration;

/// Inputs, and outputs with their log lines, over this many bytes stay in their rows and travel as a reference to them.
pub const INLINE_BYTES: usize = 256 * 1024;

/// Executions of one sample: more than there will be, and sums of many samples stay far from overflowing.
const MOST_ENDED: u64 = 1 << 48;

/// An execution as an executor gets it.
#[derive(Debug, Clone)]
pub struct Execute {
    pub account: AccountId,
    pub agent_id: AgentId,
    pub version_id: VersionId,
    pub execution_id: ExecutionId,
    pub options: Options,
    pub caller: Caller,
    /// `None`: read it from the execution's row.
    pub input: Option<Box<RawValue>>,
    pub accepted_at: Timestamp,
    /// Executors that were lost while they ran it, for a caller that waits.
    pub losses: u32,
    /// Its row is there, or comes from who sent it. Else its executor writes the row: when it has lasted a while, or with its end.
    pub has_row: bool,
    /// `None`: who sent it did not measure.
    pub sent: Option<Sent>,
}

/// What an executor answers on the bus.
#[derive(Debug, Clone)]
pub enum Reply {
    Outcome(Box<Outcome>),
    /// The outcome's output and logs are over [`INLINE_BYTES`]: read them from the execution's rows.
    OutcomeByReference(Box<Outcome>),
    Accepted {
        node_address: String,
    },
    Cancelled(Status),
    Refused(Error),
}

/// What became of a version's executions.
pub fn sample(version_id: &str, one: &Sample) -> v1::Sample {
    let latency = one.latency.0.iter();
    v1::Sample {
        version_id: version_id.to_owned(),
        ended: one.ended,
        failed: one.failed,
        timeouts: one.timeouts,
        latency: latency
            .map(|(at, count)| (u32::from(*at), *count))
            .collect(),
    }
}

pub fn read_sample(one: &v1::Sample) -> Result<Sample> {
    let bad = || Error::internal("a message holds a bad sample");
    let bucket = |(at, count): (&u32, &u64)| Ok((u16::try_from(*at).map_err(|_| bad())?, *count));
    let sample = Sample {
        ended: one.ended,
        failed: one.failed,
        timeouts: one.timeouts,
        latency: Histogram(one.latency.iter().map(bucket).collect::<Result<_>>()?),
    };
    let mut counts = sample.latency.0.values();
    let seen = counts.try_fold(0u64, |sum, count| sum.checked_add(*count));
    for sum in [sample.failed.checked_add(sample.timeouts), seen] {
        if sum.is_none_or(|sum| sum > sample.ended) || sample.ended > MOST_ENDED {
            return Err(bad());
        }
    }
    Ok(sample)
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn json<T: Serialize>(value: &T) -> Result<Bytes> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Error::internal("a value cannot be written as JSON").because(error))
}

fn from_json<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::internal(format!("a message holds a bad {what}")).because(error))
}

fn raw(bytes: Bytes, what: &str) -> Result<Box<RawValue>> {
    let text = String::from_utf8(bytes.into())
        .map_err(|error| Error::internal(format!("a message holds a bad {what}")).because(error))?;
    RawValue::from_string(text)
        .map_err(|error| Error::internal(format!("a message holds a bad {what}")).because(error))
}

pub fn word<T: std::str::FromStr<Err = String>>(text: &str) -> Result<T> {
    text.parse()
        .map_err(|error: String| Error::internal("a message holds a bad word").because(error))
}

fn decode<M: Message + Default>(bytes: Bytes) -> Result<M> {
    M::decode(bytes).map_err(|error| Error::internal("a message cannot be read").because(error))
}

impl Execute {
    pub fn encode(&self) -> Result<Bytes> {
        let input = self
            .input
            .as_ref()
            .filter(|input| input.get().len() <= INLINE_BYTES);
        let message = v1::Execute {
            account: self.account.as_str().to_owned(),
            agent_id: self.agent_id.as_str().to_owned(),
            version_id: self.version_id.as_str().to_owned(),
            execution_id: self.execution_id.as_str().to_owned(),
            options: json(&self.options)?,
            caller: json(&self.caller)?,
            input: input
                .map(|input| Bytes::copy_from_slice(input.get().as_bytes()))
                .unwrap_or_default(),
            input_by_reference: input.is_none(),
            accepted_at_ms: self.accepted_at.0,
            losses: self.losses,
            has_row: self.has_row,
            gateway_us: self.sent.map_or(0, |sent| micros(sent.gateway)),
            sent_at_us: self.sent.map_or(0, |sent| sent.at_us),
        };
        Ok(message.encode_to_vec().into())
    }

    pub fn decode(bytes: Bytes) -> Result<Self> {
        let message: v1::Execute = decode(bytes)?;
        Ok(Self {
            account: word(&message.account)?,
            agent_id: word(&message.agent_id)?,
            version_id: word(&message.version_id)?,
            execution_id: word(&message.execution_id)?,
            options: from_json(&message.options, "options")?,
            caller: from_json(&message.caller, "caller")?,
            input: if message.input_by_reference {
                None
            } else {
                Some(raw(message.input, "input")?)
            },
            accepted_at: Timestamp(message.accepted_at_ms),
            losses: message.losses,
            has_row: message.has_row,
            sent: (message.sent_at_us > 0).then(|| Sent {
                gateway: Duration::from_micros(message.gateway_us),
                at_us: message.sent_at_us,
            }),
        })
    }
}

pub fn log_line(line: &Line) -> v1::LogLine {
    v1::LogLine {
        timestamp_ms: line.timestamp.0,
        level: line.level.as_str().to_owned(),
        message: line.message.clone(),
        context: line
            .context
            .as_ref()
            .map(|context| Bytes::from(context.to_string()))
            .unwrap_or_default(),
    }
}

pub fn from_log_line(line: v1::LogLine) -> Result<Line> {
    Ok(Line {
        timestamp: Timestamp(line.timestamp_ms),
        level: word(&line.level)?,
        message: line.message,
        context: if line.context.is_empty() {
            None
        } else {
            Some(from_json(&line.context, "log context")?)
        },
    })
}

/// What is over [`INLINE_BYTES`] stays behind.
pub fn outcome(outcome: &Outcome) -> Result<v1::Outcome> {
    let lines: usize = outcome.logs.iter().map(line_size).sum();
    let fits = outcome
        .output
        .as_ref()
        .map_or(0, |output| output.get().len())
        + lines
        <= INLINE_BYTES;
    let output = outcome.output.as_ref().filter(|_| fits);
    Ok(v1::Outcome {
        status: outcome.status.as_str().to_owned(),
        output: output
            .map(|output| Bytes::copy_from_slice(output.get().as_bytes()))
            .unwrap_or_default(),
        by_reference: !fits,
        error: outcome
            .error
            .as_ref()
            .map(json)
            .transpose()?
            .unwrap_or_default(),
        attempt: outcome.attempt,
        accepted_at_ms: outcome.accepted_at.0,
        started_at_ms: outcome.started_at.map(|at| at.0),
        completed_at_ms: outcome.completed_at.0,
        duration_ms: outcome.duration_ms,
        queue_ms: outcome.queue_ms,
        waterfall_us: outcome
            .waterfall
            .map(|waterfall| <[u64; 8]>::from(waterfall).to_vec())
            .unwrap_or_default(),
        usage: json(&outcome.usage)?,
        instance_id: outcome
            .instance_id
            .as_ref()
            .map(|id| id.as_str().to_owned())
            .unwrap_or_default(),
        logs: outcome.logs.iter().filter(|_| fits).map(log_line).collect(),
    })
}

fn line_size(line: &Line) -> usize {
    line.message.len()
        + 64
        + line
            .context
            .as_ref()
            .map_or(0, |context| context.to_string().len())
}

/// The outcome and whether its output and logs must be read from their rows.
pub fn from_outcome(message: v1::Outcome) -> Result<(Outcome, bool)> {
    let by_reference = message.by_reference;
    let outcome = Outcome {
        status: word(&message.status)?,
        output: if message.output.is_empty() {
            None
        } else {
            Some(raw(message.output, "output")?)
        },
        error: if message.error.is_empty() {
            None
        } else {
            Some(from_json::<Failure>(&message.error, "error")?)
        },
        attempt: message.attempt,
        accepted_at: Timestamp(message.accepted_at_ms),
        started_at: message.started_at_ms.map(Timestamp),
        completed_at: Timestamp(message.completed_at_ms),
        duration_ms: message.duration_ms,
        queue_ms: message.queue_ms,
        waterfall: <[u64; 8]>::try_from(message.waterfall_us)
            .ok()
            .map(Waterfall::from),
        usage: from_json::<Usage>(&message.usage, "usage")?,
        instance_id: if message.instance_id.is_empty() {
            None
        } else {
            Some(word(&message.instance_id)?)
        },
        logs: message
            .logs
            .into_iter()
            .map(from_log_line)
            .collect::<Result<_>>()?,
    };
    Ok((outcome, by_reference))
}

impl Reply {
    pub fn encode(&self) -> Result<Bytes> {
        use v1::reply::Reply as Wire;
        let wire = match self {
            Self::Outcome(done) | Self::OutcomeByReference(done) => Wire::Outcome(outcome(done)?),
            Self::Accepted { node_address } => Wire::Accepted(v1::Accepted {
                node_address: node_address.clone(),
            }),
            Self::Cancelled(status) => Wire::Cancelled(v1::Cancelled {
                status: status.as_str().to_owned(),
            }),
            Self::Refused(error) => Wire::Refused(v1::Refused {
                kind: status::kind_word(error.kind).to_owned(),
                message: error.message.clone(),
            }),
        };
        Ok(v1::Reply { reply: Some(wire) }.encode_to_vec().into())
    }

    pub fn decode(bytes: Bytes) -> Result<Self> {
        use v1::reply::Reply as Wire;
        let reply: v1::Reply = decode(bytes)?;
        match reply.reply {
            Some(Wire::Outcome(message)) => {
                let (outcome, by_reference) = from_outcome(message)?;
                let outcome = Box::new(outcome);
                Ok(if by_reference {
                    Self::OutcomeByReference(outcome)
                } else {
                    Self::Outcome(outcome)
                })
            }
            Some(Wire::Accepted(accepted)) => Ok(Self::Accepted {
                node_address: accepted.node_address,
            }),
            Some(Wire::Cancelled(cancelled)) => Ok(Self::Cancelled(word(&cancelled.status)?)),
            Some(Wire::Refused(refused)) => Ok(Self::Refused(Error::new(
                status::kind_of_word(&refused.kind),
                refused.message,
            ))),
            None => Err(Error::internal("a reply is empty")),
        }
    }
}

/// Any other message of the bus, as bytes and back.
pub fn encode<M: Message>(message: &M) -> Bytes {
    message.encode_to_vec().into()
}

pub fn read<M: Message + Default>(bytes: Bytes) -> Result<M> {
    decode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::execution::{FailureCode, FailurePhase, Mode, Priority};

    fn execute(input: String) -> Execute {
        Execute {
            account: AccountId::default_account(),
            agent_id: "echo".parse().expect("an id"),
            version_id: VersionId::from_uuid(Default::default()),
            execution_id: "e1".parse().expect("an id"),
            options: Options {
                mode: Mode::Sync,
                priority: Priority::High,
                timeout_s: 7,
                retry: domain::retry::Policy::default(),
                retry_explicit: true,
                trace: true,
                callback_url: Some("https://hooks.example.org/".to_owned()),
            },
            caller: Caller {
                user_id: Some("u".into()),
                ..Caller::default()
            },
            input: Some(RawValue::from_string(input).expect("JSON")),
            accepted_at: Timestamp(5),
            losses: 3,
            has_row: true,
            sent: Some(Sent {
                gateway: Duration::from_micros(7),
                at_us: 8,
            }),
        }
    }

    #[test]
    fn execute_both_ways() {
        let sent = execute("{\"a\": 1}".into());
        let got = Execute::decode(sent.encode().expect("encodes")).expect("decodes");
        assert_eq!(
            (got.options, got.caller, got.sent),
            (sent.options, sent.caller, sent.sent)
        );
        assert_eq!(got.input.expect("inline").get(), "{\"a\": 1}");
        let large = execute(format!("\"{}\"", "x".repeat(INLINE_BYTES)));
        assert!(
            Execute::decode(large.encode().expect("encodes"))
                .expect("decodes")
                .input
                .is_none()
        );
    }

    #[test]
    fn outcome_both_ways() {
        let mut failure = Failure::new(FailureCode::HandlerRaised, FailurePhase::Handler, "boom");
        failure.traceback = Some("File…".into());
        let sent = Outcome {
            status: Status::Failed,
            output: None,
            error: Some(failure),
            attempt: 2,
            accepted_at: Timestamp(1),
            started_at: Some(Timestamp(2)),
            completed_at: Timestamp(3),
            duration_ms: 1.5,
            queue_ms: 0.25,
            waterfall: Some(Waterfall::from([1, 2, 3, 4, 5, 6, 7, 8])),
            usage: Usage {
                tokens: Some(9),
                ..Usage::default()
            },
            instance_id: None,
            logs: vec![Line {
                timestamp: Timestamp(2),
                level: domain::log::Level::Warn,
                message: "m".into(),
                context: None,
            }],
        };
        let bytes = Reply::Outcome(Box::new(sent.clone()))
            .encode()
            .expect("encodes");
        let Reply::Outcome(got) = Reply::decode(bytes).expect("decodes") else {
            panic!("another reply")
        };
        assert_eq!(format!("{got:?}"), format!("{sent:?}"));
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(Execute::decode(Bytes::from_static(b"\xff\xff\xff")).is_err());
        assert!(Reply::decode(Bytes::new()).is_err());
    }
}
