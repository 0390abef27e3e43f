//! POST /agents/{id}/execute: the hot path. The row is written beside the run, not before it.

use super::{
    background,
    dispatch::{Dispatched, Way, dispatch, key},
    document::ExecutionResult,
    repeat,
    request::{self, Asked, ExecuteRequest},
    status_url, stream,
};
use crate::{
    app::App,
    body, door,
    door::Who,
    error::{Answer, Refusal},
    known::Chosen,
    limits::{Admitted, Subject},
    params::Path,
    respond, sse,
};
use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use domain::{
    Error, Kind, Result, Timestamp,
    execution::{Failure, FailureCode, FailurePhase, Mode, Options, Outcome, Status, Usage},
    id::{AgentId, ExecutionId},
    limit::Cost,
    trace::Traceparent,
    traffic::draw,
    waterfall::Waterfall,
};
use proto::convert::{Execute, INLINE_BYTES, Reply};
use serde::Serialize;
use serde_json::value::RawValue;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use store::executions::{End, Key, New, Withdraw};
use utoipa::ToSchema;
use uuid::Uuid;

/// What a sync caller waits beyond its execution's own times: to be stopped, and for the answer to travel.
const MARGIN: Duration = Duration::from_secs(15);

/// One accepted execution on its way: the command to send and, where its row is ours to write, the rest of the row.
pub struct Call {
    pub way: Way,
    pub version: String,
    pub body_digest: Option<String>,
    pub admitted: Admitted,
    /// What does not travel.
    input: Option<Box<RawValue>>,
}

impl Call {
    pub fn key(&self) -> Key {
        key(&self.way.execute)
    }

    pub fn options(&self) -> &Options {
        &self.way.execute.options
    }

    /// Inputs that do not travel are read from the row, so the row must be there first; and a caller's own id may be taken.
    fn row_first(&self) -> bool {
        self.body_digest.is_some() || self.way.execute.input.is_none()
    }

    pub fn row(&mut self) -> Result<New> {
        let input = match self.input.take() {
            Some(input) => Some(input),
            None => self.way.execute.input.clone(),
        };
        let input = input.ok_or_else(|| Error::internal("an execution's input is gone"))?;
        Ok(row(&self.way.execute, self.body_digest.clone(), input))
    }
}

fn row(execute: &Execute, body_digest: Option<String>, input: Box<RawValue>) -> New {
    New {
        key: key(execute),
        version_id: execute.version_id.clone(),
        mode: execute.options.mode,
        priority: execute.options.priority,
        body_digest,
        caller: execute.caller.clone(),
        options: execute.options.clone(),
        input,
        accepted_at: execute.accepted_at,
    }
}

pub fn wait_for(options: &Options) -> Duration {
    let attempts = if options.retry_explicit {
        options.retry.max_retries + 1
    } else {
        1
    };
    let waits: Duration = (1..=options.retry.max_retries)
        .filter_map(|failed| options.retry.next(failed))
        .sum();
    // An executor keeps it waiting for a seat for as long as it may run.
    options.timeout() * (1 + attempts) + waits + MARGIN
}

/// Execute an agent
///
/// Waits for the outcome; with `execution_options.async` answers at once; with `Accept: text/event-stream` gives events
/// `chunk`, `log`, `progress` and at last `result`, resumable by the same execution_id and `Last-Event-ID`. An agent that
/// fails is an outcome (200 with `status`), not an error of this API.
#[utoipa::path(post, path = "/api/v1/agents/{agent_id}/execute", operation_id = "execute_agent", tag = "executions",
    params(("agent_id" = String, Path), ("Last-Event-ID" = Option<u64>, Header, description = "The last event that came, to go on after it")),
    request_body = ExecuteRequest,
    responses((status = 200, description = "The outcome, or for an async execution where to find it",
            content((ExecutionAnswer = "application/json"), (sse::ServerSentEvent = "text/event-stream"))),
        (status = 409, description = "The execution_id is known with another body, or nothing of the agent answers (`CONFLICT`)"),
        (status = 429, description = "Every slot and every place in the queue is taken (`CAPACITY_EXHAUSTED`, with `Retry-After`), or a \
            limit of the key or of the agent (`RATE_LIMITED`, with `Retry-After`, `RateLimit-Policy` and `RateLimit`). Where nothing was streamed, it was not accepted: no execution is kept, and the same execution_id can be tried again"),
        (status = 503, description = "Nothing can run it right now (`UNAVAILABLE`, with `Retry-After`); it was not accepted, as with 429"),
        (status = 504, description = "No outcome in time; the execution may still go on (`TIMEOUT`)")))]
pub async fn execute(
    State(app): State<App>,
    who: Who,
    Path(agent_id): Path<String>,
    request: Request,
) -> Answer<Response> {
    let (accepted_at, begun) = (app.store.now(), Instant::now());
    let agent_id = door::reach(&app, &who, &agent_id).await?;
    let streamed = sse::wanted(request.headers());
    let after = sse::last_event_id(request.headers())?;
    let bytes = body::read(request, app.config.max_execute_body_bytes).await?;
    let asked = request::read(&bytes, &who, &app.config.webhooks)?;
    drop(bytes);
    let mode = match (asked.in_background, streamed) {
        (true, true) => {
            return Err(Error::fault(
                "execution_options.async",
                "is true; allowed is false where events are accepted",
            )
            .into());
        }
        (true, false) => Mode::Async,
        (false, true) => Mode::Stream,
        (false, false) => Mode::Sync,
    };
    let known_as = asked.known_as.clone();
    let call = match call(&app, &who, &agent_id, asked, (mode, accepted_at, begun)).await {
        Ok(call) => call,
        // Nothing answers (any more), but what the caller asks again for may have been done before.
        Err(refusal) => {
            let Some((id, digest)) = known_as else {
                return Err(refusal);
            };
            let key = Key {
                account: who.key.account.clone(),
                agent_id,
                id,
            };
            if app.store.execution(&key).await?.is_none() {
                return Err(refusal);
            }
            return Box::pin(repeat::repeat(&app, key, &digest, mode, after)).await;
        }
    };
    let admitted = call.admitted.clone();
    // Each needs room for its own: boxed, no mode pays for the others.
    let answer = match mode {
        Mode::Sync => Box::pin(sync(&app, call)).await,
        Mode::Async => Box::pin(background::accept(&app, call)).await,
        Mode::Stream => Box::pin(stream::begin(&app, call, after)).await,
    };
    // What was refused was not accepted, and what we lost is on us; a call that is waited for too long goes on.
    if answer
        .as_ref()
        .is_err_and(|refusal| refusal.kind() != Kind::Timeout)
    {
        admitted.put_back();
    }
    let mut response = answer.into_response();
    admitted.tell(&app.limits, response.headers_mut());
    Ok(response)
}

async fn call(
    app: &App,
    who: &Who,
    agent_id: &AgentId,
    asked: Asked,
    (mode, accepted_at, begun): (Mode, Timestamp, Instant),
) -> Answer<Call> {
    let account = &who.key.account;
    let agent = app.agents.get(&app.store, account, agent_id).await?;
    let uuid = Uuid::now_v7();
    let sticky = asked
        .caller
        .session_id
        .as_deref()
        .or(asked.caller.user_id.as_deref());
    let chance = (uuid.as_u128() & u128::from(u64::MAX)) as u64;
    let Chosen {
        version_id,
        version,
        timeout_s,
        hosts,
    } = agent.pick(agent_id, sticky.map_or(chance, draw))?;
    let limited = [
        (Subject::of_key(&who.key), Cost::EXECUTION),
        (Subject::of_agent(account, &agent), Cost::BOTH),
    ];
    let admitted = Admitted::by(&app.limits, &app.store, limited).await?;
    let (id, body_digest) = match asked.known_as {
        Some((id, digest)) => (id, Some(digest)),
        None => (ExecutionId::from_uuid(uuid), None),
    };
    let options = Options {
        mode,
        priority: asked.priority,
        timeout_s: asked.timeout_s.unwrap_or(timeout_s),
        retry: asked.retry,
        retry_explicit: asked.retry_explicit,
        trace: asked.trace,
        callback_url: asked.callback_url,
    };
    let mut caller = asked.caller;
    caller.begin_trace(asked.trace, || Traceparent {
        trace: Uuid::new_v4().as_u128(),
        span: chance | 1,
        sampled: true,
    });
    let travels = asked.input.get().len() <= INLINE_BYTES;
    let (sent, kept) = if travels {
        (Some(asked.input), None)
    } else {
        (None, Some(asked.input))
    };
    // Whoever dies meanwhile: what is owed is in the row.
    let tells = options.callback_url.is_some();
    let way = Way {
        deadline: wait_for(&options),
        begun,
        hosts: Arc::clone(hosts),
        chance,
        execute: Execute {
            account: account.clone(),
            agent_id: agent_id.clone(),
            version_id: version_id.clone(),
            execution_id: id,
            options,
            caller,
            input: sent,
            accepted_at,
            losses: 0,
            // Else its executor writes the row, once: nobody knows its made id before it lasts.
            has_row: mode != Mode::Sync || body_digest.is_some() || !travels || tells,
            sent: None,
        },
    };
    Ok(Call {
        way,
        version: version.to_string(),
        body_digest,
        admitted,
        input: kept,
    })
}

/// What came of writing the row and sending the command.
pub enum Sent {
    Dispatched(Dispatched),
    /// The id is taken by this digest or another.
    Taken(Key, String),
}

/// Writes the row, if it is ours, and sends the command: side by side where that can be, the row handed in first.
pub async fn send(app: &App, call: &mut Call) -> Answer<Sent> {
    if !call.way.execute.has_row {
        return Ok(Sent::Dispatched(dispatch(app, &mut call.way).await));
    }
    let insert = app.store.insert_execution(call.row()?);
    if call.row_first() {
        if !insert.await? {
            call.admitted.put_back();
            let digest = call.body_digest.clone().unwrap_or_default();
            return Ok(Sent::Taken(call.key(), digest));
        }
        return Ok(Sent::Dispatched(dispatch(app, &mut call.way).await));
    }
    let (inserted, dispatched) = tokio::join!(biased; insert, dispatch(app, &mut call.way));
    if !inserted? {
        return Err(Error::internal("a made execution id was taken").into());
    }
    Ok(Sent::Dispatched(dispatched))
}

async fn sync(app: &App, mut call: Call) -> Answer<Response> {
    let sent = send(app, &mut call).await?;
    let (execute, waited) = (&call.way.execute, call.way.deadline);
    let reply = match sent {
        Sent::Dispatched(Dispatched::Replied(reply)) => reply,
        Sent::Dispatched(Dispatched::Untaken(error)) => {
            withdraw(app, execute).await;
            return Err(error.into());
        }
        Sent::Dispatched(Dispatched::Lost(error)) => {
            return Err(lost(app, execute, error).await);
        }
        Sent::Dispatched(Dispatched::Recorded) => {
            return repeat::recorded(app, execute, waited).await;
        }
        Sent::Taken(key, digest) => {
            return repeat::repeat(app, key, &digest, Mode::Sync, None).await;
        }
    };
    let outcome = match reply {
        Ok(Reply::Outcome(outcome)) => outcome,
        Ok(Reply::OutcomeByReference(outcome)) => with_output(app, &key(execute), outcome).await?,
        Ok(other) => return Err(unexpected(app, &key(execute), other)),
        Err(error) => return Err(unanswered(app, execute, waited, error).await),
    };
    Ok(respond::ok(&ExecutionResult::of(
        execute.execution_id.as_str(),
        Some(&call.version),
        &outcome,
    )))
}

/// Output and log lines stayed in their rows, which are complete before the answer is sent.
pub async fn with_output(app: &App, key: &Key, mut outcome: Box<Outcome>) -> Answer<Box<Outcome>> {
    let row = app.store.execution(key).await?;
    let row =
        row.ok_or_else(|| Error::internal("an execution has no row to read its output from"))?;
    outcome.output = row.output;
    outcome.logs = repeat::lines(app, key).await?;
    Ok(outcome)
}

/// There is no outcome; whoever refused has ended the row.
pub fn unexpected(app: &App, key: &Key, reply: Reply) -> Refusal {
    match reply {
        Reply::Refused(error) => error.into(),
        Reply::Outcome(_)
        | Reply::OutcomeByReference(_)
        | Reply::Accepted { .. }
        | Reply::Cancelled(_) => {
            let message = format!(
                "the executor's answer does not fit; read the outcome at {}",
                status_url(app, key)
            );
            Error::internal(message).into()
        }
    }
}

/// Nobody took it, so it was never accepted: the same id can be tried again.
async fn withdraw(app: &App, execute: &Execute) {
    let withdraw = Withdraw {
        key: key(execute),
        accepted_at: execute.accepted_at,
    };
    if let Err(error) = app.store.withdraw_execution(withdraw).await {
        tracing::warn!(execution.id = %execute.execution_id, error = ?error, "an execution that nobody took keeps its row; a sweep ends it");
    }
}

/// The bus has no answer. Where nobody can have begun it, nobody else will end the row.
pub async fn unanswered(app: &App, execute: &Execute, waited: Duration, error: Error) -> Refusal {
    if error.kind == Kind::Timeout {
        let message = format!(
            "no outcome within {} s; the execution may still go on, read it at {}",
            waited.as_secs(),
            status_url(app, &key(execute))
        );
        return Error::new(Kind::Timeout, message).because(error).into();
    }
    lost(app, execute, error).await
}

/// Whoever had it will not end it: its end is that it was lost, and the caller may try again.
pub async fn lost(app: &App, execute: &Execute, error: Error) -> Refusal {
    let now = app.store.now();
    let key = key(execute);
    let begun = app.store.execution(&key).await.ok().flatten();
    let waited = now.since(execute.accepted_at);
    let end = End {
        key: key.clone(),
        attempt: begun.as_ref().map_or(0, |row| row.attempt),
        status: Status::Failed,
        due_at: now,
        started_at: begun.as_ref().and_then(|row| row.started_at),
        completed_at: Some(now),
        attempts: begun.map(|row| row.attempts).unwrap_or_default(),
        instance_id: None,
        output: None,
        error: Some(Failure::new(
            FailureCode::InstanceCrashed,
            FailurePhase::Spawn,
            error.message.clone(),
        )),
        duration_ms: 0.0,
        queue_ms: waited.as_secs_f64() * 1000.0,
        waterfall: Some(Waterfall::coarse(waited, Duration::ZERO)),
        recording: None,
        usage: Usage::default(),
    };
    let new = match &execute.input {
        Some(input) if !execute.has_row => Some(row(execute, None, input.clone())),
        _ => None,
    };
    let ended = match new {
        Some(new) => app.store.record_execution(new, end).await,
        None => app.store.end_execution(end).await,
    };
    if let Err(error) = ended {
        tracing::warn!(execution.id = %key.id, error = ?error, "an execution that nobody holds was not ended; a sweep ends it");
    }
    error.into()
}

/// The documents of a 200: the outcome, or for an async execution where to find it.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, clippy::large_enum_variant, reason = "a schema")]
enum ExecutionAnswer {
    Outcome(ExecutionResult<'static>),
    Accepted(background::QueuedExecution),
}
