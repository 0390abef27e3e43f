//! One agent at a time: observe, decide, act, record; and again, until nothing of it is unfinished.

use crate::{
    Config, Deps,
    meter::Meter,
    nodes::{Eyes, Means},
    phases::{self, Job},
    record::{Record, Recorded},
    spans::{self, Traced, Traces},
};
use domain::{
    Error, Kind, Result, Timestamp,
    deployment::{Input, Phase, PhaseStatus, Seen, State, Status, Step, decide},
    id::DeploymentId,
    rollout::{Orders, Undo},
    trace::Context,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use store::deployments::Deployment;
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::Instant,
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tracing::Instrument;

/// Log lines of a running phase are recorded at most so often.
const RECORD_EVERY: Duration = Duration::from_millis(250);
/// A deployment that a newer one overtakes notices within this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A row is touched at least so often while it is driven.
const TOUCH_EVERY: Duration = Duration::from_secs(3);
/// Between two tries of a phase that an executor or the database was away for.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));

#[derive(Clone)]
pub(crate) struct Driver(Arc<Inner>);

struct Inner {
    config: Config,
    deps: Deps,
    eyes: Eyes,
    /// Agents that are driven here; a receiver learns of the end.
    driven: Mutex<HashMap<String, watch::Receiver<()>>>,
    slots: Semaphore,
    stop: CancellationToken,
    tasks: TaskTracker,
    traces: Traces,
    meter: Meter,
}

/// How the drive of one deployment ended.
enum Left {
    Finished,
    /// Another process has it, or this one stops.
    Away,
}

/// How the run of one phase ended.
enum Ran {
    Done(Result<()>),
    Overtaken,
    /// A caller does not want it any more.
    Aborted,
    Away,
}

impl Driver {
    /// Its work belongs to `tasks` and ends with `stop`.
    pub fn new(
        config: Config,
        deps: Deps,
        meter: Meter,
        (stop, tasks): (CancellationToken, TaskTracker),
    ) -> Self {
        let slots = Semaphore::new(config.at_once);
        Self(Arc::new(Inner {
            config,
            deps,
            eyes: Eyes::default(),
            driven: Mutex::default(),
            slots,
            stop,
            tasks,
            traces: Traces::default(),
            meter,
        }))
    }

    pub fn config(&self) -> &Config {
        &self.0.config
    }

    pub fn deps(&self) -> &Deps {
        &self.0.deps
    }

    pub fn traces(&self) -> &Traces {
        &self.0.traces
    }

    /// The trace that a nudge belongs to, for as long as the answer lives.
    pub fn traced(&self, id: &DeploymentId, trace: Option<Context>) -> Option<Traced> {
        self.traces().note(id, trace?);
        Some(Traced(self.clone(), id.clone()))
    }

    pub fn eyes(&self) -> &Eyes {
        &self.0.eyes
    }

    pub fn means(&self) -> Means<'_> {
        Means {
            deps: &self.0.deps,
            config: &self.0.config,
            eyes: &self.0.eyes,
        }
    }

    pub fn is_stopping(&self) -> bool {
        self.0.stop.is_cancelled()
    }

    /// Sees to it that an agent is driven. The receiver ends with the drive; `true`: it began just now. `force`: also what
    /// looks as if another process had it.
    pub fn drive(&self, incarnation: &str, force: bool) -> (watch::Receiver<()>, bool) {
        let mut driven = self.driven();
        if let Some(done) = driven.get(incarnation) {
            return (done.clone(), false);
        }
        let (ending, done) = watch::channel(());
        driven.insert(incarnation.to_owned(), done.clone());
        self.0.meter.drives.inc();
        let drive = Drive {
            driver: self.clone(),
            incarnation: incarnation.to_owned(),
            _ending: ending,
        };
        self.0.tasks.spawn(async move { drive.run(force).await });
        (done, true)
    }

    fn driven(&self) -> std::sync::MutexGuard<'_, HashMap<String, watch::Receiver<()>>> {
        self.0.driven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One agent while it is driven; dropped, it is free again.
struct Drive {
    driver: Driver,
    incarnation: String,
    _ending: watch::Sender<()>,
}

impl Drop for Drive {
    fn drop(&mut self) {
        self.driver.driven().remove(&self.incarnation);
        self.driver.0.meter.drives.dec();
    }
}

impl Drive {
    async fn run(&self, force: bool) {
        loop {
            match self.next(force).await {
                Ok(Some(Left::Finished)) => {}
                Ok(Some(Left::Away) | None) => return,
                Err(error) => {
                    tracing::warn!(error = ?error, "a deployment was left; the sweep takes it up again");
                    return;
                }
            }
        }
    }

    /// The oldest unfinished deployment, to its end.
    async fn next(&self, force: bool) -> Result<Option<Left>> {
        let inner = &self.driver.0;
        let slot = tokio::select! {
            () = inner.stop.cancelled() => return Ok(None),
            slot = inner.slots.acquire() => slot,
        };
        let slot = slot.map_err(|_| Error::unavailable("the service is shutting down"))?;
        let unfinished = inner
            .deps
            .store
            .unfinished_deployments_of(&self.incarnation)
            .await?;
        let Some(row) = unfinished.into_iter().next() else {
            return Ok(None);
        };
        let touched = inner.deps.store.now().since(row.updated_at) < inner.config.abandoned_after;
        if !force && row.rev > 0 && touched {
            return Ok(Some(Left::Away));
        }
        self.deployment(row, slot).await.map(Some)
    }

    async fn deployment(&self, row: Deployment, slot: SemaphorePermit<'_>) -> Result<Left> {
        let inner = &self.driver.0;
        let version = match &row.version_id {
            Some(version) => inner.deps.store.version(&row.account, version).await?,
            None => None,
        };
        let job = Arc::new(Job::new(&self.driver, row.clone(), version));
        let span = spans::deployment(&inner.traces, &row);
        let mut record = Record::new(inner.deps.store.clone(), row);
        let left = self
            .phases(&job, &mut record, slot)
            .instrument(span.clone());
        let left = left.await?;
        spans::deployed(&span, record.state());
        Ok(left)
    }

    async fn phases(
        &self,
        job: &Arc<Job>,
        record: &mut Record,
        slot: SemaphorePermit<'_>,
    ) -> Result<Left> {
        let mut slot = Some(slot);
        loop {
            let orders = self.orders(record).await?;
            job.notes.ordered(orders.clone());
            if let Some(by) = &orders.aborted
                && let Some(inputs) = abort(record.state(), by)
            {
                if !record.state().can_go_back() {
                    phases::take_down(job).await;
                }
                if record.apply(inputs).await? == Recorded::Theirs {
                    return Ok(Left::Away);
                }
                self.told_end(record);
                continue;
            }
            let newer = self.newer(record).await?;
            let seen = Seen {
                state: record.state(),
                newer: newer.as_deref(),
            };
            let inputs = match decide(&seen) {
                Step::Rest => return Ok(Left::Finished),
                Step::GiveWay(newer) => {
                    phases::take_down(job).await;
                    vec![Input::Supersede(format!("deployment {newer} took over"))]
                }
                Step::GoBack(newer) => vec![Input::RollBack(Undo {
                    status: Status::Superseded,
                    reason: format!("deployment {newer} took over"),
                })],
                Step::Run(phase) => {
                    if matches!(phase, Phase::Canary | Phase::ShiftTraffic | Phase::Retire) {
                        // It may wait for long; others need not.
                        slot.take();
                    }
                    let mut inputs = vec![Input::Begin(phase)];
                    inputs.extend(self.baseline(phase, job, record).await?);
                    if record.apply(inputs).await? == Recorded::Theirs {
                        return Ok(Left::Away);
                    }
                    let since = record.state().current().and_then(|one| one.started_at);
                    job.notes
                        .begin(&record.state().rollout, since.unwrap_or_default());
                    job.notes.overtaken_by(newer);
                    let ended = match self.phase(phase, job, record).await? {
                        Ran::Done(Ok(())) => Input::Complete(phase),
                        Ran::Done(Err(error)) if goes_back(phase, record.state()) => {
                            let reason = job.notes.goes_back().unwrap_or(error.to_string());
                            job.notes.say(reason.clone());
                            Input::RollBack(Undo {
                                status: Status::RolledBack,
                                reason,
                            })
                        }
                        Ran::Done(Err(error)) => {
                            let reason = error.to_string();
                            job.notes.say(reason.clone());
                            phases::take_down(job).await;
                            Input::Fail(phase, reason)
                        }
                        Ran::Overtaken | Ran::Aborted => continue,
                        Ran::Away => return Ok(Left::Away),
                    };
                    let changed = job.notes.changed().map(|now| Input::Rollout(Box::new(now)));
                    let mut inputs = vec![Input::Log(job.notes.take())];
                    inputs.extend(changed);
                    inputs.push(ended);
                    inputs
                }
            };
            if record.apply(inputs).await? == Recorded::Theirs {
                return Ok(Left::Away);
            }
            self.told_end(record);
        }
    }

    fn told_end(&self, record: &Record) {
        if record.state().status.is_terminal() {
            let row = record.row();
            self.driver.0.meter.ended(row.kind, row.state.status);
            report(record, self.driver.0.deps.store.now());
        }
    }

    /// Who answers now, before anything of the new version is there. It is asked once.
    async fn baseline(&self, phase: Phase, job: &Job, record: &Record) -> Result<Option<Input>> {
        let begun = record
            .state()
            .current()
            .is_some_and(|one| one.started_at.is_some());
        if phase != Phase::Provision || begun {
            return Ok(None);
        }
        let traffic = self.driver.0.deps.store.traffic(&self.incarnation).await?;
        let most = traffic.routes.into_iter().max_by_key(|route| route.weight);
        let own = record.row().version_id.clone();
        let Some(route) = most.filter(|route| Some(&route.version_id) != own.as_ref()) else {
            return Ok(Some(Input::Baseline(None, 0)));
        };
        let capacity = job.capacity(&route).await?;
        Ok(Some(Input::Baseline(Some(route), capacity)))
    }

    async fn orders(&self, record: &Record) -> Result<Orders> {
        let given = self.driver.0.deps.store.orders(&record.row().id).await?;
        let words = given
            .iter()
            .map(|one| (one.order, one.created_by.as_str(), one.at));
        Ok(Orders::of(words))
    }

    /// Runs a phase and records what it says meanwhile. The phase is a task of its own: it may wait in the turn for the database,
    /// and must get on when the turn is its, while this one waits to record.
    async fn phase(&self, phase: Phase, job: &Arc<Job>, record: &mut Record) -> Result<Ran> {
        let begun = Instant::now();
        let span = spans::phase(phase);
        let running = within(begun, phase, Arc::clone(job)).instrument(span.clone());
        let mut running = AbortOnDropHandle::new(self.driver.0.tasks.spawn(running));
        let ran = self.beside(&mut running, job, record).await?;
        match &ran {
            Ran::Done(done) => {
                self.driver
                    .0
                    .meter
                    .ran(phase, done.is_ok(), begun.elapsed());
                if let Err(error) = done {
                    spans::failed(&span, error);
                }
            }
            // What comes next must not meet it.
            Ran::Overtaken | Ran::Aborted | Ran::Away => {
                running.abort();
                running.await.ok();
            }
        }
        Ok(ran)
    }

    /// Until the phase has run, or shall not.
    async fn beside(
        &self,
        running: &mut AbortOnDropHandle<Result<()>>,
        job: &Job,
        record: &mut Record,
    ) -> Result<Ran> {
        let mut ticks = tokio::time::interval_at(Instant::now() + RECORD_EVERY, RECORD_EVERY);
        let mut looked = Instant::now();
        loop {
            tokio::select! {
                done = &mut *running => {
                    return Ok(match done {
                        Ok(done) => Ran::Done(done),
                        Err(error) if error.is_cancelled() => Ran::Away,
                        Err(error) => Ran::Done(Err(Error::internal("a phase panicked").because(error))),
                    });
                }
                () = self.driver.0.stop.cancelled() => return Ok(Ran::Away),
                () = job.notes.unsaved.notified() => {}
                _ = ticks.tick() => {}
            }
            let orders = self.orders(record).await?;
            let aborted = orders.aborted.clone();
            job.notes.ordered(orders);
            if aborted.is_some_and(|by| abort(record.state(), &by).is_some()) {
                return Ok(Ran::Aborted);
            }
            let changed = job.notes.changed();
            let lines = job.notes.take();
            let touch = self.driver.0.deps.store.now().since(record.changed_at()) >= TOUCH_EVERY;
            if touch || !lines.is_empty() || changed.is_some() {
                let mut inputs = vec![Input::Log(lines)];
                inputs.extend(changed.map(|now| Input::Rollout(Box::new(now))));
                if record.apply(inputs).await? == Recorded::Theirs {
                    return Ok(Ran::Away);
                }
                job.notes.recorded();
            }
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                let newer = self.newer(record).await?;
                let seen = Seen {
                    state: record.state(),
                    newer: newer.as_deref(),
                };
                if matches!(decide(&seen), Step::GiveWay(_) | Step::GoBack(_)) {
                    return Ok(Ran::Overtaken);
                }
                job.notes.overtaken_by(newer);
            }
        }
    }

    /// The newest deployment of the agent that was accepted after this one and is not at its end.
    async fn newer(&self, record: &Record) -> Result<Option<String>> {
        let row = record.row();
        let store = &self.driver.0.deps.store;
        let unfinished = store.unfinished_deployments_of(&self.incarnation).await?;
        let newest = unfinished.into_iter().next_back();
        Ok(newest
            .filter(|newest| (newest.created_at, &newest.id) > (row.created_at, &row.id))
            .map(|newest| newest.id.to_string()))
    }
}

/// Callers have moved, or could have, and the version before is warm.
fn goes_back(phase: Phase, state: &State) -> bool {
    let moves = matches!(phase, Phase::Canary | Phase::ShiftTraffic | Phase::Retire);
    moves && state.can_go_back()
}

/// What becomes of a deployment that a caller aborts; nothing, where it is too late.
fn abort(state: &State, by: &str) -> Option<Vec<Input>> {
    let reason = format!("aborted by {by}");
    let current = state.current().filter(|_| !state.status.is_terminal())?;
    if state.can_go_back() {
        return Some(vec![Input::RollBack(Undo {
            status: Status::RolledBack,
            reason,
        })]);
    }
    let early = !matches!(
        current.name,
        Phase::ShiftTraffic | Phase::Retire | Phase::Rollback
    );
    let mut inputs = Vec::new();
    if current.status == PhaseStatus::Pending {
        inputs.push(Input::Begin(current.name));
    }
    inputs.push(Input::Fail(current.name, reason));
    early.then_some(inputs)
}

/// A phase is idempotent, so what was away is tried again, as a whole, until the deadline.
async fn within(begun: Instant, phase: Phase, job: Arc<Job>) -> Result<()> {
    let job = job.as_ref();
    let deadline = begun + phases::limit(phase, job);
    let mut wait = BACKOFF.0;
    let mut last = None;
    loop {
        let error = match tokio::time::timeout_at(deadline, phases::run(phase, job)).await {
            Ok(Err(error)) if matches!(error.kind, Kind::Unavailable | Kind::Timeout) => error,
            Ok(done) => return done,
            Err(_) => return Err(too_late(phase, job, last)),
        };
        if last.as_ref() != Some(&error.message) {
            job.notes.say(format!("{}; trying again", error.message));
        }
        last = Some(error.message);
        if Instant::now() + wait >= deadline {
            return Err(too_late(phase, job, last));
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACKOFF.1);
    }
}

fn too_late(phase: Phase, job: &Job, last: Option<String>) -> Error {
    let limit = phases::limit(phase, job);
    let why = last.or_else(|| job.notes.waiting()).unwrap_or_default();
    let why = if why.is_empty() {
        why
    } else {
        format!(": {why}")
    };
    Error::new(
        Kind::Timeout,
        format!("{phase} did not finish within {limit:?}{why}"),
    )
}

fn report(record: &Record, now: Timestamp) {
    let row = record.row();
    let state = record.state();
    tracing::info!(
        deployment.id = %row.id, agent.id = %row.agent_id, deployment.status = %state.status,
        deployment.reason = state.reason.as_deref().unwrap_or_default(),
        deployment.took_ms = u64::try_from(now.since(row.created_at).as_millis()).unwrap_or(u64::MAX),
        "a deployment has ended"
    );
}
