//! The life of an instance in its pool: started, seated or refused, outlived, and what is kept of it.

use super::{FIRST_BACKOFF, LONGEST_BACKOFF, Leaving, Pool, Seat};
use crate::instance::{Instance, NotReady};
use domain::{Timestamp, execution::Failure, id::InstanceId, instance};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use store::instances::Instance as Row;

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
        let starting = Instance::start(id.clone(), &self.version, &self.common.grounds);
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
                self.common.grounds.counts.started(took);
                self.started(Arc::new(instance)).await;
            }
            Err(not_ready) => self.not_started(&id, created_at, not_ready).await,
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
                    leaving: Leaving::No,
                    look: None,
                });
                self.hand_out(&mut state);
                self.scale_with(&mut state);
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
            let backoff = FIRST_BACKOFF * 2u32.saturating_pow(state.failures.min(10) - 1);
            state.not_before = Some(Instant::now() + backoff.min(LONGEST_BACKOFF));
            state.last_failure = Some(not_ready);
            if state.starting == 0 && !state.seats.iter().any(Seat::takes_work) {
                let now = self.common.grounds.store.now();
                while let Some(waiter) = state.waiting.pop(now) {
                    waiter.0.send(Err(failure.clone())).ok();
                }
            }
        }
        self.changed.notify_waiters();
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
        instance.link.closed().await;
        let ready_at = {
            let mut state = self.state();
            let at = state
                .seats
                .iter()
                .position(|seat| Arc::ptr_eq(&seat.instance, &instance));
            at.map(|at| {
                let seat = state.seats.swap_remove(at);
                state.in_flight = state.in_flight.saturating_sub(seat.in_flight);
                seat.ready_at
            })
        };
        self.scale();
        let exit = instance.exited().await;
        tracing::debug!(instance.id = %instance.id, ?exit, "an instance is gone");
        self.changed.notify_waiters();
        self.keep(
            &instance,
            instance::State::Stopped,
            ready_at.unwrap_or(instance.created_at),
            Some(self.common.grounds.store.now()),
        )
        .await;
    }

    async fn keep(
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
        }
    }

    async fn keep_row(&self, row: &Row) {
        if let Err(error) = self.common.grounds.store.keep_instance(row).await {
            tracing::warn!(error = ?error, instance.id = %row.id, "what became of an instance was not kept");
        }
    }
}
