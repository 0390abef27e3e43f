//! One execution of an agent: what a caller may ask, which states it passes, how it may end.

use crate::{
    Timestamp,
    id::InstanceId,
    id::NodeId,
    log, retry,
    trace::{Context, Traceparent},
    waterfall::Waterfall,
    words,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{collections::BTreeMap, time::Duration};

words! {
    pub enum Status {
        Queued = "queued",
        Running = "running",
        Completed = "completed",
        Failed = "failed",
        Timeout = "timeout",
        Cancelled = "cancelled",
    }
}

impl Status {
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Completed | Self::Failed | Self::Timeout | Self::Cancelled => true,
        }
    }
}

words! {
    /// How the caller waits.
    pub enum Mode {
        Sync = "sync",
        Async = "async",
        Stream = "stream",
    }
}

impl Mode {
    /// Whether the execution outlives its caller: kept until it has an outcome, whatever dies meanwhile.
    pub fn is_durable(self) -> bool {
        matches!(self, Self::Async)
    }
}

words! {
    pub enum Priority { Low = "low", Normal = "normal", High = "high", }
}

words! {
    pub enum FailureCode {
        HandlerRaised = "HANDLER_RAISED",
        HandlerTimeout = "HANDLER_TIMEOUT",
        OutOfMemory = "OUT_OF_MEMORY",
        InstanceCrashed = "INSTANCE_CRASHED",
        OutputNotSerializable = "OUTPUT_NOT_SERIALIZABLE",
        OutputTooLarge = "OUTPUT_TOO_LARGE",
        InitFailed = "INIT_FAILED",
        Cancelled = "CANCELLED",
    }
}

words! {
    /// Where in an instance's life or a call's it happened.
    pub enum FailurePhase {
        Spawn = "spawn",
        Import = "import",
        Init = "init",
        Handler = "handler",
        Serialize = "serialize",
    }
}

/// The true cause of an attempt that did not complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub code: FailureCode,
    pub message: String,
    pub phase: FailurePhase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exception_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceback: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

impl Failure {
    pub fn new(code: FailureCode, phase: FailurePhase, message: impl Into<String>) -> Self {
        Self {
            code,
            phase,
            message: message.into(),
            exception_type: None,
            traceback: None,
            exit_code: None,
            signal: None,
        }
    }

    /// What the execution is called when this failure is its end.
    pub fn status(&self) -> Status {
        match self.code {
            FailureCode::HandlerTimeout => Status::Timeout,
            FailureCode::Cancelled => Status::Cancelled,
            FailureCode::HandlerRaised
            | FailureCode::OutOfMemory
            | FailureCode::InstanceCrashed
            | FailureCode::OutputNotSerializable
            | FailureCode::OutputTooLarge
            | FailureCode::InitFailed => Status::Failed,
        }
    }

    /// Whether the handler may have begun: after that, only a caller that allows repeats gets one.
    pub fn before_start(&self) -> bool {
        matches!(
            self.phase,
            FailurePhase::Spawn | FailurePhase::Import | FailurePhase::Init
        )
    }

    /// Whether the same call may end otherwise when made again.
    pub fn retryable(&self) -> bool {
        match self.code {
            FailureCode::HandlerRaised
            | FailureCode::InstanceCrashed
            | FailureCode::OutOfMemory => true,
            FailureCode::HandlerTimeout
            | FailureCode::OutputNotSerializable
            | FailureCode::OutputTooLarge
            | FailureCode::InitFailed
            | FailureCode::Cancelled => false,
        }
    }
}

/// What one attempt used, as the worker and the cgroup measured it; `None` where nothing measured it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    pub cpu_ms: Option<f64>,
    pub memory_peak_mb: Option<f64>,
    pub tokens: Option<i64>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
    #[serde(default)]
    pub logs_dropped: u64,
}

/// How one attempt ended.
#[derive(Debug, Clone)]
pub enum Ending {
    Completed(Box<RawValue>),
    Failed(Failure),
}

impl Ending {
    pub fn status(&self) -> Status {
        match self {
            Self::Completed(_) => Status::Completed,
            Self::Failed(failure) => failure.status(),
        }
    }
}

/// One attempt, as it is kept with its execution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub attempt: u32,
    pub started_at: Timestamp,
    pub completed_at: Option<Timestamp>,
    pub node_id: Option<NodeId>,
    pub instance_id: Option<InstanceId>,
    /// `None` while it runs and when it completed.
    pub error: Option<Failure>,
}

/// The whole end of an execution: what is recorded, answered and told.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub status: Status,
    pub output: Option<Box<RawValue>>,
    pub error: Option<Failure>,
    pub attempt: u32,
    pub accepted_at: Timestamp,
    pub started_at: Option<Timestamp>,
    pub completed_at: Timestamp,
    /// From the handler's start to its end, in milliseconds.
    pub duration_ms: f64,
    /// From acceptance to the handler's start, in milliseconds.
    pub queue_ms: f64,
    /// `None` where an older release ended it.
    pub waterfall: Option<Waterfall>,
    pub usage: Usage,
    pub instance_id: Option<InstanceId>,
    pub logs: Vec<log::Line>,
}

/// Who calls, as the handler's `context` shows it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Caller {
    pub user_id: Option<String>,
    pub session_id: Option<String>,
    pub request_id: Option<String>,
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// What the next span of this execution follows.
    pub traceparent: Option<Traceparent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
}

impl Caller {
    pub fn trace(&self) -> Option<Context> {
        Some(Context {
            parent: self.traceparent?,
            state: self.tracestate.clone(),
        })
    }

    pub fn follow(&mut self, trace: Context) {
        self.traceparent = Some(trace.parent);
        self.tracestate = trace.state;
    }

    /// Every execution belongs to a trace: its caller's, else `fresh`. A caller that wants no trace gets one that is not kept.
    pub fn begin_trace(&mut self, wanted: bool, fresh: impl FnOnce() -> Traceparent) {
        let parent = self.traceparent.unwrap_or_else(fresh);
        self.traceparent = Some(parent.kept(parent.sampled && wanted));
    }
}

/// The caller's wishes, complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Options {
    pub mode: Mode,
    pub priority: Priority,
    pub timeout_s: u32,
    pub retry: retry::Policy,
    /// Given by the caller, not by default: a sync caller that says so gets the handler repeated as well.
    pub retry_explicit: bool,
    pub trace: bool,
    /// Who is told of the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<String>,
}

impl Options {
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.timeout_s))
    }

    /// Whether, and after how long, an attempt that ended with `failure` is made again. `failed` counts the attempts that
    /// have failed so far, this one included.
    pub fn again_after(&self, failure: &Failure, failed: u32) -> Option<Duration> {
        let allowed = match self.mode {
            Mode::Async => failure.retryable(),
            Mode::Sync if self.retry_explicit => failure.retryable(),
            // Chunks that were sent cannot be taken back.
            Mode::Sync | Mode::Stream => failure.before_start() && failure.retryable(),
        };
        if allowed {
            self.retry.next(failed)
        } else {
            None
        }
    }
}

/// What happens to a kept execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// An executor begins an attempt.
    Start,
    /// The attempt ended and there will be none after it.
    End(Status),
    /// The attempt ended and there will be another.
    Again,
    /// The process that ran the attempt is gone.
    Lost,
    Cancel,
}

/// The next state, or `None` where the input comes too late: a terminal state never changes.
pub fn step(status: Status, input: Input) -> Option<Status> {
    match (status, input) {
        (Status::Queued, Input::Start) => Some(Status::Running),
        // A sync call's row is completed by the write that ends it; it may never have been seen running.
        (Status::Queued | Status::Running, Input::End(end)) if end.is_terminal() => Some(end),
        (Status::Running, Input::Again | Input::Lost) => Some(Status::Queued),
        (Status::Queued | Status::Running, Input::Cancel) => Some(Status::Cancelled),
        (Status::Queued, Input::Again | Input::Lost)
        | (Status::Running, Input::Start)
        | (Status::Queued | Status::Running, Input::End(_))
        | (
            Status::Completed | Status::Failed | Status::Timeout | Status::Cancelled,
            Input::Start | Input::End(_) | Input::Again | Input::Lost | Input::Cancel,
        ) => None,
    }
}

/// How often the process under an execution may die before we stop trying: it may be the execution that kills it.
pub const MOST_LOSSES: u32 = 10;
/// Deliveries of a durable execution's message before it is a dead letter: all retries, all losses, and as many on which we err.
pub const MOST_DELIVERIES: u32 = retry::MOST_RETRIES + 2 * MOST_LOSSES;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_states_never_change() {
        let inputs = [
            Input::Start,
            Input::End(Status::Completed),
            Input::Again,
            Input::Lost,
            Input::Cancel,
        ];
        for status in Status::ALL.iter().filter(|status| status.is_terminal()) {
            assert!(
                inputs.iter().all(|input| step(*status, *input).is_none()),
                "{status}"
            );
        }
    }

    #[test]
    fn every_transition() {
        let inputs = [
            Input::Start,
            Input::End(Status::Completed),
            Input::End(Status::Queued),
            Input::Again,
            Input::Lost,
            Input::Cancel,
        ];
        let mut table = String::new();
        for status in [Status::Queued, Status::Running] {
            for input in inputs {
                let next = step(status, input).map_or("-", Status::as_str);
                table += &format!("{status} {input:?} -> {next}\n");
            }
        }
        assert_eq!(
            table,
            "queued Start -> running\nqueued End(Completed) -> completed\nqueued End(Queued) -> -\nqueued Again -> -\nqueued Lost -> -\n\
             queued Cancel -> cancelled\nrunning Start -> -\nrunning End(Completed) -> completed\nrunning End(Queued) -> -\nrunning Again -> queued\n\
             running Lost -> queued\nrunning Cancel -> cancelled\n"
        );
    }

    #[test]
    fn sync_callers_get_no_repeat_of_a_handler_that_began() {
        let mut options = Options {
            mode: Mode::Sync,
            priority: Priority::Normal,
            timeout_s: 1,
            retry: retry::Policy::default(),
            retry_explicit: false,
            trace: true,
            callback_url: None,
        };
        let raised = Failure::new(FailureCode::HandlerRaised, FailurePhase::Handler, "x");
        let early = Failure::new(FailureCode::InstanceCrashed, FailurePhase::Spawn, "x");
        assert!(options.again_after(&raised, 1).is_none());
        assert!(options.again_after(&early, 1).is_some());
        options.retry_explicit = true;
        assert!(options.again_after(&raised, 1).is_some());
        options.mode = Mode::Async;
        assert!(options.again_after(&raised, 4).is_none());
    }
}
