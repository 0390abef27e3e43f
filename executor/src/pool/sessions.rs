//! `isolation: session`: each session has an instance of its own, from its first call until it is over. A call without a session
//! has one for itself, which ends with it.

use super::{Instance, Lease, Leaving, Pool, Seat, State};
use domain::{
    agent::Isolation,
    instance,
    session::{self, Over},
};
use std::{collections::HashSet, sync::Arc, time::Instant};

/// Whose a seat is alone.
pub struct Owner {
    /// `None`: of one call.
    session: Option<Arc<str>>,
    since: Instant,
}

impl Seat {
    pub(super) fn session(&self) -> Option<&str> {
        self.owner.as_ref()?.session.as_deref()
    }

    /// It was one call's own, and that has ended.
    pub(super) fn is_spent(&self) -> bool {
        self.owner
            .as_ref()
            .is_some_and(|owner| owner.session.is_none())
    }
}

/// Instances that sessions have, and that waiting ones need.
pub(super) fn demand(state: &State) -> (u32, u32) {
    let owned = state
        .seats
        .iter()
        .filter(|seat| seat.takes_work() && seat.owner.is_some());
    let known: HashSet<&str> = state.seats.iter().filter_map(Seat::session).collect();
    let (mut waiting, mut alone) = (HashSet::new(), 0);
    for waiter in state.waiting.iter() {
        match waiter.session.as_deref() {
            Some(session) if known.contains(session) => {}
            Some(session) => {
                waiting.insert(session);
            }
            None => alone += 1,
        }
    }
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    (count(owned.count()), count(waiting.len() + alone))
}

impl Pool {
    pub(super) fn is_by_session(&self) -> bool {
        self.version.spec.isolation == Isolation::Session
    }

    /// A place in the session's own instance, or in one that nobody has had.
    pub(super) fn own_seat(
        self: &Arc<Self>,
        state: &mut State,
        session: Option<&str>,
    ) -> Option<Lease> {
        let slots = self.version.spec.configuration.concurrent_executions;
        let State {
            seats, in_flight, ..
        } = state;
        let is_own = |seat: &Seat| {
            session.is_some() && seat.session() == session && seat.leaving != Leaving::Quarantined
        };
        if let Some(seat) = seats.iter_mut().find(|seat| is_own(seat)) {
            if seat.in_flight >= slots {
                return None;
            }
            (seat.leaving, seat.look) = (Leaving::No, None);
            return Some(self.take(seat, in_flight));
        }
        let mut fresh = seats.iter_mut();
        let seat = fresh.find(|seat| seat.takes_work() && seat.owner.is_none())?;
        seat.owner = Some(Owner {
            session: session.map(Arc::from),
            since: Instant::now(),
        });
        if session.is_some() {
            let (pool, instance, ready_at) =
                (Arc::clone(self), Arc::clone(&seat.instance), seat.ready_at);
            self.common.grounds.tasks.spawn(async move {
                pool.keep(&instance, instance::State::Ready, ready_at, None)
                    .await;
            });
        }
        Some(self.take(seat, in_flight))
    }

    /// To each who waits, in order, its own place where there is one.
    pub(super) fn hand_out_own(self: &Arc<Self>, state: &mut State) {
        let now = self.common.grounds.store.now();
        let mut still = Vec::new();
        while let Some(waiter) = state.waiting.pop(now) {
            if waiter.answer.is_closed() {
                continue;
            }
            match self.own_seat(state, waiter.session.as_deref()) {
                Some(lease) => {
                    if let Err(Ok(unwanted)) = waiter.answer.send(Ok(lease)) {
                        self.take_back(state, unwanted);
                    }
                }
                None => still.push(waiter),
            }
        }
        for waiter in still {
            let (priority, since) = (waiter.priority, waiter.since);
            // They all stood there a moment ago.
            state.waiting.push(waiter, priority, since).ok();
        }
    }

    /// Lets go of sessions that are over.
    pub(super) fn end_sessions(&self, state: &mut State) {
        for seat in &mut state.seats {
            let Some(owner) = &seat.owner else { continue };
            let idle = (seat.in_flight == 0).then(|| seat.idle_since.elapsed());
            match session::over(idle, owner.since.elapsed(), self.common.sessions) {
                Some(Over::Old) => {
                    seat.leaving = Leaving::Quarantined;
                    if seat.in_flight == 0 {
                        self.end(&seat.instance);
                    }
                }
                Some(Over::Idle) if seat.takes_work() => {
                    (seat.leaving, seat.look) = (Leaving::Retired, None);
                }
                Some(Over::Idle) | None => {}
            }
        }
    }

    /// Ends the session's own instances, with everything in them, and sees them gone.
    pub async fn end_session(&self, session: &str) -> Vec<Arc<Instance>> {
        let own: Vec<Arc<Instance>> = {
            let mut state = self.state();
            let seats = state.seats.iter_mut();
            seats
                .filter(|seat| seat.session() == Some(session))
                .map(|seat| {
                    seat.leaving = Leaving::Quarantined;
                    Arc::clone(&seat.instance)
                })
                .collect()
        };
        futures::future::join_all(own.iter().map(|instance| instance.kill())).await;
        own
    }
}
