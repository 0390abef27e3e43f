//! Durable work over JetStream: one durable consumer per subject, pulled for exactly as many messages
//! as there are free slots. One pull is open at a time; a new one is sent when it is used up, has
//! expired, or was lost.
//!
//! The count of deliveries is judged here, not by the server, which would leave a message that came
//! too often in the stream without a word.

use std::{sync::Arc, time::Duration};

use async_nats::{
    StatusCode, Subscriber,
    jetstream::{
        self, AckKind, Context,
        consumer::{
            AckPolicy, PullConsumer,
            pull::{self, BatchConfig},
        },
    },
};
use futures::StreamExt as _;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    jittered,
    lease::{Lease, Origin},
    serve::{self, Courier},
    streams, wire,
};
use crate::{
    error::{Error, Result},
    subject::Subject,
    work::{self, Delivery, Slots, WorkOptions},
};

/// How long one pull stays open, and how often the server says that it still knows it.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(11);
const PULL_MAX: usize = 1024;
/// Unacknowledged messages of one subject over all its workers: a ceiling that none should meet. What is unacknowledged follows
/// their free slots, since each pulls for exactly those.
const MAX_ACK_PENDING: i64 = 65_536;
/// A consumer that nobody pulls from goes; the messages stay, and the next worker makes it again.
const CONSUMER_IDLE: Duration = Duration::from_secs(24 * 3600);
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What a puller borrows from its bus.
pub(super) struct Parts {
    pub(super) courier: Arc<Courier>,
    pub(super) context: Context,
    pub(super) reconnections: watch::Receiver<u64>,
    pub(super) stop: CancellationToken,
}

pub(crate) struct Puller {
    courier: Arc<Courier>,
    reconnections: watch::Receiver<u64>,
    stop: CancellationToken,
    origin: Arc<Origin>,
    stream: &'static str,
    config: pull::Config,
    /// `None` when it must be made again.
    consumer: Option<PullConsumer>,
    /// `None` once handed over to be given back.
    inbox: Option<Inbox>,
    /// Messages that the open pull may still bring; 0 = no pull is open.
    asked: usize,
    /// A pull that is silent for so long is lost.
    silent_at: Instant,
    not_before: Instant,
    failures: usize,
}

struct Inbox {
    subject: async_nats::Subject,
    messages: Subscriber,
}

impl Puller {
    pub(super) async fn start(
        parts: Parts,
        subject: Subject,
        options: &WorkOptions,
    ) -> Result<Self> {
        let config = pull::Config {
            durable_name: Some(subject.as_str().replace('.', "~")),
            filter_subject: subject.to_string(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: options.ack_wait,
            max_deliver: -1,
            max_ack_pending: MAX_ACK_PENDING,
            inactive_threshold: CONSUMER_IDLE,
            ..pull::Config::default()
        };
        let mut puller = Self {
            stream: streams::of(&subject)?,
            origin: Arc::new(Origin {
                client: parts.courier.client.clone(),
                context: parts.context,
                subject,
                max_deliver: options.max_deliver.max(1),
            }),
            config,
            courier: parts.courier,
            reconnections: parts.reconnections,
            stop: parts.stop,
            consumer: None,
            inbox: None,
            asked: 0,
            silent_at: Instant::now(),
            not_before: Instant::now(),
            failures: 0,
        };
        puller.prepare().await?;
        Ok(puller)
    }

    pub(crate) async fn next(&mut self, slots: &Slots) -> Option<Delivery> {
        loop {
            if self.stop.is_cancelled() {
                self.give_back();
                return None;
            }
            let free = slots.free();
            if self.asked > free {
                // Fewer slots than were asked for: the pull cannot be made smaller, only be replaced.
                self.give_back();
            }
            if self.asked == 0 && free > 0 && Instant::now() >= self.not_before {
                self.ask(free).await;
            }
            let wake = match (self.asked, free) {
                (1.., _) => Some(self.silent_at),
                (0, 1..) => Some(self.not_before),
                (0, 0) => None,
            };
            let woken = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let arrived = async {
                match &mut self.inbox {
                    Some(inbox) => inbox.messages.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                message = arrived => {
                    if let Some(delivery) = self.receive(message?, slots).await {
                        return Some(delivery);
                    }
                }
                () = slots.changed() => {}
                changed = self.reconnections.changed() => {
                    changed.ok()?;
                    self.give_back();
                }
                () = woken => if self.asked > 0 {
                    tracing::warn!(subject = %self.origin.subject, "the server has gone silent, making the consumer again");
                    self.lose_consumer();
                }
            }
        }
    }

    /// The consumer and an inbox, where they are missing.
    async fn prepare(&mut self) -> Result<()> {
        if self.consumer.is_none() {
            let created = self
                .origin
                .context
                .create_consumer_on_stream(self.config.clone(), self.stream)
                .await;
            self.consumer = Some(created.map_err(Error::unavailable)?);
        }
        if self.inbox.is_none() {
            let client = &self.courier.client;
            let subject = async_nats::Subject::from(client.new_inbox());
            let messages = client
                .subscribe(subject.clone())
                .await
                .map_err(Error::unavailable)?;
            self.inbox = Some(Inbox { subject, messages });
        }
        Ok(())
    }

    async fn ask(&mut self, free: usize) {
        let batch = free.min(PULL_MAX);
        let asked = match self.prepare().await {
            Ok(()) => self.send_pull(batch).await,
            Err(error) => Err(error),
        };
        match asked {
            Ok(()) => {
                self.asked = batch;
                self.silent_at = Instant::now() + SILENCE;
            }
            Err(error) => {
                tracing::warn!(subject = %self.origin.subject, %error, "cannot pull work, trying again");
                self.back_off();
            }
        }
    }

    async fn send_pull(&self, batch: usize) -> Result<()> {
        let (Some(consumer), Some(inbox)) = (&self.consumer, &self.inbox) else {
            return Ok(());
        };
        let pull = BatchConfig {
            batch,
            expires: Some(PULL_EXPIRES),
            idle_heartbeat: HEARTBEAT,
            ..BatchConfig::default()
        };
        consumer
            .request_batch(pull, inbox.subject.clone())
            .await
            .map_err(Error::unavailable)
    }

    /// A message or what the server says about the pull. No await before the books are kept.
    async fn receive(&mut self, wire: async_nats::Message, slots: &Slots) -> Option<Delivery> {
        self.silent_at = Instant::now() + SILENCE;
        match wire.status {
            None | Some(StatusCode::OK) => {}
            Some(StatusCode::IDLE_HEARTBEAT) => return None,
            Some(StatusCode::TIMEOUT) => {
                self.asked = 0;
                return None;
            }
            Some(status) => {
                let gone = status == StatusCode::NO_RESPONDERS
                    || wire
                        .description
                        .as_deref()
                        .is_some_and(|why| why.contains("Deleted"));
                tracing::info!(subject = %self.origin.subject, %status, why = wire.description, "a pull was ended");
                if gone {
                    self.lose_consumer();
                } else {
                    self.asked = 0;
                }
                self.back_off();
                return None;
            }
        }
        self.asked = self.asked.saturating_sub(1);
        self.failures = 0;
        let slot = slots.take();
        let reply = wire.reply.clone()?;
        let wire = jetstream::Message {
            message: wire,
            context: self.origin.context.clone(),
        };
        let info = wire
            .info()
            .map(|info| (info.delivered, info.stream_sequence));
        let Ok((delivered, sequence)) =
            info.map_err(|error| tracing::warn!(%error, "a message without its place"))
        else {
            return None;
        };
        let deliveries = u32::try_from(delivered).unwrap_or(u32::MAX);
        let lease = Lease {
            origin: Arc::clone(&self.origin),
            reply,
            sequence,
        };
        let message = wire::message(wire.message);
        if deliveries > self.origin.max_deliver {
            // The deliveries before this one, which nobody sees.
            if let Err(error) = lease.bury(message, deliveries - 1).await {
                tracing::warn!(subject = %self.origin.subject, %error, "a dead letter could not be stored, it comes again");
            }
            return None;
        }
        Some(Delivery {
            message,
            deliveries,
            lease: work::Lease::Nats(Box::new(lease)),
            _slot: slot,
        })
    }

    fn lose_consumer(&mut self) {
        self.consumer = None;
        self.give_back();
    }

    fn back_off(&mut self) {
        self.not_before = Instant::now() + jittered(self.failures, RETRY_MIN, RETRY_MAX);
        self.failures += 1;
    }

    /// Ends the open pull by leaving its inbox. What is already under way goes back to the queue; it
    /// counts as delivered.
    fn give_back(&mut self) {
        self.asked = 0;
        let Some(inbox) = self.inbox.take() else {
            return;
        };
        let client = self.courier.client.clone();
        self.courier.send_later(async move {
            let mut refused = Vec::new();
            serve::last_messages(inbox.messages, |wire| {
                if wire.status.is_none_or(|status| status == StatusCode::OK) {
                    refused.extend(wire.reply);
                }
            })
            .await;
            for reply in refused {
                // Best effort: it comes back after its ack time anyway.
                let _ = client.publish(reply, AckKind::Nak(None).into()).await;
            }
        });
    }
}

impl Drop for Puller {
    fn drop(&mut self) {
        self.give_back();
    }
}
