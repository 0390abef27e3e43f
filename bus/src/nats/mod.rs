//! The bus between processes: core NATS for requests and events, JetStream for what must not be lost.
//! Reconnects for ever; consumers that disappear are made again. JetStream acknowledges before it
//! syncs to disk, so a row stands behind every durable message here too.

mod config;
mod connect;
mod dead;
mod lease;
mod pull;
mod serve;
mod streams;
mod wire;

use std::{
    hash::{BuildHasher as _, Hasher as _},
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, Context};
pub use config::Config;
pub(crate) use lease::Lease;
pub(crate) use pull::Puller;
pub(crate) use serve::{Pump, Reply};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::serve::Courier;
use crate::{
    error::{Error, Result},
    events::{self, Events, Ring},
    link::Link,
    message::{Limits, Message},
    meter::Meter,
    requests::{self, Requests},
    subject::{self, Pattern, Subject},
    work::{DeadLetter, Slots, Source, Work, WorkOptions},
};

/// For the tasks of the bus to end when it is drained.
const DRAIN: Duration = Duration::from_secs(10);
const RECONNECT_MIN: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(4);

#[derive(Clone)]
pub struct Bus(Arc<Inner>);

struct Inner {
    courier: Arc<Courier>,
    context: Context,
    limits: Limits,
    server_timeout: Duration,
    /// Counts reconnections, so that a worker knows that the server has forgotten its pull.
    reconnections: watch::Receiver<u64>,
    link: Link,
    stop: CancellationToken,
    meter: Meter,
}

impl Bus {
    pub(crate) async fn connect(config: Config) -> Result<Self> {
        let (reconnected, reconnections) = watch::channel(0);
        let (broken, link) = Link::standing();
        let meter = Meter::default();
        let told = (reconnected, broken);
        let client = connect::connect(&config, told, meter.reconnections.clone()).await?;
        let context = jetstream::context::ContextBuilder::new()
            .timeout(config.server_timeout)
            .backpressure_on_inflight(true)
            .build(client.clone());
        streams::ensure_all(&context, &config).await?;
        let tasks = TaskTracker::new();
        let courier = Courier {
            client,
            tasks,
            runtime: Handle::current(),
            limit: config.limits.message,
        };
        Ok(Self(Arc::new(Inner {
            courier: Arc::new(courier),
            context,
            limits: config.limits,
            server_timeout: config.server_timeout,
            reconnections,
            link,
            stop: CancellationToken::new(),
            meter,
        })))
    }

    pub(crate) fn link(&self) -> Link {
        self.0.link.clone()
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
        message.check(self.0.limits.message)?;
        let mut request = async_nats::Request::new()
            .payload(message.payload)
            .timeout(None);
        if let Some(headers) = wire::headers(&message.headers)? {
            request = request.headers(headers);
        }
        // Around the whole: while the server is away, handing the request over can wait as well.
        let answer = self
            .0
            .courier
            .client
            .send_request(subject.to_string(), request);
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => wire::answer(answer),
            Ok(Err(error)) => Err(wire::request_error(&error)),
            Err(_elapsed) => Err(Error::Timeout),
        }
    }

    pub(crate) async fn serve(&self, subject: &Subject, group: Option<&str>) -> Result<Requests> {
        self.check_open()?;
        let client = &self.0.courier.client;
        let subscription = match group {
            Some(group) => {
                client
                    .queue_subscribe(subject.to_string(), subject::token(group))
                    .await
            }
            None => client.subscribe(subject.to_string()).await,
        }
        .map_err(Error::unavailable)?;
        self.ping().await?;
        let (sender, waiting) = mpsc::channel(self.0.limits.requests.max(1));
        let (stop, pump) = self.pump();
        let courier = Arc::clone(&self.0.courier);
        self.spawn(serve::pump_requests(
            subscription,
            sender,
            group.is_some(),
            courier,
            stop,
        ));
        Ok(Requests {
            waiting,
            _guard: requests::Guard::Nats { _pump: pump },
        })
    }

    pub(crate) async fn publish(&self, subject: &Subject, message: Message) -> Result<()> {
        message.check(self.0.limits.message)?;
        let headers = wire::headers(&message.headers)?;
        let send = async {
            let client = &self.0.courier.client;
            match headers {
                None => client.publish(subject.to_string(), message.payload).await,
                Some(headers) => {
                    client
                        .publish_with_headers(subject.to_string(), headers, message.payload)
                        .await
                }
            }
        };
        match tokio::time::timeout(self.0.server_timeout, send).await {
            Ok(sent) => sent.map_err(Error::unavailable),
            Err(_elapsed) => Err(Error::Unavailable(
                "the server is away and the buffer is full".to_owned(),
            )),
        }
    }

    pub(crate) async fn subscribe(&self, pattern: &Pattern) -> Result<Events> {
        self.check_open()?;
        let subscription = self
            .0
            .courier
            .client
            .subscribe(pattern.as_str().to_owned())
            .await
            .map_err(Error::unavailable)?;
        self.ping().await?;
        let ring = Ring::new(self.0.limits.events);
        let (stop, pump) = self.pump();
        self.spawn(serve::pump_events(subscription, Arc::clone(&ring), stop));
        Ok(Events {
            ring,
            _guard: events::Guard::Nats { _pump: pump },
        })
    }

    pub(crate) async fn enqueue(
        &self,
        subject: &Subject,
        id: &str,
        message: Message,
    ) -> Result<()> {
        message.check(self.0.limits.message)?;
        streams::of(subject)?;
        // The server remembers ids per stream, we promise them per subject.
        let id = format!("{subject}/{}", subject::token(id));
        lease::store(&self.0.context, subject, &id, message).await
    }

    pub(crate) async fn work(&self, subject: &Subject, options: WorkOptions) -> Result<Work> {
        self.check_open()?;
        let slots = Slots::new(options.max_in_flight);
        let parts = pull::Parts {
            courier: Arc::clone(&self.0.courier),
            context: self.0.context.clone(),
            reconnections: self.0.reconnections.clone(),
            stop: self.0.stop.clone(),
        };
        let puller = Puller::start(parts, subject.clone(), &options).await?;
        Ok(Work {
            source: Source::Nats(Box::new(puller)),
            slots,
        })
    }

    pub(crate) async fn dead_letters(&self, account: &str) -> Result<Vec<DeadLetter>> {
        dead::letters(&self.0.context, account, self.0.server_timeout).await
    }

    pub(crate) async fn dead_letter(&self, id: u64) -> Result<Option<(DeadLetter, Message)>> {
        dead::read(&self.0.context, id).await
    }

    pub(crate) async fn redrive(&self, id: u64) -> Result<bool> {
        dead::redrive(&self.0.context, id).await
    }

    pub(crate) async fn ping(&self) -> Result<Duration> {
        let start = Instant::now();
        let account = tokio::time::timeout(self.0.server_timeout, self.0.context.query_account());
        account
            .await
            .map_err(|_elapsed| Error::Timeout)?
            .map_err(Error::unavailable)?;
        Ok(start.elapsed())
    }

    pub(crate) async fn drain(&self) {
        self.0.stop.cancel();
        self.0.courier.tasks.close();
        if tokio::time::timeout(DRAIN, self.0.courier.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                "the bus was not drained in time: what it still held is delivered again"
            );
        }
        // An answer to this comes after everything that was sent before it.
        if let Err(error) = self.ping().await {
            tracing::warn!(%error, "the bus could not be flushed");
        }
    }

    fn pump(&self) -> (CancellationToken, Pump) {
        let stop = self.0.stop.child_token();
        (
            stop.clone(),
            Pump {
                _stop: stop.drop_guard(),
            },
        )
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.courier.tasks.spawn_on(task, &self.0.courier.runtime);
    }

    fn check_open(&self) -> Result<()> {
        if self.0.stop.is_cancelled() {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }
}

/// When the last clone goes, its tasks end.
impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Doubling from `min` to `max`, and of that between a half and the whole, so that a thousand clients
/// do not come back in one instant.
fn jittered(attempts: usize, min: Duration, max: Duration) -> Duration {
    let exponent = u32::try_from(attempts.min(16)).unwrap_or(16);
    let full = min.saturating_mul(1 << exponent).min(max);
    let random = std::hash::RandomState::new().build_hasher().finish() % 1024;
    full.mul_f64(0.5 + random as f64 / 2048.0)
}
