//! The reader's side of fan-out events, the same for both engines: a bounded ring that loses its
//! oldest when the reader is slow, and says how many.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::{memory, message::Message, nats};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Message(Message),
    /// So many events were lost just before the next one: re-read what they would have told.
    Lagged(u64),
}

/// A subscription; dropping it ends it.
pub struct Events {
    pub(crate) ring: Arc<Ring>,
    pub(crate) _guard: Guard,
}

/// Ends the subscription when dropped.
pub(crate) enum Guard {
    Memory { _subscription: memory::Subscription },
    Nats { _pump: nats::Pump },
}

impl Events {
    /// The next event; `None` after a drain. Safe to cancel.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let arrived = self.ring.arrived.notified();
            match self.ring.take() {
                Taken::Event(event) => return Some(event),
                Taken::Closed => return None,
                Taken::Nothing => arrived.await,
            }
        }
    }
}

/// Many may push, one reads.
pub(crate) struct Ring {
    state: Mutex<State>,
    bound: usize,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Message>,
    lost: u64,
    closed: bool,
}

enum Taken {
    Event(Event),
    Nothing,
    Closed,
}

impl Ring {
    pub(crate) fn new(bound: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            bound: bound.max(1),
            arrived: Notify::new(),
        })
    }

    pub(crate) fn push(&self, message: Message) {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.closed {
                return;
            }
            if state.waiting.len() >= self.bound {
                state.waiting.pop_front();
                state.lost += 1;
            }
            state.waiting.push_back(message);
        }
        self.arrived.notify_one();
    }

    /// What is waiting can still be read.
    pub(crate) fn close(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.arrived.notify_one();
    }

    fn take(&self) -> Taken {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.lost > 0 {
            return Taken::Event(Event::Lagged(std::mem::take(&mut state.lost)));
        }
        match state.waiting.pop_front() {
            Some(message) => Taken::Event(Event::Message(message)),
            None if state.closed => Taken::Closed,
            None => Taken::Nothing,
        }
    }
}
