//! How an execution is shown: when it is answered, when it is read, when it is listed.

use crate::openapi;
use domain::{
    Timestamp,
    execution::{Attempt, Failure, FailureCode, FailurePhase, Mode, Outcome, Priority, Status},
    id::InstanceId,
    log::{Level, Line},
    waterfall::{How, Waterfall},
};
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use store::executions::Execution;
use utoipa::ToSchema;

/// The outcome of an execution.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExecutionResult<'a> {
    pub execution_id: &'a str,
    #[schema(schema_with = openapi::execution_status)]
    pub status: Status,
    pub result: ResultWithUsage<'a>,
    pub performance: Times,
    pub logs: Vec<LogEntry<'a>>,
    /// How often it was begun.
    pub attempt: u32,
    pub version: Option<&'a str>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ResultWithUsage<'a> {
    /// What the handler gave; null unless completed.
    #[schema(schema_with = openapi::any)]
    output: Option<&'a RawValue>,
    /// Null where it completed.
    error: Option<ExecutionError<'a>>,
    metadata: UsageFigures<'a>,
}

/// Null where it was not measured.
#[derive(Debug, Serialize, ToSchema)]
struct UsageFigures<'a> {
    execution_time: f64,
    memory_used: Option<f64>,
    cpu_time: Option<f64>,
    tokens_used: Option<i64>,
    /// What the agent reported by `context.metric`.
    custom_metrics: &'a BTreeMap<String, f64>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct Times {
    #[schema(schema_with = openapi::maybe_time)]
    started_at: Option<Timestamp>,
    #[schema(schema_with = openapi::time)]
    completed_at: Timestamp,
    duration: f64,
    /// Everything before the handler: the first six of `waterfall`.
    queue_time: f64,
    waterfall: Option<Phases>,
    /// How the instance came to be that it waited for; null where one was there.
    #[schema(schema_with = openapi::maybe_instance_start)]
    instance_start: Option<How>,
}

/// Where the time went, in milliseconds, one phase after the other.
#[derive(Debug, Serialize, ToSchema)]
pub struct Phases {
    /// Read, allowed, kept where it is kept first, and handed to the bus.
    gateway: f64,
    /// Waited: in its lane, for a seat, for earlier attempts.
    queue: f64,
    /// On its way to an executor and an instance.
    placement: f64,
    /// The instance that it waited for was started, imported the agent, and became ready.
    spawn: f64,
    import: f64,
    init: f64,
    handler: f64,
    /// From the handler's end until it was this execution's turn to be written; the commit itself cannot be in what it commits.
    record: f64,
}

impl From<Waterfall> for Phases {
    fn from(waterfall: Waterfall) -> Self {
        let [
            gateway,
            queue,
            placement,
            spawn,
            import,
            init,
            handler,
            record,
        ] = waterfall.phases().map(|phase| phase.as_secs_f64() * 1000.0);
        Self {
            gateway,
            queue,
            placement,
            spawn,
            import,
            init,
            handler,
            record,
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct ExecutionError<'a> {
    #[schema(schema_with = openapi::failure_code)]
    code: FailureCode,
    message: &'a str,
    details: FailureDetails<'a>,
}

#[derive(Debug, Serialize, ToSchema)]
struct FailureDetails<'a> {
    #[schema(schema_with = openapi::failure_phase)]
    phase: FailurePhase,
    exception_type: Option<&'a str>,
    traceback: Option<&'a str>,
    exit_code: Option<i32>,
    signal: Option<i32>,
    attempt: u32,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct LogEntry<'a> {
    #[schema(schema_with = openapi::time)]
    timestamp: Timestamp,
    #[schema(schema_with = openapi::level)]
    level: Level,
    message: &'a str,
    /// The logger's own fields.
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    context: Context<'a>,
}

/// An empty object where the logger gave no fields.
#[derive(Debug)]
struct Context<'a>(Option<&'a serde_json::Value>);

impl Serialize for Context<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(fields) => fields.serialize(serializer),
            None => BTreeMap::<(), ()>::new().serialize(serializer),
        }
    }
}

impl<'a> From<&'a Line> for LogEntry<'a> {
    fn from(line: &'a Line) -> Self {
        Self {
            timestamp: line.timestamp,
            level: line.level,
            message: &line.message,
            context: Context(line.context.as_ref()),
        }
    }
}

impl<'a> ExecutionError<'a> {
    fn of(failure: &'a Failure, attempt: u32) -> Self {
        Self {
            code: failure.code,
            message: &failure.message,
            details: FailureDetails {
                phase: failure.phase,
                exception_type: failure.exception_type.as_deref(),
                traceback: failure.traceback.as_deref(),
                exit_code: failure.exit_code,
                signal: failure.signal,
                attempt,
            },
        }
    }
}

impl<'a> ExecutionResult<'a> {
    pub fn of(id: &'a str, version: Option<&'a str>, outcome: &'a Outcome) -> Self {
        let usage = &outcome.usage;
        Self {
            execution_id: id,
            status: outcome.status,
            result: ResultWithUsage {
                output: outcome.output.as_deref(),
                error: outcome
                    .error
                    .as_ref()
                    .map(|failure| ExecutionError::of(failure, outcome.attempt)),
                metadata: UsageFigures {
                    execution_time: outcome.duration_ms,
                    memory_used: usage.memory_peak_mb,
                    cpu_time: usage.cpu_ms,
                    tokens_used: usage.tokens,
                    custom_metrics: &usage.metrics,
                },
            },
            performance: Times {
                started_at: outcome.started_at,
                completed_at: outcome.completed_at,
                duration: outcome.duration_ms,
                queue_time: outcome.queue_ms,
                waterfall: outcome.waterfall.map(Phases::from),
                instance_start: outcome.waterfall.and_then(|waterfall| waterfall.start()),
            },
            logs: outcome.logs.iter().map(LogEntry::from).collect(),
            attempt: outcome.attempt,
            version,
        }
    }
}

/// The outcome that an ended row holds.
pub fn outcome(row: Execution, logs: Vec<Line>) -> Outcome {
    Outcome {
        status: row.status,
        output: row.output,
        error: row.error,
        attempt: row.attempt,
        accepted_at: row.accepted_at,
        started_at: row.started_at,
        completed_at: row.completed_at.unwrap_or(row.due_at),
        duration_ms: row.duration_ms.unwrap_or(0.0),
        queue_ms: row.queue_ms.unwrap_or(0.0),
        waterfall: row.waterfall,
        usage: row.usage,
        instance_id: row.instance_id,
        logs,
    }
}

/// An execution as it stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct ExecutionStatus<'a> {
    execution_id: &'a str,
    agent_id: &'a str,
    #[schema(schema_with = openapi::execution_status)]
    status: Status,
    /// Percent, where the agent tells it.
    progress: Option<f64>,
    #[schema(schema_with = openapi::time)]
    accepted_at: Timestamp,
    #[schema(schema_with = openapi::maybe_time)]
    started_at: Option<Timestamp>,
    #[schema(schema_with = openapi::maybe_time)]
    completed_at: Option<Timestamp>,
    result: OutputOrError<'a>,
    performance: ExecutionFigures,
    logs: Vec<LogEntry<'a>>,
    version: Option<&'a str>,
    #[schema(schema_with = openapi::execution_mode)]
    mode: Mode,
    #[schema(schema_with = openapi::priority)]
    priority: Priority,
    user_id: Option<&'a str>,
    session_id: Option<&'a str>,
    request_id: Option<&'a str>,
    /// The attempt that runs or was the last.
    attempt: u32,
    attempts: Vec<AttemptLine<'a>>,
    /// Log lines over what one execution may write.
    logs_dropped: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct OutputOrError<'a> {
    /// Null unless completed.
    #[schema(schema_with = openapi::any)]
    output: Option<&'a RawValue>,
    /// Null where it did not fail.
    error: Option<ExecutionError<'a>>,
}

/// Null where it has not ended or was not measured.
#[derive(Debug, Serialize, ToSchema)]
struct ExecutionFigures {
    duration: Option<f64>,
    memory_peak: Option<f64>,
    cpu_time: Option<f64>,
    queue_time: Option<f64>,
    waterfall: Option<Phases>,
    /// How the instance came to be that it waited for; null where one was there.
    #[schema(schema_with = openapi::maybe_instance_start)]
    instance_start: Option<How>,
    tokens_used: Option<i64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct AttemptLine<'a> {
    attempt: u32,
    #[schema(schema_with = openapi::time)]
    started_at: Timestamp,
    #[schema(schema_with = openapi::maybe_time)]
    completed_at: Option<Timestamp>,
    instance_id: Option<&'a str>,
    error: Option<ExecutionError<'a>>,
}

impl<'a> ExecutionStatus<'a> {
    pub fn of(
        row: &'a Execution,
        version: Option<&'a str>,
        logs: impl Iterator<Item = &'a Line>,
    ) -> Self {
        let attempt = |one: &'a Attempt| AttemptLine {
            attempt: one.attempt,
            started_at: one.started_at,
            completed_at: one.completed_at,
            instance_id: one.instance_id.as_ref().map(InstanceId::as_str),
            error: one
                .error
                .as_ref()
                .map(|failure| ExecutionError::of(failure, one.attempt)),
        };
        Self {
            execution_id: row.key.id.as_str(),
            agent_id: row.key.agent_id.as_str(),
            status: row.status,
            progress: row.progress,
            accepted_at: row.accepted_at,
            started_at: row.started_at,
            completed_at: row.completed_at,
            result: OutputOrError {
                output: row.output.as_deref(),
                error: row
                    .error
                    .as_ref()
                    .map(|failure| ExecutionError::of(failure, row.attempt)),
            },
            performance: ExecutionFigures {
                duration: row.duration_ms,
                memory_peak: row.usage.memory_peak_mb,
                cpu_time: row.usage.cpu_ms,
                queue_time: row.queue_ms,
                waterfall: row.waterfall.map(Phases::from),
                instance_start: row.waterfall.and_then(|waterfall| waterfall.start()),
                tokens_used: row.usage.tokens,
            },
            logs: logs.map(LogEntry::from).collect(),
            version,
            mode: row.mode,
            priority: row.priority,
            user_id: row.caller.user_id.as_deref(),
            session_id: row.caller.session_id.as_deref(),
            request_id: row.caller.request_id.as_deref(),
            attempt: row.attempt,
            attempts: row.attempts.iter().map(attempt).collect(),
            logs_dropped: row.usage.logs_dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::execution::Usage;
    use serde_json::json;

    #[test]
    fn every_field_of_the_contract_is_there() {
        let mut failure = Failure::new(FailureCode::HandlerRaised, FailurePhase::Handler, "boom");
        failure.exception_type = Some("ValueError".into());
        let mut outcome = Outcome {
            status: Status::Failed,
            output: None,
            error: Some(failure),
            attempt: 2,
            accepted_at: Timestamp(0),
            started_at: Some(Timestamp(1)),
            completed_at: Timestamp(2),
            duration_ms: 1.5,
            queue_ms: 0.5,
            waterfall: Some(Waterfall::from([125, 125, 250, 0, 0, 0, 1500, 500])),
            usage: Usage::default(),
            instance_id: None,
            logs: vec![Line {
                timestamp: Timestamp(1),
                level: Level::Info,
                message: "m".into(),
                context: None,
            }],
        };
        let shown =
            serde_json::to_value(ExecutionResult::of("e", Some("1.0.0"), &outcome)).expect("JSON");
        assert_eq!(
            shown,
            json!({
                "execution_id": "e", "status": "failed", "attempt": 2, "version": "1.0.0",
                "result": {
                    "output": null,
                    "error": {"code": "HANDLER_RAISED", "message": "boom", "details": {
                        "phase": "handler", "exception_type": "ValueError", "traceback": null, "exit_code": null, "signal": null, "attempt": 2}},
                    "metadata": {"execution_time": 1.5, "memory_used": null, "cpu_time": null, "tokens_used": null, "custom_metrics": {}}
                },
                "performance": {"started_at": "1970-01-01T00:00:00.001Z", "completed_at": "1970-01-01T00:00:00.002Z", "duration": 1.5, "queue_time": 0.5,
                    "waterfall": {"gateway": 0.125, "queue": 0.125, "placement": 0.25, "spawn": 0.0, "import": 0.0, "init": 0.0, "handler": 1.5, "record": 0.5},
                    "instance_start": null},
                "logs": [{"timestamp": "1970-01-01T00:00:00.001Z", "level": "INFO", "message": "m", "context": {}}]
            })
        );
        outcome.output = Some(RawValue::from_string("{\"n\": 1.10}".into()).expect("JSON"));
        let text = serde_json::to_string(&ExecutionResult::of("e", None, &outcome)).expect("JSON");
        assert!(text.contains("{\"n\": 1.10}"), "{text}");
    }
}
