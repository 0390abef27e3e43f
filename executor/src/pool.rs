//! The instances of one version on this node: who is free, who waits, how many there should be.
//!
//! A call takes a seat at once where one is free, else it waits in a bounded queue, here and nowhere else. Seats are handed on
//! when they are given back; the queue drives the growth.

mod life;
mod looks;
pub(crate) mod probes;
mod scaling;
mod sessions;
mod starts;
mod warm;

use crate::{
    instance::{Grounds, Instance, NotReady},
    version::Version,
};
use domain::{
    Timestamp,
    envelope::{Envelope, State as EnvelopeState},
    execution::{Failure, Priority},
    health::{Crashes, Health},
    id::{BootId, NodeId},
    instance,
    queue::Queue,
    scale::{Decision, Input, Scaler},
    session,
};
pub use starts::Starts;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;
pub use warm::Templates;

/// What all pools of an executor share.
pub struct Common {
    pub grounds: Grounds,
    pub node_id: NodeId,
    pub boot_id: BootId,
    pub starts: Arc<Starts>,
    pub queue: usize,
    /// The stable window of the scaling.
    pub idle: Duration,
    pub sessions: session::Limits,
    /// `None`: every instance is spawned.
    pub templates: Option<Templates>,
}

pub struct Pool {
    pub version: Arc<Version>,
    common: Arc<Common>,
    /// The origin of the scaler's time.
    born: Instant,
    /// Cancelled when this executor lets go of the version.
    stop: CancellationToken,
    state: Mutex<State>,
    changed: Notify,
    /// As the newest order says.
    max_instances: watch::Sender<u32>,
}

struct State {
    envelope: Envelope,
    seats: Vec<Seat>,
    starting: u32,
    /// Of all seats together.
    in_flight: u32,
    waiting: Queue<Waiter>,
    scaler: Scaler,
    /// A task looks after those who wait.
    watched: bool,
    failures: u32,
    last_failure: Option<NotReady>,
    not_before: Option<Instant>,
    crashes: Crashes,
    loop_since: Option<Timestamp>,
    /// How the last start of a crash loop ended.
    loop_failure: Option<Failure>,
    warm: warm::Warm,
    closed: bool,
    /// Others serve the version: durable work goes to them.
    hands_over: bool,
}

struct Seat {
    instance: Arc<Instance>,
    ready_at: Timestamp,
    in_flight: u32,
    idle_since: Instant,
    /// It was called at all.
    used: bool,
    health: Health,
    complaint: Option<String>,
    failed_checks: u32,
    /// Whose it is alone.
    owner: Option<sessions::Owner>,
    leaving: Leaving,
    look: Option<looks::Look>,
}

/// Whether a seat takes work, and if not, how it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// There are too many: when what runs has ended, its background work too. It may be wanted back.
    Retired,
    /// It is not to be trusted: as soon as what runs has ended.
    Quarantined,
}

struct Waiter {
    answer: oneshot::Sender<Result<Lease, Failure>>,
    priority: Priority,
    since: Timestamp,
    /// Where sessions have instances of their own.
    session: Option<Arc<str>>,
}

/// A place in an instance; dropping it gives the place back.
pub struct Lease {
    pub instance: Arc<Instance>,
    pool: Arc<Pool>,
    quarantine: bool,
    /// Whether dropping it gives the place back.
    armed: bool,
}

/// A place, or the promise of one.
pub enum Place {
    Now(Lease),
    Later(oneshot::Receiver<Result<Lease, Failure>>),
    /// Every place in the queue is taken.
    Full,
    /// The version cannot start.
    Never(Failure),
    /// This executor lets go of the version.
    Closed,
}

/// What is going on, for whoever asks.
pub struct Picture {
    pub envelope: Envelope,
    pub instances: Vec<Portrait>,
    pub starting: u32,
    pub has_template: bool,
    pub in_flight: u32,
    pub waiting: u32,
    pub failures: u32,
    pub failure: Option<NotReady>,
}

pub struct Portrait {
    pub instance: Arc<Instance>,
    pub state: instance::State,
    pub ready_at: Timestamp,
    pub in_flight: u32,
}

impl Pool {
    pub fn new(version: Arc<Version>, envelope: Envelope, common: Arc<Common>) -> Arc<Self> {
        let waiting = Queue::new(common.queue);
        let (max_instances, _) = watch::channel(envelope.max_instances);
        let state = State {
            envelope,
            seats: Vec::new(),
            starting: 0,
            in_flight: 0,
            waiting,
            scaler: Scaler::new(common.idle),
            watched: false,
            failures: 0,
            last_failure: None,
            not_before: None,
            crashes: Crashes::default(),
            loop_since: None,
            loop_failure: None,
            warm: warm::Warm::default(),
            closed: false,
            hands_over: false,
        };
        Arc::new(Self {
            version,
            common,
            born: Instant::now(),
            stop: CancellationToken::new(),
            state: Mutex::new(state),
            changed: Notify::new(),
            max_instances,
        })
    }

    pub fn generation(&self) -> i64 {
        self.state().envelope.generation
    }

    /// This executor has let go of the version.
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    /// Whether what waits for this version is for others to do: it retires here, and they serve it.
    pub fn hands_over(&self) -> bool {
        self.state().hands_over
    }

    pub fn hand_over(&self, to_others: bool) {
        self.state().hands_over = to_others;
    }

    /// How many instances there may be, as orders change it.
    pub fn max_instances(&self) -> watch::Receiver<u32> {
        self.max_instances.subscribe()
    }

    /// Takes over a newer order. `false`: it is older than what is known.
    pub fn order(self: &Arc<Self>, envelope: Envelope) -> bool {
        let mut state = self.state();
        if envelope.generation < state.envelope.generation {
            return false;
        }
        self.max_instances.send_replace(envelope.max_instances);
        state.envelope = envelope;
        // A new order is a new chance.
        state.not_before = None;
        state.crashes = Crashes::default();
        state.failures = 0;
        state.last_failure = None;
        drop(state);
        self.scale();
        true
    }

    /// Starts one instance where none is, to see that the agent can be imported at all.
    pub fn prove(self: &Arc<Self>) {
        let mut state = self.state();
        if state.seats.is_empty() && state.starting == 0 {
            self.grow(
                &mut state,
                &Decision {
                    instances: 1,
                    input: Input::Proof,
                    reason: "to see that the agent starts".to_owned(),
                },
            );
        }
    }

    /// `session` counts where sessions have instances of their own.
    pub fn place(
        self: &Arc<Self>,
        priority: Priority,
        now: Timestamp,
        session: Option<&str>,
    ) -> Place {
        let mut state = self.state();
        let free = if self.is_by_session() {
            self.own_seat(&mut state, session)
        } else if state.waiting.is_empty() {
            self.free_seat(&mut state)
        } else {
            None
        };
        if let Some(lease) = free {
            self.note_load(&mut state);
            return Place::Now(lease);
        }
        if state.closed {
            return Place::Closed;
        }
        if let Some(failure) = state.refusal() {
            return Place::Never(failure);
        }
        let (answer, promise) = oneshot::channel();
        let waiter = Waiter {
            answer,
            priority,
            since: now,
            session: session.filter(|_| self.is_by_session()).map(Arc::from),
        };
        if let Err(waiter) = state.waiting.push(waiter, priority, now) {
            // Those who gave up still stand in the queue.
            state.waiting.remove(|waiter| waiter.answer.is_closed());
            if state.waiting.push(waiter, priority, now).is_err() {
                return Place::Full;
            }
        }
        self.note_load(&mut state);
        self.look_after(&mut state);
        Place::Later(promise)
    }

    fn free_seat(self: &Arc<Self>, state: &mut State) -> Option<Lease> {
        let slots = self.version.spec.configuration.concurrent_executions;
        let seat = state
            .seats
            .iter_mut()
            .filter(|seat| seat.takes_work() && seat.in_flight < slots)
            .min_by_key(|seat| seat.in_flight)?;
        Some(self.take(seat, &mut state.in_flight))
    }

    fn take(self: &Arc<Self>, seat: &mut Seat, in_flight: &mut u32) -> Lease {
        seat.in_flight += 1;
        seat.used = true;
        *in_flight += 1;
        Lease {
            instance: Arc::clone(&seat.instance),
            pool: Arc::clone(self),
            quarantine: false,
            armed: true,
        }
    }

    /// Gives free seats to those who wait.
    fn hand_out(self: &Arc<Self>, state: &mut State) {
        if self.is_by_session() {
            return self.hand_out_own(state);
        }
        let now = self.common.grounds.store.now();
        while !state.waiting.is_empty() {
            let Some(lease) = self.free_seat(state) else {
                return;
            };
            if let Some(unwanted) = self.give(state, lease, now) {
                // Dropping it would lock again: put it back by hand.
                self.take_back(state, unwanted);
                return;
            }
        }
    }

    /// To the first who still waits; the lease comes back when nobody does.
    fn give(&self, state: &mut State, mut lease: Lease, now: Timestamp) -> Option<Lease> {
        while let Some(waiter) = state.waiting.pop(now) {
            match waiter.answer.send(Ok(lease)) {
                Ok(()) => return None,
                Err(Ok(returned)) => lease = returned,
                Err(Err(_)) => return None,
            }
        }
        Some(lease)
    }

    fn take_back(&self, state: &mut State, mut lease: Lease) {
        if let Some(seat) = state
            .seats
            .iter_mut()
            .find(|seat| seat.instance.id == lease.instance.id)
        {
            seat.in_flight = seat.in_flight.saturating_sub(1);
            state.in_flight = state.in_flight.saturating_sub(1);
        }
        lease.armed = false;
    }

    fn release(self: &Arc<Self>, instance: &Arc<Instance>, quarantine: bool) {
        let mut guard = self.state();
        let state = &mut *guard;
        if let Some(seat) = state
            .seats
            .iter_mut()
            .find(|seat| Arc::ptr_eq(&seat.instance, instance))
        {
            seat.in_flight = seat.in_flight.saturating_sub(1);
            state.in_flight = state.in_flight.saturating_sub(1);
            if quarantine {
                seat.leaving = Leaving::Quarantined;
            }
            if seat.in_flight == 0 {
                seat.idle_since = Instant::now();
                if seat.is_spent() {
                    seat.leaving = Leaving::Quarantined;
                }
                if seat.leaving == Leaving::Quarantined {
                    self.end(&seat.instance);
                }
            }
        }
        self.hand_out(state);
        self.note_load(state);
        if quarantine {
            self.scale_with(state);
        }
        drop(guard);
        self.changed.notify_waiters();
    }

    /// Takes no more work; ends when what runs has ended.
    fn quarantine(&self, instance: &Arc<Instance>) {
        let mut state = self.state();
        let mut seats = state.seats.iter_mut();
        if let Some(seat) = seats.find(|seat| Arc::ptr_eq(&seat.instance, instance)) {
            seat.leaving = Leaving::Quarantined;
        }
    }

    /// Whether nothing else runs there besides the caller's own call.
    pub fn is_alone(&self, instance: &Arc<Instance>) -> bool {
        self.state()
            .seats
            .iter()
            .find(|seat| Arc::ptr_eq(&seat.instance, instance))
            .is_none_or(|seat| seat.in_flight <= 1)
    }

    /// Lets go of everything: who waits is refused, what runs is killed and seen gone.
    pub async fn close(&self) {
        let instances: Vec<Arc<Instance>> = {
            let mut state = self.state();
            state.closed = true;
            self.stop.cancel();
            // A dropped promise says that this pool is closed.
            state.waiting.remove(|_| true);
            let seats = state.seats.iter();
            seats.map(|seat| Arc::clone(&seat.instance)).collect()
        };
        if self.state().loop_since.take().is_some() {
            self.end_loop().await;
        }
        futures::future::join_all(instances.iter().map(|instance| instance.kill())).await;
        // Those that were starting see `closed` and end themselves, a template among them.
        loop {
            let changed = self.changed.notified();
            let starts = {
                let state = self.state();
                state.starting > 0 || state.warm.is_starting()
            };
            if !starts {
                break;
            }
            tokio::time::timeout(Duration::from_millis(100), changed)
                .await
                .ok();
        }
        let templates = self.state().warm.drain();
        futures::future::join_all(templates.iter().map(|template| template.end())).await;
    }

    pub fn picture(&self) -> Picture {
        let state = self.state();
        let portrait = |seat: &Seat| Portrait {
            instance: Arc::clone(&seat.instance),
            state: if seat.takes_work() {
                instance::State::Ready
            } else {
                instance::State::Draining
            },
            ready_at: seat.ready_at,
            in_flight: seat.in_flight,
        };
        Picture {
            envelope: state.envelope.clone(),
            instances: state.seats.iter().map(portrait).collect(),
            starting: state.starting,
            has_template: state.warm.template().is_some(),
            in_flight: state.in_flight,
            waiting: u32::try_from(state.waiting.len()).unwrap_or(u32::MAX),
            failures: state.failures,
            failure: state.last_failure.clone(),
        }
    }

    /// Seats that are free, or would be after growing as far as it may, and how many wait for one.
    pub fn room(&self) -> (u32, u32) {
        let state = self.state();
        if state.is_over() {
            return (0, 0);
        }
        let most = state
            .envelope
            .max_instances
            .saturating_mul(self.version.spec.configuration.concurrent_executions);
        let waiting = u32::try_from(state.waiting.len()).unwrap_or(u32::MAX);
        (most.saturating_sub(state.in_flight), waiting)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_over(&self) -> bool {
        self.closed || self.envelope.state == EnvelopeState::Retired
    }

    /// Why nobody should wait: nothing runs, and starting failed a moment ago.
    fn refusal(&self) -> Option<Failure> {
        let hopeless = self.starting == 0
            && self.seats.is_empty()
            && self.not_before.is_some_and(|at| Instant::now() < at);
        if !hopeless {
            return None;
        }
        let started = self
            .last_failure
            .as_ref()
            .map(|failed| failed.failure.clone());
        started.or_else(|| self.loop_failure.clone().filter(|_| self.crashes.is_loop()))
    }
}

impl Seat {
    fn takes_work(&self) -> bool {
        self.leaving == Leaving::No
    }
}

impl Lease {
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The instance ends with its other calls: it takes no more.
    pub fn quarantine(&mut self) {
        self.quarantine = true;
        self.pool.quarantine(&self.instance);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.armed {
            self.pool.release(&self.instance, self.quarantine);
        }
    }
}
