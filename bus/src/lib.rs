//! The only NATS. Moves opaque bytes with headers between the services, in one process (`memory`)
//! or between many (`nats`), alike: one conformance suite runs on both.
//!
//! In: subjects built by the written grammar (`subject`), messages, deadlines. Out: replies, events,
//! deliveries, and a short list of errors. Three ways to send:
//!
//! | verb | taker | promise |
//! |--|--|--|
//! | `request` | `serve` | one answer before the deadline, or an error that says why not |
//! | `publish` | `subscribe` | at most once, to everybody who listens now; a slow reader loses the oldest and is told |
//! | `enqueue` | `work` | at least once, to one worker; stored before the call returns (in memory: until the process ends) |
//!
//! Never here: what a message means (`proto`), SQL, a decision.

mod dead;
mod error;
mod events;
pub mod link;
pub mod memory;
mod message;
mod meter;
#[cfg(test)]
#[path = "../../tests/mutate.rs"]
mod mutate;
pub mod nats;
mod requests;
pub mod subject;
mod trace;
pub mod typed;
mod work;

use std::time::Duration;

pub use dead::{Dead, Of};
pub use error::{Error, Result};
pub use events::{Event, Events};
pub use link::Link;
pub use message::{Headers, Limits, Message};
pub use meter::Meter;
pub use requests::{Request, Requests};
pub use subject::{Pattern, Priority, Subject};
pub use work::{DeadLetter, Delivery, Slots, Work, WorkOptions};

/// Cheap to clone; all clones are one bus.
#[derive(Clone)]
pub enum Bus {
    Memory(memory::Bus),
    Nats(nats::Bus),
}

/// Calls the same method of either engine.
macro_rules! on {
    ($bus:expr, $engine:ident => $call:expr) => {
        match $bus {
            Bus::Memory($engine) => $call,
            Bus::Nats($engine) => $call,
        }
    };
}

impl Bus {
    /// A bus inside this process. Nothing survives the process: whoever enqueues keeps a row and
    /// sweeps it at start.
    pub fn memory(limits: Limits) -> Self {
        Self::Memory(memory::Bus::new(limits))
    }

    /// Connects, and creates or checks the streams; fails fast if that cannot be done.
    pub async fn nats(config: nats::Config) -> Result<Self> {
        nats::Bus::connect(config).await.map(Self::Nats)
    }

    /// Asks whoever serves the subject and waits for the first answer.
    pub async fn request(
        &self,
        subject: &Subject,
        message: Message,
        deadline: Duration,
    ) -> Result<Message> {
        let answer = on!(self, engine => engine.request(subject, message, deadline).await);
        self.counts().sent("request", answer)
    }

    /// Serves a subject. Servers of one group share its requests, each going to one of them; without
    /// a group every server hears every request and the first answer counts. When this returns, the
    /// server can be reached.
    pub async fn serve(&self, subject: &Subject, group: Option<&str>) -> Result<Requests> {
        on!(self, engine => engine.serve(subject, group).await)
    }

    /// Tells everybody who listens now.
    pub async fn publish(&self, subject: &Subject, message: Message) -> Result<()> {
        let sent = on!(self, engine => engine.publish(subject, message).await);
        self.counts().sent("publish", sent)
    }

    /// Listens. When this returns, what is published from now on is heard.
    pub async fn subscribe(&self, pattern: &Pattern) -> Result<Events> {
        on!(self, engine => engine.subscribe(pattern).await)
    }

    /// Stores a message for one worker. The same id twice on one subject within
    /// [`Limits::duplicates`] is stored once.
    pub async fn enqueue(&self, subject: &Subject, id: &str, message: Message) -> Result<()> {
        let stored = on!(self, engine => engine.enqueue(subject, id, message).await);
        self.counts().sent("enqueue", stored)
    }

    /// Takes stored messages, in competition with every other worker of this subject. Give all of
    /// them the same `ack_wait` and `max_deliver`: the last one who comes sets `ack_wait` for all.
    pub async fn work(&self, subject: &Subject, options: WorkOptions) -> Result<Work> {
        on!(self, engine => engine.work(subject, options).await)
    }

    /// The dead letters of all subjects of an account, newest first; of each subject the newest [`Limits::dead`].
    pub async fn dead_letters(&self, account: &str) -> Result<Vec<DeadLetter>> {
        on!(self, engine => engine.dead_letters(account).await)
    }

    /// One of them, of any account, and the message itself.
    pub async fn dead_letter(&self, id: u64) -> Result<Option<(DeadLetter, Message)>> {
        on!(self, engine => engine.dead_letter(id).await)
    }

    /// Puts a dead letter back where it came from, to be delivered anew; once, however often this is tried within
    /// [`Limits::duplicates`]. `false`: there is none of this name.
    pub async fn redrive(&self, id: u64) -> Result<bool> {
        on!(self, engine => engine.redrive(id).await)
    }

    /// The connection to the server.
    pub fn link(&self) -> Link {
        on!(self, engine => engine.link())
    }

    /// One round trip to the server, streams included.
    pub async fn ping(&self) -> Result<Duration> {
        on!(self, engine => engine.ping().await)
    }

    /// Stops taking, for all clones: what has arrived can still be read and answered, then `next`
    /// gives `None`. Sending goes on working; what was sent has left this process.
    pub async fn drain(&self) {
        on!(self, engine => engine.drain().await);
    }

    fn counts(&self) -> &Meter {
        on!(self, engine => engine.meter())
    }
}
