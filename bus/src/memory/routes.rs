//! Who serves which subject, and the way of a request to one of them. This is the hot path of every
//! sync execution of an embedded Phalanx: one look-up under a read lock, one bounded queue, one
//! oneshot; nothing else is allocated.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{
    mpsc::{self, error::TrySendError},
    oneshot,
};

use crate::{
    error::{Error, Result},
    message::Message,
    requests::{Reply, Request},
};

#[derive(Default)]
pub(super) struct Routes(RwLock<HashMap<String, Vec<Group>>>);

/// Servers that share requests; a server without a group is a group of its own.
struct Group {
    name: Option<String>,
    servers: Vec<Server>,
    turn: AtomicUsize,
}

struct Server {
    id: u64,
    queue: mpsc::Sender<Request>,
}

impl Routes {
    /// Puts the request in front of one server of each group.
    pub(super) fn send(
        &self,
        subject: &str,
        message: Message,
        answer: oneshot::Sender<Message>,
        limit: usize,
    ) -> Result<()> {
        let routes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let groups = routes.get(subject).map_or(&[][..], Vec::as_slice);
        if let [group] = groups {
            return group.offer(Request {
                message,
                reply: Reply::One(answer),
                limit,
            });
        }
        let shared = Arc::new(Mutex::new(Some(answer)));
        let mut outcome = Err(Error::NoResponders);
        for group in groups {
            let reply = Reply::Shared(Arc::clone(&shared));
            let offered = group.offer(Request {
                message: message.clone(),
                reply,
                limit,
            });
            if outcome.is_err() && offered != Err(Error::NoResponders) {
                outcome = offered;
            }
        }
        outcome
    }

    pub(super) fn add(
        routes: &Arc<Self>,
        subject: &str,
        group: Option<&str>,
        id: u64,
        queue: mpsc::Sender<Request>,
    ) -> Registration {
        let mut table = routes.0.write().unwrap_or_else(PoisonError::into_inner);
        let groups = table.entry(subject.to_owned()).or_default();
        let server = Server { id, queue };
        match groups
            .iter_mut()
            .find(|known| group.is_some() && known.name.as_deref() == group)
        {
            Some(known) => known.servers.push(server),
            None => groups.push(Group {
                name: group.map(str::to_owned),
                servers: vec![server],
                turn: AtomicUsize::new(0),
            }),
        }
        Registration {
            id,
            subject: subject.to_owned(),
            routes: Arc::downgrade(routes),
        }
    }

    pub(super) fn clear(&self) {
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl Group {
    /// Round robin; a full server is passed over, and only when all are full the group is busy.
    fn offer(&self, mut request: Request) -> Result<()> {
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut refusal = Error::NoResponders;
        for step in 0..self.servers.len() {
            let server = &self.servers[start.wrapping_add(step) % self.servers.len()];
            match server.queue.try_send(request) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(back)) => {
                    refusal = Error::Busy;
                    request = back;
                }
                Err(TrySendError::Closed(back)) => request = back,
            }
        }
        Err(refusal)
    }
}

/// Takes a server out of the table when dropped.
pub(crate) struct Registration {
    id: u64,
    subject: String,
    routes: Weak<Routes>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(routes) = self.routes.upgrade() else {
            return;
        };
        let mut table = routes.0.write().unwrap_or_else(PoisonError::into_inner);
        let Some(groups) = table.get_mut(&self.subject) else {
            return;
        };
        for group in groups.iter_mut() {
            group.servers.retain(|server| server.id != self.id);
        }
        groups.retain(|group| !group.servers.is_empty());
        if groups.is_empty() {
            table.remove(&self.subject);
        }
    }
}
