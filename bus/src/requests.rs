//! The server's side of request and reply, the same for both engines: a bounded queue of requests,
//! each of which is answered once or let go.
//!
//! Letting go tells the requester at once ([`crate::Error::Unanswered`]) for a server in a group.
//! Where all servers hear a request (no group), silence means "not mine": the memory engine tells the
//! requester when the last one has let go, NATS cannot know and lets the deadline pass.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

use crate::{error::Result, memory, message::Message, nats};

/// What one server has to answer; dropping it stops serving.
pub struct Requests {
    pub(crate) waiting: mpsc::Receiver<Request>,
    pub(crate) _guard: Guard,
}

/// Ends the registration when dropped.
pub(crate) enum Guard {
    Memory { _registration: memory::Registration },
    Nats { _pump: nats::Pump },
}

impl Requests {
    /// The next request; `None` after a drain. Safe to cancel.
    pub async fn next(&mut self) -> Option<Request> {
        self.waiting.recv().await
    }
}

pub struct Request {
    /// Take it with `std::mem::take` where it must outlive the answer.
    pub message: Message,
    pub(crate) reply: Reply,
    /// Bound of the answer's size.
    pub(crate) limit: usize,
}

pub(crate) enum Reply {
    /// Dropping the sender is the refusal.
    One(oneshot::Sender<Message>),
    /// Several servers hold it; the first takes the sender, the last one dropped is the refusal.
    Shared(Arc<Mutex<Option<oneshot::Sender<Message>>>>),
    Nats(Box<nats::Reply>),
}

impl Request {
    /// Answers. A requester who has gone is no error; an answer over the bound is, and the requester
    /// then hears that there is none.
    pub async fn respond(self, message: Message) -> Result<()> {
        message.check(self.limit)?;
        match self.reply {
            Reply::One(sender) => {
                // The requester may have gone: nobody to tell.
                let _ = sender.send(message);
            }
            Reply::Shared(shared) => {
                let sender = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(sender) = sender {
                    let _ = sender.send(message);
                }
            }
            Reply::Nats(reply) => reply.send(message).await?,
        }
        Ok(())
    }
}
