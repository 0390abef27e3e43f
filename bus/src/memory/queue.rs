//! One durable subject in memory: what is ready, what is held by a worker, what waits for its delay.
//! Nobody runs in the background: a worker that looks for work first settles what has fallen due, and
//! sleeps until the earliest of the rest.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use domain::Timestamp;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, Result},
    message::{Limits, Message},
    subject::Subject,
    work::{self, DeadLetter, Delivery, Slots, WorkOptions},
};

pub(super) struct Queue {
    subject: Subject,
    /// The next dead letter's name, for all queues of a bus.
    letters: Arc<AtomicU64>,
    state: Mutex<State>,
    changed: Notify,
    bound: usize,
    dead_bound: usize,
    window: Duration,
    window_bound: usize,
}

#[derive(Default)]
struct State {
    /// Everything not finished, by sequence number.
    items: HashMap<u64, Item>,
    /// Lowest first: what comes back comes before what has never been out.
    ready: BTreeSet<u64>,
    /// The one timer of each item that is held or delayed.
    due: BTreeSet<(Instant, u64)>,
    next: u64,
    dead: VecDeque<(DeadLetter, Message)>,
    /// Ids within the window, and the order in which they fall out of it.
    seen: HashMap<Arc<str>, Instant>,
    seen_order: VecDeque<Arc<str>>,
}

struct Item {
    message: Message,
    deliveries: u32,
    max_deliver: u32,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Ready,
    Held { until: Instant },
    Delayed { until: Instant },
}

impl Queue {
    pub(super) fn new(subject: Subject, letters: Arc<AtomicU64>, limits: &Limits) -> Self {
        Self {
            subject,
            letters,
            state: Mutex::default(),
            changed: Notify::new(),
            bound: limits.queue,
            dead_bound: limits.dead,
            window: limits.duplicates,
            window_bound: limits.duplicate_ids,
        }
    }

    pub(super) fn subject(&self) -> &Subject {
        &self.subject
    }

    pub(super) fn push(&self, id: &str, message: Message, now: Instant) -> Result<()> {
        {
            let mut state = self.lock();
            state.forget_ids(now, self.window, self.window_bound);
            if state.seen.contains_key(id) {
                return Ok(());
            }
            if state.items.len() >= self.bound {
                return Err(Error::Full);
            }
            let id: Arc<str> = id.into();
            state.seen.insert(Arc::clone(&id), now);
            state.seen_order.push_back(id);
            state.add(message);
        }
        self.changed.notify_waiters();
        Ok(())
    }

    pub(super) fn dead_letters(&self, now: Instant) -> Vec<DeadLetter> {
        let mut state = self.lock();
        self.settle(&mut state, now);
        state
            .dead
            .iter()
            .map(|(letter, _)| letter.clone())
            .collect()
    }

    pub(super) fn dead_letter(&self, id: u64) -> Option<(DeadLetter, Message)> {
        let state = self.lock();
        state
            .dead
            .iter()
            .find(|(letter, _)| letter.id == id)
            .cloned()
    }

    /// `false`: it is not here.
    pub(super) fn redrive(&self, id: u64) -> Result<bool> {
        {
            let mut state = self.lock();
            let Some(place) = state.dead.iter().position(|(letter, _)| letter.id == id) else {
                return Ok(false);
            };
            if state.items.len() >= self.bound {
                return Err(Error::Full);
            }
            if let Some((_, message)) = state.dead.remove(place) {
                state.add(message);
            }
        }
        self.changed.notify_waiters();
        Ok(true)
    }

    /// The next message in hand, or when to look again.
    fn take(
        &self,
        now: Instant,
        options: &WorkOptions,
    ) -> Result<(u64, Message, u32), Option<Instant>> {
        let mut state = self.lock();
        self.settle(&mut state, now);
        let Some(sequence) = state.ready.pop_first() else {
            return Err(state.due.first().map(|(until, _)| *until));
        };
        let until = after(now, options.ack_wait);
        state.due.insert((until, sequence));
        let item = state
            .items
            .get_mut(&sequence)
            .expect("ready holds only sequences of items");
        item.deliveries += 1;
        item.max_deliver = options.max_deliver.max(1);
        item.place = Place::Held { until };
        Ok((sequence, item.message.clone(), item.deliveries))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delays that are over and ack times that have run out.
    fn settle(&self, state: &mut State, now: Instant) {
        while let Some(&(until, sequence)) = state.due.first()
            && until <= now
        {
            state.due.pop_first();
            self.put_back(state, sequence, None);
        }
    }

    /// Ready again, now or at `until`; dead if it has been out often enough.
    fn put_back(&self, state: &mut State, sequence: u64, until: Option<Instant>) {
        state.stop_timer(sequence);
        let Some(item) = state.items.get_mut(&sequence) else {
            return;
        };
        if item.deliveries >= item.max_deliver {
            self.bury(state, sequence);
            return;
        }
        match until {
            None => {
                item.place = Place::Ready;
                state.ready.insert(sequence);
            }
            Some(until) => {
                item.place = Place::Delayed { until };
                state.due.insert((until, sequence));
            }
        }
    }

    fn bury(&self, state: &mut State, sequence: u64) {
        state.stop_timer(sequence);
        let Some(item) = state.items.remove(&sequence) else {
            return;
        };
        state.ready.remove(&sequence);
        let letter = DeadLetter {
            id: self.letters.fetch_add(1, Ordering::Relaxed),
            subject: self.subject.clone(),
            deliveries: item.deliveries,
            dead_at: now(),
        };
        state.dead.push_back((letter, item.message));
        if state.dead.len() > self.dead_bound {
            state.dead.pop_front();
        }
    }
}

/// By the clock on the wall, for people.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let ms = since.unwrap_or_default().as_millis();
    Timestamp(i64::try_from(ms).unwrap_or(i64::MAX))
}

impl State {
    fn add(&mut self, message: Message) {
        let sequence = self.next;
        self.next += 1;
        let item = Item {
            message,
            deliveries: 0,
            max_deliver: u32::MAX,
            place: Place::Ready,
        };
        self.items.insert(sequence, item);
        self.ready.insert(sequence);
    }

    fn stop_timer(&mut self, sequence: u64) {
        if let Some(Place::Held { until } | Place::Delayed { until }) =
            self.items.get(&sequence).map(|item| item.place)
        {
            self.due.remove(&(until, sequence));
        }
    }

    /// Held, and not by somebody who came later.
    fn holds(&self, sequence: u64, deliveries: u32) -> bool {
        self.items.get(&sequence).is_some_and(|item| {
            item.deliveries == deliveries && matches!(item.place, Place::Held { .. })
        })
    }

    fn forget_ids(&mut self, now: Instant, window: Duration, bound: usize) {
        while let Some(oldest) = self.seen_order.front() {
            let expired = self
                .seen
                .get(oldest)
                .is_none_or(|since| now.duration_since(*since) >= window);
            if !expired && self.seen_order.len() < bound {
                return;
            }
            if let Some(oldest) = self.seen_order.pop_front() {
                self.seen.remove(&oldest);
            }
        }
    }
}

/// A time too far away to name becomes a year.
fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait)
        .unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3600))
}

pub(crate) struct Worker {
    queue: Arc<Queue>,
    options: WorkOptions,
    stop: CancellationToken,
}

impl Worker {
    pub(super) fn new(queue: Arc<Queue>, options: WorkOptions, stop: CancellationToken) -> Self {
        Self {
            queue,
            options,
            stop,
        }
    }

    pub(crate) async fn next(&mut self, slots: &Slots) -> Option<Delivery> {
        loop {
            if self.stop.is_cancelled() {
                return None;
            }
            let mut changed = std::pin::pin!(self.queue.changed.notified());
            changed.as_mut().enable();
            if slots.free() == 0 {
                tokio::select! {
                    () = self.stop.cancelled() => return None,
                    () = slots.changed() => continue,
                }
            }
            let due = match self.queue.take(Instant::now(), &self.options) {
                Ok((sequence, message, deliveries)) => {
                    let queue = Arc::clone(&self.queue);
                    let lease = Lease {
                        queue,
                        sequence,
                        deliveries,
                        ack_wait: self.options.ack_wait,
                        open: true,
                    };
                    return Some(Delivery {
                        message,
                        deliveries,
                        lease: work::Lease::Memory(lease),
                        _slot: slots.take(),
                    });
                }
                Err(due) => due,
            };
            let falls_due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => return None,
                () = changed => {}
                () = falls_due => {}
                () = slots.changed() => {}
            }
        }
    }
}

pub(crate) struct Lease {
    queue: Arc<Queue>,
    sequence: u64,
    deliveries: u32,
    ack_wait: Duration,
    open: bool,
}

impl Lease {
    /// Counts even when it comes late and the message is already with somebody else, as in NATS.
    pub(crate) fn ack(mut self) {
        self.open = false;
        let mut state = self.queue.lock();
        state.stop_timer(self.sequence);
        state.ready.remove(&self.sequence);
        state.items.remove(&self.sequence);
    }

    pub(crate) fn retry(mut self, delay: Duration) {
        self.open = false;
        self.release((!delay.is_zero()).then(|| after(Instant::now(), delay)));
    }

    /// Not where it is already with somebody else, who has the last word then.
    pub(crate) fn bury(mut self) {
        self.open = false;
        let mut state = self.queue.lock();
        if state.holds(self.sequence, self.deliveries) {
            self.queue.bury(&mut state, self.sequence);
        }
    }

    pub(crate) fn in_progress(&self) {
        let mut state = self.queue.lock();
        if !state.holds(self.sequence, self.deliveries) {
            return;
        }
        state.stop_timer(self.sequence);
        let until = after(Instant::now(), self.ack_wait);
        state.due.insert((until, self.sequence));
        if let Some(item) = state.items.get_mut(&self.sequence) {
            item.place = Place::Held { until };
        }
    }

    fn release(&self, until: Option<Instant>) {
        {
            let mut state = self.queue.lock();
            if !state.holds(self.sequence, self.deliveries) {
                return;
            }
            self.queue.put_back(&mut state, self.sequence, until);
        }
        self.queue.changed.notify_waiters();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.open {
            self.release(None);
        }
    }
}
