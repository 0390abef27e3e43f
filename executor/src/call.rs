//! One attempt on one instance: sent, listened to, stopped when it must be.
//!
//! Stopping is real: a timed-out or cancelled call is interrupted; an instance that then has nothing else to do, or that does
//! not stop, is killed with everything in it. Other calls of the same instance may finish first.

use crate::{
    frame::{self, CallBody, Spent},
    held::Handle,
    instance::Instance,
    link::{Call, Ended, Event, Gone},
    pool::Lease,
    run::{Runner, SHOWN_AFTER},
};
use domain::{
    Timestamp,
    execution::{Ending, Failure, FailureCode, FailurePhase, Mode, Usage},
    id::InstanceId,
    log::{Bounds, Level, Line},
    waterfall::{Before, Waterfall},
};
use proto::{convert::Execute, v1::watch_event};
use serde_json::value::RawValue;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use store::{
    executions::{Key, Progress},
    logs::Entry,
};
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Log lines of a long call are kept in between as well.
const KEEP_LOGS_EVERY: Duration = Duration::from_millis(500);
const KEEP_PROGRESS_EVERY: Duration = Duration::from_millis(500);

#[derive(Clone)]
pub struct Settings {
    pub logs: Bounds,
    pub stop_within: Duration,
    pub tasks: TaskTracker,
    /// Cancelled when this executor leaves: what ends then ends by our hand.
    pub stop: CancellationToken,
}

pub struct Calling<'a> {
    pub execute: &'a Execute,
    pub input: &'a RawValue,
    pub key: &'a Key,
    pub attempt: u32,
    pub handle: &'a Handle,
    /// When its seat was asked for, and whether it was worked on before that.
    pub asked: Instant,
    pub lay: bool,
    /// The row says running only when it lasts: it is written beside the run.
    pub show_running: bool,
}

/// How an attempt ended and what it used.
pub struct Attempted {
    pub ending: Ending,
    pub started_at: Option<Timestamp>,
    pub completed_at: Timestamp,
    pub duration_ms: f64,
    /// Up to the handler's end; `None` where none began.
    pub waterfall: Option<Waterfall>,
    /// The handler's end.
    pub ended: Instant,
    pub usage: Usage,
    pub instance_id: Option<InstanceId>,
    pub lines: Vec<Line>,
    pub stopping: Stopping,
}

/// Work that is still being stopped after its end was decided.
#[derive(Default)]
pub struct Stopping(Option<oneshot::Receiver<()>>, bool);

impl Stopping {
    /// A cancel is answered when the work has stopped; a timeout is answered at once.
    pub async fn await_stopped(self) {
        if let (Some(stopped), true) = (self.0, self.1) {
            // A dropped sender: the stopping task has ended, one way or the other.
            stopped.await.ok();
        }
    }
}

impl Attempted {
    pub fn unstarted(failure: Failure, at: Timestamp) -> Self {
        Self {
            ending: Ending::Failed(failure),
            started_at: None,
            completed_at: at,
            duration_ms: 0.0,
            waterfall: None,
            ended: Instant::now(),
            usage: Usage::default(),
            instance_id: None,
            lines: Vec::new(),
            stopping: Stopping::default(),
        }
    }
}

enum Outside {
    Ended(Ended),
    Gone,
    Timeout,
    Cancelled,
}

impl Outside {
    fn reason_to_stop(&self) -> Option<&'static str> {
        match self {
            Self::Timeout => Some("timeout"),
            Self::Cancelled => Some("cancelled"),
            Self::Ended(_) | Self::Gone => None,
        }
    }
}

pub async fn run(runner: &Runner, lease: Lease, calling: Calling<'_>) -> Attempted {
    let (started_at, clock) = (runner.store.now(), Instant::now());
    let instance = Arc::clone(&lease.instance);
    let before = before(runner, &instance, &calling, clock);
    let timeout = calling.execute.options.timeout();
    let mut journal = Journal::new(runner, &calling);
    let mut lease = lease;
    let mut last_words = None;
    let outside = match send(&instance, &calling, started_at + timeout) {
        Ok(mut call) => {
            let outside = listen(
                runner,
                &mut call,
                &calling,
                &mut journal,
                timeout,
                started_at,
            )
            .await;
            if let Some(reason) = outside.reason_to_stop() {
                // Nothing new may land on an instance that is about to be killed.
                if matches!(outside, Outside::Cancelled) && lease.pool().is_alone(&instance) {
                    lease.quarantine();
                }
                last_words = interrupt(runner, &instance, &mut call, &mut journal, reason).await;
            }
            outside
        }
        Err(Gone) => Outside::Gone,
    };
    let duration_ms = clock.elapsed().as_secs_f64() * 1000.0;
    let mut stopping = Stopping::default();
    let (ending, spent) = match outside {
        Outside::Ended(Ended::Result(done)) => (Ending::Completed(done.output), done.spent),
        Outside::Ended(Ended::Error(failure, spent)) => (Ending::Failed(failure), spent),
        Outside::Gone => (
            Ending::Failed(instance.why_gone(FailurePhase::Handler).await),
            Spent::default(),
        ),
        Outside::Timeout => {
            let message = format!(
                "the handler did not end within its {} s",
                calling.execute.options.timeout_s
            );
            stopping = stop(runner, lease, last_words.is_some(), false);
            (
                failed(FailureCode::HandlerTimeout, message),
                last_words.unwrap_or_default(),
            )
        }
        Outside::Cancelled => {
            stopping = stop(runner, lease, last_words.is_some(), true);
            (
                failed(FailureCode::Cancelled, "cancelled while it ran"),
                last_words.unwrap_or_default(),
            )
        }
    };
    let duration_ms = spent
        .handler_ms
        .filter(|claimed| *claimed <= duration_ms)
        .unwrap_or(duration_ms);
    let handler = Duration::try_from_secs_f64(duration_ms / 1000.0).unwrap_or_default();
    let attempted = Attempted {
        ending,
        started_at: Some(started_at),
        completed_at: runner.store.now(),
        duration_ms,
        waterfall: Some(Waterfall {
            handler,
            ..Waterfall::of(&before)
        }),
        ended: clock + handler,
        usage: spent.usage,
        instance_id: Some(instance.id.clone()),
        lines: Vec::new(),
        stopping,
    };
    journal.close(attempted).await
}

fn before(runner: &Runner, instance: &Instance, calling: &Calling<'_>, now: Instant) -> Before {
    let execute = calling.execute;
    let sent = execute.sent.unwrap_or_default();
    let accepted_us = match execute.sent {
        Some(sent) => sent.at_us - i64::try_from(sent.gateway.as_micros()).unwrap_or(0),
        None => execute.accepted_at.as_millis().saturating_mul(1000),
    };
    let all_us = u64::try_from(runner.store.now_us().saturating_sub(accepted_us)).unwrap_or(0);
    Before {
        gateway: sent.gateway,
        all: Duration::from_micros(all_us),
        waited: now.duration_since(calling.asked),
        start: instance.birth.within(calling.asked, now),
        lay: calling.lay,
    }
}

fn failed(code: FailureCode, message: impl Into<String>) -> Ending {
    Ending::Failed(Failure::new(code, FailurePhase::Handler, message))
}

fn send(instance: &Instance, calling: &Calling<'_>, deadline: Timestamp) -> Result<Call, Gone> {
    let execute = calling.execute;
    let caller = &execute.caller;
    let own = proto::trace::context(&tracing::Span::current());
    let (traceparent, tracestate) = match &own {
        Some(own) => (Some(own.parent), own.state.as_deref()),
        None => (caller.traceparent, caller.tracestate.as_deref()),
    };
    let body = CallBody {
        execution_id: execute.execution_id.as_str(),
        attempt: calling.attempt,
        deadline_ms: deadline.as_millis(),
        stream: execute.options.mode == Mode::Stream,
        context: frame::Context {
            user_id: caller.user_id.as_deref(),
            session_id: caller.session_id.as_deref(),
            request_id: caller.request_id.as_deref(),
            metadata: &caller.metadata,
            traceparent,
            tracestate,
        },
        input: calling.input,
    };
    let id = instance.link.number();
    let frame = frame::call(id, &body).map_err(|_| Gone)?;
    instance.link.call(id, frame)
}

async fn listen(
    runner: &Runner,
    call: &mut Call,
    calling: &Calling<'_>,
    journal: &mut Journal<'_>,
    timeout: Duration,
    started_at: Timestamp,
) -> Outside {
    let late = tokio::time::sleep(timeout);
    tokio::pin!(late);
    let lasts = tokio::time::sleep(SHOWN_AFTER);
    tokio::pin!(lasts);
    let mut shown = !calling.show_running;
    let mut open = true;
    let outside = loop {
        tokio::select! {
            biased;
            ended = &mut call.ended => break ended.map_or(Outside::Gone, Outside::Ended),
            // Before what it says: a flood of words must not hold its end up.
            () = calling.handle.cancel.cancelled() => break Outside::Cancelled,
            () = &mut late => break Outside::Timeout,
            event = call.events.recv(), if open => match event {
                Some(event) => journal.take(event).await,
                None => open = false,
            },
            () = &mut lasts, if !shown => {
                shown = true;
                runner.show_running(calling.execute, calling.attempt, started_at).await;
            }
            () = journal.due() => journal.keep().await,
            () = calling.handle.asked_to_keep() => {
                journal.keep().await;
                calling.handle.tell_kept();
            }
        }
    };
    if matches!(outside, Outside::Ended(_) | Outside::Gone) {
        journal.take_rest(call).await;
    }
    outside
}

/// Tells a call to stop and hears what it says meanwhile: what it used, where the worker said that it is over.
async fn interrupt(
    runner: &Runner,
    instance: &Instance,
    call: &mut Call,
    journal: &mut Journal<'_>,
    reason: &'static str,
) -> Option<Spent> {
    let told = frame::cancel(call.id, reason).is_ok_and(|frame| instance.link.send(frame).is_ok());
    let late = tokio::time::sleep(runner.settings.stop_within);
    tokio::pin!(late);
    let mut open = true;
    let ended = loop {
        if !told {
            break None;
        }
        tokio::select! {
            biased;
            ended = &mut call.ended => break ended.ok(),
            () = &mut late => break None,
            event = call.events.recv(), if open => match event {
                Some(event) => journal.take(event).await,
                None => open = false,
            },
        }
    };
    instance.link.forget(call.id);
    journal.take_rest(call).await;
    ended.map(|ended| match ended {
        Ended::Result(done) => done.spent,
        Ended::Error(_, spent) => spent,
    })
}

/// Sees to the end of a call that was told to stop; the lease is given back when nothing of it runs any more.
fn stop(runner: &Runner, mut lease: Lease, obeyed: bool, cancelled: bool) -> Stopping {
    let (stopped, tell) = oneshot::channel();
    runner.settings.tasks.spawn(async move {
        let instance = Arc::clone(&lease.instance);
        let alone = lease.pool().is_alone(&instance);
        let doubtful = !obeyed || instance.has_strays();
        if doubtful || (cancelled && alone) {
            lease.quarantine();
            if alone {
                instance.kill().await;
            } else if doubtful {
                // Others still work in there; it ends with the last of them.
                drop(lease);
                instance.exited().await;
            }
        }
        // The receiver waits only for a cancel.
        stopped.send(()).ok();
    });
    Stopping(Some(tell), cancelled)
}

/// What a call says on its way: bounded, shown to who watches, and kept.
struct Journal<'a> {
    runner: &'a Runner,
    key: &'a Key,
    attempt: u32,
    stream: bool,
    lines: Vec<Line>,
    bytes: usize,
    kept: usize,
    dropped: u64,
    next_keep: Option<tokio::time::Instant>,
    progress_at: Option<Instant>,
}

impl<'a> Journal<'a> {
    fn new(runner: &'a Runner, calling: &Calling<'a>) -> Self {
        Self {
            runner,
            key: calling.key,
            attempt: calling.attempt,
            stream: calling.execute.options.mode == Mode::Stream,
            lines: Vec::new(),
            bytes: 0,
            kept: 0,
            dropped: 0,
            next_keep: None,
            progress_at: None,
        }
    }

    /// Everything that a call said lies here before its end does. Bounded: what is said after that is not heard.
    async fn take_rest(&mut self, call: &mut Call) {
        call.events.close();
        while let Ok(event) = call.events.try_recv() {
            self.take(event).await;
        }
    }

    async fn take(&mut self, event: Event) {
        match event {
            Event::Log(lines) => self.log(lines),
            Event::Chunk(data) if self.stream => self
                .runner
                .hub
                .push(self.key, watch_event::Event::Chunk(data)),
            Event::Chunk(_) => {}
            Event::Progress(percent) => self.progress(percent).await,
        }
    }

    fn log(&mut self, mut lines: Vec<Line>) {
        let bounds = self.runner.settings.logs;
        let offered = lines.len();
        let now = self.runner.store.now();
        lines.retain_mut(|line| {
            line.heard(now);
            let size = line.bytes();
            let fits = self.lines.len() < bounds.lines as usize
                && self.bytes + size <= bounds.bytes as usize + bounds.line_bytes as usize;
            if fits {
                self.bytes += size;
            }
            fits
        });
        lines.truncate((bounds.lines as usize).saturating_sub(self.lines.len()));
        self.dropped += (offered - lines.len()) as u64;
        if lines.is_empty() {
            return;
        }
        let first = self.place(self.lines.len());
        self.runner.hub.log(
            &self.key.account,
            &self.key.agent_id,
            Some((&self.key.id, first)),
            &lines,
        );
        self.lines.append(&mut lines);
        self.next_keep
            .get_or_insert_with(|| tokio::time::Instant::now() + KEEP_LOGS_EVERY);
    }

    async fn progress(&mut self, percent: f64) {
        self.runner
            .hub
            .push(self.key, watch_event::Event::Progress(percent));
        if self
            .progress_at
            .is_some_and(|at| at.elapsed() < KEEP_PROGRESS_EVERY)
            && percent < 100.0
        {
            return;
        }
        self.progress_at = Some(Instant::now());
        let progress = Progress {
            key: self.key.clone(),
            attempt: self.attempt,
            percent,
        };
        if let Err(error) = self.runner.store.note_progress(progress).await {
            tracing::warn!(error = ?error, "progress was not kept");
        }
    }

    /// Of the n-th line in the execution's log: attempts follow each other.
    fn place(&self, n: usize) -> i64 {
        (i64::from(self.attempt) << 32) + i64::try_from(n).unwrap_or(0)
    }

    /// When lines are to be kept; never, while there are none.
    async fn due(&self) {
        match self.next_keep {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    async fn keep(&mut self) {
        self.next_keep = None;
        let entry = |(at, line): (usize, &Line)| Entry {
            account: self.key.account.clone(),
            agent_id: self.key.agent_id.clone(),
            execution_id: Some(self.key.id.clone()),
            seq: self.place(at),
            line: line.clone(),
        };
        let entries: Vec<Entry> = self
            .lines
            .iter()
            .enumerate()
            .skip(self.kept)
            .map(entry)
            .collect();
        self.kept = self.lines.len();
        if let Err(error) = self.runner.store.append_logs(entries).await {
            tracing::warn!(execution.id = %self.key.id, error = ?error, "log lines were not kept");
        }
    }

    /// Says what was dropped, keeps the rest, and gives the lines to the attempt.
    async fn close(mut self, mut attempted: Attempted) -> Attempted {
        attempted.usage.logs_dropped += self.dropped;
        let dropped = attempted.usage.logs_dropped;
        if dropped > 0 {
            let message =
                format!("{dropped} log lines were dropped: over what one execution may write");
            self.lines.push(Line {
                timestamp: attempted.completed_at,
                level: Level::Warn,
                message,
                context: None,
            });
        }
        if self.kept < self.lines.len() {
            self.keep().await;
        }
        attempted.lines = std::mem::take(&mut self.lines);
        attempted
    }
}
