//! The bus inside one process: a table of servers, a list of subscribers, a queue per durable
//! subject. No task of its own, no timer per message, no lock held across an await.
//!
//! Not durable, by design: every durable message has a row, and rows nobody finished are swept at
//! start. Serves one process only; single roles refuse it.

mod queue;
mod routes;

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub(crate) use queue::{Lease, Worker};
pub(crate) use routes::Registration;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use self::{queue::Queue, routes::Routes};
use crate::{
    error::{Error, Result},
    events::{self, Events, Ring},
    link::{self, Link},
    message::{Limits, Message},
    meter::Meter,
    requests::{self, Requests},
    subject::{Pattern, Subject},
    work::{DeadLetter, Slots, Source, Work, WorkOptions},
};

#[derive(Clone)]
pub struct Bus(Arc<Inner>);

struct Inner {
    limits: Limits,
    routes: Arc<Routes>,
    subscribers: RwLock<Vec<Subscriber>>,
    queues: RwLock<HashMap<String, Arc<Queue>>>,
    next_id: AtomicU64,
    next_letter: Arc<AtomicU64>,
    stop: CancellationToken,
    meter: Meter,
    link: (tokio::sync::watch::Sender<link::State>, Link),
}

struct Subscriber {
    id: u64,
    pattern: Pattern,
    ring: Arc<Ring>,
}

impl Bus {
    pub(crate) fn link(&self) -> Link {
        self.0.link.1.clone()
    }

    pub(crate) fn new(limits: Limits) -> Self {
        Self(Arc::new(Inner {
            limits,
            routes: Arc::default(),
            subscribers: RwLock::default(),
            queues: RwLock::default(),
            next_id: AtomicU64::new(0),
            next_letter: Arc::new(AtomicU64::new(1)),
            stop: CancellationToken::new(),
            meter: Meter::default(),
            link: Link::standing(),
        }))
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.0.meter
    }

    pub(crate) async fn request(
        &self,
        subject: &Subject,
        message: Message,
        deadline: Duration,
    ) -> Result<Message> {
        let limit = self.0.limits.message;
        message.check(limit)?;
        let (sender, answer) = oneshot::channel();
        self.0
            .routes
            .send(subject.as_str(), message, sender, limit)?;
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_dropped)) => Err(Error::Unanswered),
            Err(_elapsed) => Err(Error::Timeout),
        }
    }

    pub(crate) async fn serve(&self, subject: &Subject, group: Option<&str>) -> Result<Requests> {
        self.check_open()?;
        let (sender, waiting) = mpsc::channel(self.0.limits.requests.max(1));
        let registration = Routes::add(&self.0.routes, subject.as_str(), group, self.id(), sender);
        // A drain that came in between has cleared the table before this server was in it.
        self.check_open()?;
        Ok(Requests {
            waiting,
            _guard: requests::Guard::Memory {
                _registration: registration,
            },
        })
    }

    pub(crate) async fn publish(&self, subject: &Subject, message: Message) -> Result<()> {
        message.check(self.0.limits.message)?;
        let subscribers = self
            .0
            .subscribers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        for subscriber in subscribers
            .iter()
            .filter(|subscriber| subscriber.pattern.matches(subject))
        {
            subscriber.ring.push(message.clone());
        }
        Ok(())
    }

    pub(crate) async fn subscribe(&self, pattern: &Pattern) -> Result<Events> {
        let (id, ring) = (self.id(), Ring::new(self.0.limits.events));
        let mut subscribers = self
            .0
            .subscribers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        self.check_open()?;
        subscribers.push(Subscriber {
            id,
            pattern: pattern.clone(),
            ring: Arc::clone(&ring),
        });
        let subscription = Subscription {
            id,
            bus: Arc::downgrade(&self.0),
        };
        Ok(Events {
            ring,
            _guard: events::Guard::Memory {
                _subscription: subscription,
            },
        })
    }

    pub(crate) async fn enqueue(
        &self,
        subject: &Subject,
        id: &str,
        message: Message,
    ) -> Result<()> {
        message.check(self.0.limits.message)?;
        self.queue(subject).push(id, message, Instant::now())
    }

    pub(crate) async fn work(&self, subject: &Subject, options: WorkOptions) -> Result<Work> {
        self.check_open()?;
        let slots = Slots::new(options.max_in_flight);
        let worker = Worker::new(self.queue(subject), options, self.0.stop.clone());
        Ok(Work {
            source: Source::Memory(worker),
            slots,
        })
    }

    pub(crate) async fn dead_letters(&self, account: &str) -> Result<Vec<DeadLetter>> {
        let now = Instant::now();
        let of_account = |queue: &Arc<Queue>| queue.subject().is_of(account);
        let mut letters: Vec<_> = self
            .queues()
            .into_iter()
            .filter(of_account)
            .flat_map(|queue| queue.dead_letters(now))
            .collect();
        letters.sort_by_key(|letter| std::cmp::Reverse(letter.id));
        Ok(letters)
    }

    pub(crate) async fn dead_letter(&self, id: u64) -> Result<Option<(DeadLetter, Message)>> {
        let queues = self.queues();
        Ok(queues.into_iter().find_map(|queue| queue.dead_letter(id)))
    }

    pub(crate) async fn redrive(&self, id: u64) -> Result<bool> {
        for queue in self.queues() {
            if queue.redrive(id)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn queues(&self) -> Vec<Arc<Queue>> {
        let queues = self.0.queues.read().unwrap_or_else(PoisonError::into_inner);
        queues.values().cloned().collect()
    }

    pub(crate) async fn ping(&self) -> Result<Duration> {
        Ok(Duration::ZERO)
    }

    pub(crate) async fn drain(&self) {
        self.0.stop.cancel();
        self.0.routes.clear();
        let subscribers = std::mem::take(
            &mut *self
                .0
                .subscribers
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for subscriber in subscribers {
            subscriber.ring.close();
        }
    }

    fn queue(&self, subject: &Subject) -> Arc<Queue> {
        let queues = self.0.queues.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(subject.as_str()) {
            return Arc::clone(queue);
        }
        drop(queues);
        let mut queues = self
            .0
            .queues
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let queue = queues
            .entry(subject.as_str().to_owned())
            .or_insert_with(|| {
                let letters = Arc::clone(&self.0.next_letter);
                Arc::new(Queue::new(subject.clone(), letters, &self.0.limits))
            });
        Arc::clone(queue)
    }

    fn id(&self) -> u64 {
        self.0.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn check_open(&self) -> Result<()> {
        if self.0.stop.is_cancelled() {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }
}

/// Ends a subscription when dropped.
pub(crate) struct Subscription {
    id: u64,
    bus: Weak<Inner>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(bus) = self.bus.upgrade() {
            let mut subscribers = bus
                .subscribers
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            subscribers.retain(|subscriber| subscriber.id != self.id);
        }
    }
}

/// When the last clone goes, readers end instead of waiting for ever.
impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
        for subscriber in self
            .subscribers
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
        {
            subscriber.ring.close();
        }
    }
}
