//! Runs executions: a seat, a call, its end recorded once, another attempt where the policy says so.

mod abandoned;
mod record;
mod refused;
mod seat;

use crate::{
    call::{self, Attempted, Calling},
    held::{Handle, Held},
    meter::Counts,
    pool::{Lease, Pool},
    spans,
    watch::Hub,
};
use abandoned::{TOO_OFTEN, close_lost};
use domain::{
    Error, Kind, Result, Timestamp,
    execution::{
        Attempt, Ending, Failure, FailureCode, FailurePhase, MOST_LOSSES, Outcome, Status,
    },
};
use proto::convert::{Execute, Reply};
pub use refused::outcome as refused_outcome;
use seat::Seat;
use serde_json::value::RawValue;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use store::{
    Store,
    executions::{End, Holder, Key, Start},
};
use tracing::Instrument;

/// A sync call that waits or runs longer than this is shown; shorter ones are written once, at their end.
pub const SHOWN_AFTER: Duration = Duration::from_millis(25);
/// How long the row of a sync call may come after its end: it is written beside the run.
const ROW_WITHIN: Duration = Duration::from_secs(5);

/// How long the end of an execution is held while the database is away.
const AWAY_WITHIN: Duration = Duration::from_secs(60);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// What is for others to do comes again after this; to one of them, if not here once more.
const HANDED_OVER: Duration = Duration::from_millis(100);

/// Runs for all versions of this node.
pub struct Runner {
    pub store: Store,
    pub hub: Arc<Hub>,
    pub held: Arc<Held>,
    pub holder: Holder,
    pub settings: call::Settings,
    pub counts: Counts,
}

/// What is to be done with the message that brought a durable execution.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Done,
    Again(Duration),
    /// Something of ours failed: again, later each time.
    Erred,
    /// Nobody will get further with it.
    Dead,
}

/// What is known of an execution before its next attempt.
struct Road {
    key: Key,
    attempt: u32,
    losses: u32,
    attempts: Vec<Attempt>,
}

pub fn key(execute: &Execute) -> Key {
    Key {
        account: execute.account.clone(),
        agent_id: execute.agent_id.clone(),
        id: execute.execution_id.clone(),
    }
}

impl Runner {
    /// A sync or streamed execution, until its recorded outcome.
    pub async fn attended(&self, pool: &Arc<Pool>, execute: &Execute) -> Reply {
        match self.try_attended(pool, execute).await {
            Ok(outcome) => Reply::Outcome(Box::new(outcome)),
            Err(error) => {
                if error.kind == Kind::Internal {
                    tracing::error!(execution.id = %execute.execution_id, error = ?error, "an execution could not be run");
                }
                Reply::Refused(error)
            }
        }
    }

    async fn try_attended(&self, pool: &Arc<Pool>, execute: &Execute) -> Result<Outcome> {
        let key = key(execute);
        let hold = self
            .held
            .hold(&key)
            .ok_or_else(|| Error::conflict("this execution is running already"))?;
        let patience = execute.accepted_at + execute.options.timeout();
        let mut road = Road {
            key,
            attempt: 1,
            losses: 0,
            attempts: Vec::new(),
        };
        if execute.losses > 0 && !self.look_again(execute, &mut road).await? {
            return Err(Error::conflict(
                "another executor has it, or it has its outcome",
            ));
        }
        let input = self.input(execute, &road.key).await?;
        let mut lay = execute.losses > 0;
        loop {
            let asked = Instant::now();
            let lease = match self.seat(pool, execute, &hold.handle, Some(patience)).await {
                Seat::Taken(lease) => lease,
                Seat::Cancelled => {
                    return self
                        .finish(
                            execute,
                            &road,
                            &hold,
                            cancelled_before_start(self.store.now()),
                        )
                        .await;
                }
                Seat::Never(failure) => {
                    match self.again(execute, &mut road, &failure) {
                        Some(wait) if self.store.now() + wait < patience => {
                            tokio::time::sleep(wait).await;
                        }
                        _ => {
                            return self
                                .finish(
                                    execute,
                                    &road,
                                    &hold,
                                    Attempted::unstarted(failure, self.store.now()),
                                )
                                .await;
                        }
                    }
                    lay = true;
                    continue;
                }
                Seat::Full => {
                    let message = "no instance was free within the execution's timeout";
                    return self
                        .refuse(execute, &road, hold, Error::new(Kind::Exhausted, message))
                        .await;
                }
                Seat::Closed => {
                    let message = "the version is no longer running here; try again";
                    return self
                        .refuse(execute, &road, hold, Error::unavailable(message))
                        .await;
                }
            };
            let attempted = self
                .call(lease, execute, &input, &hold.handle, &road, (asked, lay))
                .await;
            let failure = match &attempted.ending {
                Ending::Failed(failure) => failure.clone(),
                Ending::Completed(_) => return self.finish(execute, &road, &hold, attempted).await,
            };
            note(&mut road, &attempted, Some(failure.clone()), &self.holder);
            match execute.options.again_after(&failure, road.attempt) {
                Some(wait)
                    if self.store.now() + wait < patience && !hold.handle.cancel.is_cancelled() =>
                {
                    tokio::time::sleep(wait).await;
                    road.attempt += 1;
                    lay = true;
                }
                _ => {
                    road.attempts.pop();
                    return self.finish(execute, &road, &hold, attempted).await;
                }
            }
        }
    }

    /// Another try of a start that failed, where the policy has one left. No attempt is counted that never began.
    fn again(&self, execute: &Execute, road: &mut Road, failure: &Failure) -> Option<Duration> {
        road.losses += 1;
        execute.options.again_after(failure, road.losses)
    }

    /// A durable execution: one attempt, and what becomes of its message.
    pub async fn durable(&self, pool: &Arc<Pool>, execute: &Execute, redelivered: bool) -> Verdict {
        match self.try_durable(pool, execute, redelivered).await {
            Ok(verdict) => verdict,
            Err(error) => {
                // The row still says what is to be done; the message comes again.
                tracing::warn!(execution.id = %execute.execution_id, error = ?error, "an execution is put back");
                Verdict::Erred
            }
        }
    }

    async fn try_durable(
        &self,
        pool: &Arc<Pool>,
        execute: &Execute,
        redelivered: bool,
    ) -> Result<Verdict> {
        if pool.hands_over() {
            return Ok(Verdict::Again(HANDED_OVER));
        }
        let key = key(execute);
        let Some(hold) = self.held.hold(&key) else {
            return Ok(Verdict::Done);
        };
        let mut road = Road {
            key: key.clone(),
            attempt: 1,
            losses: 0,
            attempts: Vec::new(),
        };
        if redelivered && !self.look(&mut road).await? {
            return Ok(Verdict::Done);
        }
        let input = self.input(execute, &key).await?;
        let asked = Instant::now();
        let lease = match self.patient_seat(pool, execute, &hold.handle).await {
            Seat::Taken(lease) => lease,
            Seat::Cancelled => {
                self.finish(
                    execute,
                    &road,
                    &hold,
                    cancelled_before_start(self.store.now()),
                )
                .await?;
                return Ok(Verdict::Done);
            }
            Seat::Never(failure) => {
                self.finish(
                    execute,
                    &road,
                    &hold,
                    Attempted::unstarted(failure, self.store.now()),
                )
                .await?;
                return Ok(Verdict::Done);
            }
            Seat::Full | Seat::Closed => return Ok(Verdict::Again(Duration::from_secs(1))),
        };
        if !self.begin(&mut road).await? {
            return Ok(Verdict::Done);
        }
        let attempted = self
            .call(lease, execute, &input, &hold.handle, &road, (asked, true))
            .await;
        let failure = match &attempted.ending {
            Ending::Failed(failure) => failure.clone(),
            Ending::Completed(_) => {
                self.finish(execute, &road, &hold, attempted).await?;
                return Ok(Verdict::Done);
            }
        };
        let ours = self.settings.stop.is_cancelled() || pool.is_closed();
        if ours && failure.code == FailureCode::InstanceCrashed {
            // Ended by our own leaving or letting go: the row still says running, and whoever gets or sweeps it goes on.
            return Ok(Verdict::Again(Duration::ZERO));
        }
        let failed = road.attempt.saturating_sub(road.losses);
        let Some(wait) = execute.options.again_after(&failure, failed) else {
            self.finish(execute, &road, &hold, attempted).await?;
            return Ok(Verdict::Done);
        };
        note(&mut road, &attempted, Some(failure), &self.holder);
        self.put_back(&road, &attempted, wait).await?;
        Ok(Verdict::Again(wait))
    }

    /// Takes the attempt: `false` where another has it, or there is none left to take.
    async fn begin(&self, road: &mut Road) -> Result<bool> {
        if self.start(road).await? {
            return Ok(true);
        }
        Ok(self.look(road).await? && self.start(road).await?)
    }

    async fn start(&self, road: &Road) -> Result<bool> {
        let start = Start {
            key: road.key.clone(),
            attempt: road.attempt,
            at: self.store.now(),
            holder: self.holder.clone(),
        };
        self.store.start_execution(start).await
    }

    /// Reads where the execution is. `false`: nothing is left to do here.
    async fn look(&self, road: &mut Road) -> Result<bool> {
        let Some(row) = self.store.execution(&road.key).await? else {
            return Ok(false);
        };
        let lost =
            row.status == Status::Running && row.boot_id.as_ref() != Some(&self.holder.boot_id);
        if row.status.is_terminal() || (row.status == Status::Running && !lost) {
            return Ok(false);
        }
        if lost && row.losses >= MOST_LOSSES {
            self.give_up(&row, TOO_OFTEN).await?;
            return Ok(false);
        }
        (road.attempt, road.losses, road.attempts) = (row.attempt + 1, row.losses, row.attempts);
        if lost {
            close_lost(
                &mut road.attempts,
                row.attempt,
                row.started_at,
                self.store.now(),
            );
            road.losses += 1;
            return self
                .store
                .lose_execution(&road.key, row.attempt, &road.attempts, self.store.now())
                .await;
        }
        Ok(true)
    }

    /// Another executor may have had it, for too short a time to leave a row.
    async fn look_again(&self, execute: &Execute, road: &mut Road) -> Result<bool> {
        let unseen = !execute.has_row && self.store.execution(&road.key).await?.is_none();
        Ok(unseen || self.look(road).await?)
    }

    async fn input(&self, execute: &Execute, key: &Key) -> Result<Box<RawValue>> {
        if let Some(input) = &execute.input {
            return Ok(input.clone());
        }
        let deadline = tokio::time::Instant::now() + ROW_WITHIN;
        loop {
            if let Some(input) = self.store.execution_input(key).await? {
                return Ok(input);
            }
            if tokio::time::Instant::now() > deadline {
                return Err(Error::unavailable(
                    "the execution's row did not come in time",
                ));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn call(
        &self,
        lease: Lease,
        execute: &Execute,
        input: &RawValue,
        handle: &Handle,
        road: &Road,
        (asked, lay): (Instant, bool),
    ) -> Attempted {
        let calling = Calling {
            execute,
            input,
            key: &road.key,
            attempt: road.attempt,
            handle,
            asked,
            lay,
            show_running: !execute.options.mode.is_durable(),
        };
        let span = spans::attempt(&lease.pool().version, execute, road.attempt);
        let attempted = call::run(self, lease, calling)
            .instrument(span.clone())
            .await;
        spans::attempted(&span, &attempted);
        self.counts.attempted(&attempted);
        attempted
    }

    async fn put_back(&self, road: &Road, attempted: &Attempted, wait: Duration) -> Result<()> {
        let end = End {
            key: road.key.clone(),
            attempt: road.attempt,
            status: Status::Queued,
            due_at: self.store.now() + wait,
            started_at: attempted.started_at,
            completed_at: None,
            attempts: road.attempts.clone(),
            instance_id: attempted.instance_id.clone(),
            output: None,
            error: None,
            duration_ms: attempted.duration_ms,
            queue_ms: 0.0,
            waterfall: None,
            recording: None,
            usage: attempted.usage.clone(),
        };
        patiently(|| self.store.end_execution(end.clone()))
            .await
            .map(|_| ())
    }
}

/// Again while the database is away, for a bounded time: whoever holds an execution's end is the only one who knows it.
async fn patiently<T, F: Future<Output = Result<T>>>(write: impl Fn() -> F) -> Result<T> {
    let deadline = tokio::time::Instant::now() + AWAY_WITHIN;
    let mut wait = BACKOFF.0;
    loop {
        match write().await {
            Err(error)
                if error.kind.is_passing() && tokio::time::Instant::now() + wait < deadline =>
            {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(BACKOFF.1);
            }
            done => return done,
        }
    }
}

fn note(road: &mut Road, attempted: &Attempted, error: Option<Failure>, holder: &Holder) {
    let Some(started_at) = attempted.started_at else {
        return;
    };
    road.attempts.push(Attempt {
        attempt: road.attempt,
        started_at,
        completed_at: Some(attempted.completed_at),
        node_id: Some(holder.node_id.clone()),
        instance_id: attempted.instance_id.clone(),
        error,
    });
}

fn cancelled_before_start(at: Timestamp) -> Attempted {
    let failure = Failure::new(
        FailureCode::Cancelled,
        FailurePhase::Spawn,
        "cancelled before it started",
    );
    Attempted::unstarted(failure, at)
}
