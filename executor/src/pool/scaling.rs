//! Brings the number of instances to what `domain::scale` says, and keeps why.

use super::{EnvelopeState, Instance, Leaving, Pool, State, sessions, starts::Turn};
use domain::scale::{self, Decision, PATIENCE};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use store::instances::ScalingEvent;

/// Those who gave up are taken out of the queue so often.
const TIDY_EVERY: Duration = Duration::from_secs(1);

impl Pool {
    /// Looks at the load, and ends what was retired and has nothing more to do.
    pub fn scale(self: &Arc<Self>) {
        let mut state = self.state();
        self.end_sessions(&mut state);
        self.scale_with(&mut state);
        self.let_go(&mut state);
        self.look_at_templates(&mut state);
    }

    /// So many run and wait from now on.
    pub(super) fn note_load(&self, state: &mut State) {
        if self.is_by_session() {
            // Sessions are counted where it is decided.
            return;
        }
        let demand = state.in_flight + waiting(state);
        state.scaler.note(demand, self.born.elapsed());
    }

    /// Somebody waits: nobody there is a reason to start at once, a wait that grows long is one in a moment.
    pub(super) fn look_after(self: &Arc<Self>, state: &mut State) {
        if state.starting == 0 && !state.seats.iter().any(super::Seat::takes_work) {
            self.scale_with(state);
        }
        if !state.watched {
            state.watched = true;
            let pool = Arc::clone(self);
            let tasks = &self.common.grounds.tasks;
            tasks.spawn(async move { pool.watch_queue().await });
        }
    }

    /// Until nobody waits.
    async fn watch_queue(self: Arc<Self>) {
        let mut tidied = Instant::now();
        loop {
            tokio::time::sleep(PATIENCE).await;
            let mut state = self.state();
            if tidied.elapsed() >= TIDY_EVERY {
                tidied = Instant::now();
                state.waiting.remove(|waiter| waiter.answer.is_closed());
            }
            if state.waiting.is_empty() || state.is_over() {
                state.watched = false;
                return;
            }
            self.scale_with(&mut state);
        }
    }

    pub(super) fn scale_with(self: &Arc<Self>, state: &mut State) {
        if state.is_over() {
            return;
        }
        let ready = state.seats.iter().filter(|seat| seat.takes_work()).count();
        let now = self.common.grounds.store.now();
        let mut seen = scale::Seen {
            ready: u32::try_from(ready).unwrap_or(u32::MAX),
            starting: state.starting,
            in_flight: state.in_flight,
            waiting: waiting(state),
            oldest: state
                .waiting
                .oldest()
                .map_or(Duration::ZERO, |since| now.since(since)),
            held: state.not_before.is_some_and(|at| Instant::now() < at),
        };
        let spec = &self.version.spec;
        let retiring = state.envelope.state == EnvelopeState::Retiring;
        let mut limits = scale::Limits {
            min: if retiring {
                0
            } else {
                state.envelope.min_instances
            },
            // A version that retires still finishes what waits.
            max: if retiring {
                spec.scaling.max_instances.max(1)
            } else {
                state.envelope.max_instances
            },
            concurrency: spec.configuration.concurrent_executions,
            target_utilization: spec.scaling.target_utilization,
        };
        if self.is_by_session() {
            (seen.in_flight, seen.waiting) = sessions::demand(state);
            (limits.concurrency, limits.target_utilization) = (1, 1.0);
        }
        let at = self.born.elapsed();
        let Some(decision) = state.scaler.decide(seen, limits, at) else {
            return;
        };
        if decision.instances > seen.ready + seen.starting {
            self.grow(state, &decision);
        } else {
            self.shrink(state, &decision, seen.ready);
        }
    }

    pub(super) fn grow(self: &Arc<Self>, state: &mut State, decision: &Decision) {
        if state.not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let ready = state.seats.iter().filter(|seat| seat.takes_work()).count();
        let living = u32::try_from(ready).unwrap_or(u32::MAX) + state.starting;
        let mut more = decision.instances.saturating_sub(living);
        if more == 0 {
            return;
        }
        self.note(living, decision);
        // What was to go is wanted back before anything new is made.
        let retired = state
            .seats
            .iter_mut()
            .filter(|seat| seat.leaving == Leaving::Retired && seat.owner.is_none());
        for seat in retired.take(more as usize) {
            (seat.leaving, seat.look) = (Leaving::No, None);
            more -= 1;
        }
        state.starting += more;
        for _ in 0..more {
            let pool = Arc::clone(self);
            let tasks = &self.common.grounds.tasks;
            tasks.spawn(async move { pool.start().await });
        }
        self.hand_out(state);
    }

    /// The least busy go.
    fn shrink(self: &Arc<Self>, state: &mut State, decision: &Decision, ready: u32) {
        let excess = ready.saturating_sub(decision.instances);
        state
            .seats
            .sort_by_key(|seat| (seat.in_flight, seat.idle_since));
        // Whose session it is, says when it goes.
        let working = state
            .seats
            .iter_mut()
            .filter(|seat| seat.takes_work() && seat.owner.is_none());
        for seat in working.take(excess as usize) {
            (seat.leaving, seat.look) = (Leaving::Retired, None);
        }
        if excess > 0 {
            self.note(ready, decision);
        }
    }

    fn note(&self, from: u32, decision: &Decision) {
        let version = &self.version;
        let event = ScalingEvent {
            id: format!("scale_{}", uuid::Uuid::now_v7().as_simple()),
            account: version.account.clone(),
            agent_id: version.spec.agent_id.clone(),
            version_id: version.id.clone(),
            node_id: self.common.node_id.clone(),
            at: self.common.grounds.store.now(),
            reason: decision.reason.clone(),
            from_instances: from,
            to_instances: decision.instances,
        };
        let store = self.common.grounds.store.clone();
        self.common.grounds.tasks.spawn(async move {
            if let Err(error) = store.note_scaling(&event).await {
                tracing::warn!(error = ?error, "a scaling event was not kept");
            }
        });
    }

    /// This version's turn to start one.
    pub(super) async fn turn(&self) -> Turn {
        let agent = (
            self.version.account.clone(),
            self.version.spec.agent_id.clone(),
        );
        self.common.starts.turn(agent).await
    }

    pub(super) fn end(&self, instance: &Arc<Instance>) {
        // The reader task kills and reaps when the link closes.
        instance.link.close();
    }
}

fn waiting(state: &State) -> u32 {
    u32::try_from(state.waiting.len()).unwrap_or(u32::MAX)
}
