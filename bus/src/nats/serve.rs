//! Subscriptions that a task of the bus empties: requests into a bounded queue (a full one refuses at
//! once instead of letting the deadline pass), events into a ring.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, Subscriber};
use futures::StreamExt as _;
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::wire;
use crate::{
    error::{Error, Result},
    events::Ring,
    message::Message,
    requests::{self, Request},
};

/// For the messages that are under way when a subscription ends.
const LAST_MESSAGES: Duration = Duration::from_secs(5);

/// Ends a subscription when dropped.
pub(crate) struct Pump {
    pub(super) _stop: DropGuard,
}

/// What a pump and its replies share.
pub(super) struct Courier {
    pub(super) client: Client,
    pub(super) tasks: TaskTracker,
    pub(super) runtime: Handle,
    pub(super) limit: usize,
}

impl Courier {
    /// For what must be sent where nobody can wait. Owned by the bus, bounded by the client's own
    /// queue and by time.
    pub(super) fn send_later(&self, send: impl Future<Output = ()> + Send + 'static) {
        let bounded = async {
            if tokio::time::timeout(LAST_MESSAGES, send).await.is_err() {
                tracing::debug!("a message could not be sent while the bus was away");
            }
        };
        self.tasks.spawn_on(bounded, &self.runtime);
    }
}

pub(super) async fn pump_requests(
    mut subscription: Subscriber,
    waiting: mpsc::Sender<Request>,
    group: bool,
    courier: Arc<Courier>,
    stop: CancellationToken,
) {
    let offer = |wire: async_nats::Message| {
        let Some(to) = wire.reply.clone() else { return };
        let reply = Reply {
            to,
            group,
            courier: Arc::clone(&courier),
            refusal: Some(Error::Unanswered),
        };
        let request = Request {
            message: wire::message(wire),
            reply: requests::Reply::Nats(Box::new(reply)),
            limit: courier.limit,
        };
        if let Err(mpsc::error::TrySendError::Full(mut request)) = waiting.try_send(request)
            && let requests::Reply::Nats(reply) = &mut request.reply
        {
            reply.refusal = Some(Error::Busy);
        }
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = waiting.closed() => break,
            next = subscription.next() => match next {
                Some(wire) => offer(wire),
                None => return,
            },
        }
    }
    last_messages(subscription, offer).await;
}

pub(super) async fn pump_events(
    mut subscription: Subscriber,
    ring: Arc<Ring>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            next = subscription.next() => match next {
                Some(wire) => ring.push(wire::message(wire)),
                None => break,
            },
        }
    }
    last_messages(subscription, |wire| ring.push(wire::message(wire))).await;
    ring.close();
}

/// Tells the server to stop, then hands on what was still under way.
pub(super) async fn last_messages(
    mut subscription: Subscriber,
    mut take: impl FnMut(async_nats::Message),
) {
    let rest = async {
        if subscription.drain().await.is_ok() {
            while let Some(wire) = subscription.next().await {
                take(wire);
            }
        }
    };
    if tokio::time::timeout(LAST_MESSAGES, rest).await.is_err() {
        tracing::debug!("a subscription did not end in time");
    }
}

/// The way back to a requester. Dropped, it says that there will be no answer; best effort, and only
/// where this server alone has the request.
pub(crate) struct Reply {
    to: async_nats::Subject,
    group: bool,
    courier: Arc<Courier>,
    refusal: Option<Error>,
}

impl Reply {
    pub(crate) async fn send(mut self, message: Message) -> Result<()> {
        let headers = wire::headers(&message.headers)?;
        let (client, to) = (&self.courier.client, self.to.clone());
        let sent = match headers {
            None => client.publish(to, message.payload).await,
            Some(headers) => {
                client
                    .publish_with_headers(to, headers, message.payload)
                    .await
            }
        };
        sent.map_err(Error::unavailable)?;
        self.refusal = None;
        Ok(())
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // Among servers without a group silence means "not mine", but a full queue is worth saying
        // only if nobody else answers: there too silence is right.
        let Some(refusal) = self.refusal.take().filter(|_| self.group) else {
            return;
        };
        let (client, to) = (self.courier.client.clone(), self.to.clone());
        self.courier.send_later(async move {
            // Best effort: the requester has its deadline.
            let _ = client
                .publish_with_headers(to, wire::refusal(&refusal), Default::default())
                .await;
        });
    }
}
