//! One durable subject in memory: what is ready, what is held by a worker, what waits for its delay.
//! Nobody runs in the background: a worker that looks for work first settles what has fallen due, and
//! sleeps until the earliest of the rest.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, Result},
    message::{Limits, Message},
    work::{self, DeadLetter, Delivery, Slots, WorkOptions},
};

pub(super) struct Queue {
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
    dead: VecDeque<DeadLetter>,
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
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            bound: limits.queue,
            dead_bound: limits.dead,
            window: limits.duplicates,
            window_bound: limits.duplicate_ids,
        }
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
            let sequence = state.next;
            state.next += 1;
            state.items.insert(
                sequence,
                Item {
                    message,
                    deliveries: 0,
                    max_deliver: u32::MAX,
                    place: Place::Ready,
                },
            );
            state.ready.insert(sequence);
        }
        self.changed.notify_waiters();
        Ok(())
    }

    pub(super) fn dead_letters(&self, now: Instant) -> Vec<DeadLetter> {
        let mut state = self.lock();
        state.settle(now, self.dead_bound);
        state.dead.iter().cloned().collect()
    }

    /// The next message in hand, or when to look again.
    fn take(
        &self,
        now: Instant,
        options: &WorkOptions,
    ) -> Result<(u64, Message, u32), Option<Instant>> {
        let mut state = self.lock();
        state.settle(now, self.dead_bound);
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
}

impl State {
    /// Delays that are over and ack times that have run out.
    fn settle(&mut self, now: Instant, dead_bound: usize) {
        while let Some(&(until, sequence)) = self.due.first()
            && until <= now
        {
            self.due.pop_first();
            self.put_back(sequence, None, dead_bound);
        }
    }

    /// Ready again, now or at `until`; dead if it has been out often enough.
    fn put_back(&mut self, sequence: u64, until: Option<Instant>, dead_bound: usize) {
        self.stop_timer(sequence);
        let Some(item) = self.items.get_mut(&sequence) else {
            return;
        };
        if item.deliveries >= item.max_deliver {
            if let Some(item) = self.items.remove(&sequence) {
                self.ready.remove(&sequence);
                self.dead.push_back(DeadLetter {
                    message: item.message,
                    deliveries: item.deliveries,
                });
                if self.dead.len() > dead_bound {
                    self.dead.pop_front();
                }
            }
            return;
        }
        match until {
            None => {
                item.place = Place::Ready;
                self.ready.insert(sequence);
            }
            Some(until) => {
                item.place = Place::Delayed { until };
                self.due.insert((until, sequence));
            }
        }
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
            state.put_back(self.sequence, until, self.queue.dead_bound);
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
