//! The taker's side of durable work, the same for both engines: competing workers, each with as many
//! deliveries in hand as it has slots, every delivery acknowledged, put back or extended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use crate::{error::Result, memory, message::Message, nats, subject::Subject};
use domain::Timestamp;

#[derive(Debug, Clone)]
pub struct WorkOptions {
    /// Deliveries in hand at once; [`Slots::set`] changes it. 0 takes nothing.
    pub max_in_flight: usize,
    /// An unacknowledged delivery goes to somebody else after this time without `in_progress`.
    pub ack_wait: Duration,
    /// Deliveries of one message before it becomes a dead letter; at least 1. NATS forgets the count
    /// when the consumer is created anew.
    pub max_deliver: u32,
}

impl Default for WorkOptions {
    fn default() -> Self {
        Self {
            max_in_flight: 1,
            ack_wait: Duration::from_secs(30),
            max_deliver: 5,
        }
    }
}

/// One worker of a durable subject; dropping it stops taking, what it holds stays held.
pub struct Work {
    pub(crate) source: Source,
    pub(crate) slots: Slots,
}

pub(crate) enum Source {
    Memory(memory::Worker),
    Nats(Box<nats::Puller>),
}

impl Work {
    /// The next delivery, when there is one and a slot is free; `None` after a drain. Safe to cancel.
    /// Keep it polled: what was already sent to this worker waits here while its ack time runs. Set
    /// the slots to 0 to pause.
    pub async fn next(&mut self) -> Option<Delivery> {
        match &mut self.source {
            Source::Memory(worker) => worker.next(&self.slots).await,
            Source::Nats(puller) => puller.next(&self.slots).await,
        }
    }

    pub fn set_in_flight(&self, limit: usize) {
        self.slots.set(limit);
    }

    /// A handle that changes the number of slots while somebody else waits in [`Work::next`].
    pub fn slots(&self) -> Slots {
        self.slots.clone()
    }
}

/// How many deliveries one worker may hold, and how many it holds.
#[derive(Clone)]
pub struct Slots(Arc<Counts>);

struct Counts {
    limit: AtomicUsize,
    held: AtomicUsize,
    changed: Notify,
}

impl Slots {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Counts {
            limit: AtomicUsize::new(limit),
            held: AtomicUsize::new(0),
            changed: Notify::new(),
        }))
    }

    /// Below what is held now, nothing is taken until enough of it is finished.
    pub fn set(&self, limit: usize) {
        self.0.limit.store(limit, Ordering::SeqCst);
        self.0.changed.notify_one();
    }

    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::SeqCst)
    }

    pub fn free(&self) -> usize {
        self.0
            .limit
            .load(Ordering::SeqCst)
            .saturating_sub(self.held())
    }

    pub(crate) fn take(&self) -> Slot {
        self.0.held.fetch_add(1, Ordering::SeqCst);
        Slot(Arc::clone(&self.0))
    }

    /// Only the one worker waits here, so a change between two looks is not lost.
    pub(crate) async fn changed(&self) {
        self.0.changed.notified().await;
    }
}

/// One delivery in hand.
pub(crate) struct Slot(Arc<Counts>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_one();
    }
}

/// A message to work on. Dropped without an answer it is delivered again: at once by the memory
/// engine, after `ack_wait` by NATS.
pub struct Delivery {
    /// Take it with `std::mem::take` where it must outlive the acknowledgement, and only there: what is put back may have to be
    /// buried, with its message.
    pub message: Message,
    /// How many times this message has been delivered, this time included.
    pub deliveries: u32,
    pub(crate) lease: Lease,
    pub(crate) _slot: Slot,
}

pub(crate) enum Lease {
    Memory(memory::Lease),
    Nats(Box<nats::Lease>),
}

impl Delivery {
    /// Done: it will not come again. Should the acknowledgement be lost, it does: be idempotent.
    pub async fn ack(self) -> Result<()> {
        match self.lease {
            Lease::Memory(lease) => lease.ack(),
            Lease::Nats(lease) => lease.ack().await?,
        }
        Ok(())
    }

    /// Deliver it again, to anybody, not before `delay`; after the last delivery it becomes a dead
    /// letter now.
    pub async fn retry(self, delay: Duration) -> Result<()> {
        match self.lease {
            Lease::Memory(lease) => lease.retry(delay),
            Lease::Nats(lease) => lease.retry(delay, self.message, self.deliveries).await?,
        }
        Ok(())
    }

    /// Nobody will get further with it: a dead letter now, however often it has been delivered.
    pub async fn bury(self) -> Result<()> {
        match self.lease {
            Lease::Memory(lease) => lease.bury(),
            Lease::Nats(lease) => lease.bury(self.message, self.deliveries).await?,
        }
        Ok(())
    }

    /// Still at it: `ack_wait` starts again.
    pub async fn in_progress(&self) -> Result<()> {
        match &self.lease {
            Lease::Memory(lease) => lease.in_progress(),
            Lease::Nats(lease) => lease.in_progress().await?,
        }
        Ok(())
    }
}

/// What was delivered too often, kept for a person to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Names it as long as it is kept; a later one has a higher one.
    pub id: u64,
    /// Where it waited to be worked on.
    pub subject: Subject,
    pub deliveries: u32,
    pub dead_at: Timestamp,
}
