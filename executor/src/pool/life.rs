//! The life of an instance in its pool: started, seated or refused, outlived, and what is kept of it.

use super::{Leaving, Pool, Seat};
use crate::instance::{Instance, NotReady};
use domain::{
    Timestamp,
    execution::{Failure, FailurePhase},
    health::{EARLY, End, Health},
    id::InstanceId,
    instance,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use store::instances::Instance as Row;

/// A call that ended so shortly before its instance is what ended it.
const JUST: Duration = Duration::from_secs(1);
/// Whoever needs longer to start waits for something, and others start beside it.
const TURN: Duration = Duration::from_secs(5);

impl Pool {
    pub(super) async fn start(self: Arc<Self>) {
        let turn = self.turn().await;
        if self.state().is_over() {
            self.state().starting -= 1;
            return;
        }
        let id = InstanceId::from_uuid(uuid::Uuid::now_v7());
        let created_at = self.common.grounds.store.now();
        let template = self.state().warm.template();
        let template = template.as_ref();
        let grounds = &self.common.grounds;
        let starting = Instance::start(id.clone(), &self.version, grounds, template);
        tokio::pin!(starting);
        let started = tokio::select! {
            started = &mut starting => started,
            () = tokio::time::sleep(TURN) => {
                drop(turn);
                starting.await
            }
        };
        match started {
            Ok(instance) => {
                let took = self.common.grounds.store.now().since(created_at);
                self.common.grounds.counts.started(took, instance.how());
                self.started(Arc::new(instance)).await;
            }
            Err(not_ready) => {
                if let Some(template) = template {
                    // The next one is spawned, to see whether that fails as well.
                    template.spoil();
                }
                self.not_started(&id, created_at, not_ready).await;
            }
        }
    }

    async fn started(self: &Arc<Self>, instance: Arc<Instance>) {
        let ready_at = self.common.grounds.store.now();
        let unwanted = {
            let mut state = self.state();
            state.starting -= 1;
            state.failures = 0;
            state.last_failure = None;
            let unwanted = state.is_over();
            if !unwanted {
                state.seats.push(Seat {
                    instance: Arc::clone(&instance),
                    ready_at,
                    in_flight: 0,
                    idle_since: Instant::now(),
                    used: false,
                    health: Health::Healthy,
                    complaint: None,
                    failed_checks: 0,
                    owner: None,
                    leaving: Leaving::No,
                    look: None,
                });
                self.hand_out(&mut state);
                self.scale_with(&mut state);
                self.want_template(&mut state);
            }
            unwanted
        };
        self.changed.notify_waiters();
        if unwanted {
            instance.kill().await;
            return;
        }
        let pool = Arc::clone(self);
        let watched = Arc::clone(&instance);
        self.common
            .grounds
            .tasks
            .spawn(async move { pool.outlive(watched).await });
        self.keep(&instance, instance::State::Ready, ready_at, None)
            .await;
    }

    async fn not_started(
        self: &Arc<Self>,
        id: &InstanceId,
        created_at: Timestamp,
        not_ready: NotReady,
    ) {
        tracing::info!(version.id = %self.version.id, agent.id = %self.version.spec.agent_id, code = not_ready.failure.code.as_str(),
            phase = not_ready.failure.phase.as_str(), reason = not_ready.failure.message, "an instance did not become ready");
        let failure = not_ready.failure.clone();
        self.common.grounds.counts.not_started(&failure);
        {
            let mut state = self.state();
            state.starting -= 1;
            state.failures += 1;
            self.crashed(&mut state, End::Start);
            state.last_failure = Some(not_ready);
            if state.starting == 0 && !state.seats.iter().any(Seat::takes_work) {
                let now = self.common.grounds.store.now();
                while let Some(waiter) = state.waiting.pop(now) {
                    waiter.answer.send(Err(failure.clone())).ok();
                }
            }
        }
        self.changed.notify_waiters();
        self.note_loop(failure.clone()).await;
        let row = self.row(
            id.clone(),
            None,
            created_at,
            instance::State::Failed,
            None,
            Some(failure),
        );
        self.keep_row(&row).await;
    }

    /// Until the instance is gone, for whatever reason: then it has no seat any more.
    async fn outlive(self: Arc<Self>, instance: Arc<Instance>) {
        tokio::select! {
            () = self.watch_health(&instance) => {}
            () = self.after_a_while() => {}
        }
        let (seat, crash) = {
            let mut guard = self.state();
            let state = &mut *guard;
            let mut seats = state.seats.iter();
            let at = seats.position(|seat| Arc::ptr_eq(&seat.instance, &instance));
            let seat = at.map(|at| state.seats.swap_remove(at));
            let taken = seat.as_ref().map_or(0, |seat| seat.in_flight);
            state.in_flight = state.in_flight.saturating_sub(taken);
            self.note_load(state);
            let unwanted = seat.as_ref().filter(|seat| seat.takes_work());
            let end = unwanted
                .filter(|_| !state.closed)
                .map(|seat| self.end_of(seat));
            if let Some(end) = end {
                self.crashed(state, end);
            }
            (seat, end.is_some())
        };
        self.scale();
        let exit = instance.exited().await;
        if crash {
            let failure = instance.why_gone(FailurePhase::Init).await;
            self.note_loop(failure).await;
        }
        tracing::debug!(instance.id = %instance.id, ?exit, "an instance is gone");
        self.changed.notify_waiters();
        self.keep(
            &instance,
            instance::State::Stopped,
            seat.map_or(instance.created_at, |seat| seat.ready_at),
            Some(self.common.grounds.store.now()),
        )
        .await;
    }

    /// Once it has lived long enough to say that starting leads somewhere; never ends.
    async fn after_a_while(&self) {
        tokio::time::sleep(EARLY).await;
        self.steady().await;
        std::future::pending::<()>().await;
    }

    /// How an instance that nobody ended came to its end.
    fn end_of(&self, seat: &Seat) -> End {
        // Its calls may have given their places back already.
        let by_call = seat.used && seat.idle_since.elapsed() < JUST;
        End::Ready {
            lived: self.common.grounds.store.now().since(seat.ready_at),
            in_flight: seat.in_flight.max(u32::from(by_call)),
        }
    }

    pub(super) async fn keep(
        &self,
        instance: &Instance,
        state: instance::State,
        ready_at: Timestamp,
        ended_at: Option<Timestamp>,
    ) {
        let mut row = self.row(
            instance.id.clone(),
            Some(i64::from(instance.pid)),
            instance.created_at,
            state,
            ended_at,
            None,
        );
        row.ready_at = Some(ready_at);
        row.start = Some(instance.how());
        {
            let pool = self.state();
            let mut seats = pool.seats.iter();
            if let Some(seat) = seats.find(|seat| seat.instance.id == instance.id) {
                (row.health, row.complaint) = (seat.health, seat.complaint.clone());
                row.failed_checks = seat.failed_checks;
                row.session_id = seat.session().map(str::to_owned);
            }
        }
        self.keep_row(&row).await;
    }

    fn row(
        &self,
        id: InstanceId,
        pid: Option<i64>,
        created_at: Timestamp,
        state: instance::State,
        ended_at: Option<Timestamp>,
        failure: Option<Failure>,
    ) -> Row {
        let version = &self.version;
        let ended_at = if failure.is_some() {
            Some(self.common.grounds.store.now())
        } else {
            ended_at
        };
        Row {
            id,
            account: version.account.clone(),
            agent_id: version.spec.agent_id.clone(),
            version_id: version.id.clone(),
            node_id: self.common.node_id.clone(),
            boot_id: self.common.boot_id.clone(),
            state,
            pid,
            created_at,
            ready_at: None,
            ended_at,
            failure,
            health: Health::Healthy,
            complaint: None,
            session_id: None,
            failed_checks: 0,
            start: None,
        }
    }

    async fn keep_row(&self, row: &Row) {
        if let Err(error) = self.common.grounds.store.keep_instance(row).await {
            tracing::warn!(error = ?error, instance.id = %row.id, "what became of an instance was not kept");
        }
    }
}
