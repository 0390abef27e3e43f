//! Sends webhooks that are due, signed, and keeps every attempt. Any monitor may: whoever takes a delivery makes its attempt.
//!
//! [`crowd`] says who may begin: a slow receiver, many of them, or large bodies hold up nobody else, and memory is bounded.

mod attempt;
mod crowd;
mod resolve;
#[cfg(test)]
mod tests;

use crate::Config;
use attempt::Means;
use bus::{Event, Events, typed};
use crowd::{Crowd, in_turn};
use domain::{Error, Result, webhook};
use proto::v1::event::Event as Told;
use resolve::Resolver;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use store::{
    Store,
    deliveries::{Due, Looked, Shares, Turn},
};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

/// Between two looks at the rows where nobody says anything.
const EVERY: Duration = Duration::from_secs(1);
/// The same while looks by turns have not seen everybody.
const ON: Duration = Duration::from_millis(100);
/// Between two looks at the least.
const APART: Duration = Duration::from_millis(20);
/// Whoever took a delivery and said nothing for so long is gone.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// Looked at in the order in which they became due. Where there are more, receivers are looked at in turn too.
const FIRST: u32 = 512;
/// Of every account something.
const ACCOUNTS: Shares = Shares {
    of_host: 1,
    hosts: 8,
    all: 512,
};
/// Of every receiver.
const RECEIVERS: Shares = Shares {
    of_host: crowd::MOST_TO_HOST as u32,
    hosts: u32::MAX,
    all: 512,
};
/// What is on its way when we leave may take so long; then it is sent again by whoever is next.
const LEFT_WITHIN: Duration = Duration::from_secs(3);

struct Sender {
    means: Means,
    crowd: Crowd,
    /// Each tells how long it took.
    tasks: JoinSet<Duration>,
    /// Rows that the database refused, by their ids.
    passed_over: HashMap<String, Instant>,
    /// Where looks by turns go on.
    account: Turn,
    receiver: Turn,
}

/// `nudge` is what this monitor says to itself, `events` what others say.
pub async fn run(
    config: &Config,
    store: &Store,
    (mut events, nudge): (Events, Arc<Notify>),
    stop: &CancellationToken,
) {
    let mut sender = Sender::new(config, store, Resolver::default());
    let (mut looked, mut look_at) = (Instant::now(), Instant::now());
    // Something is due that had no room.
    let (mut waiting, mut hears) = (false, true);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = sender.one_ended(), if !sender.tasks.is_empty() => {
                if waiting {
                    look_at = look_at.min(looked + APART);
                }
                continue;
            }
            event = events.next(), if hears => {
                hears = event.is_some();
                if event.is_some_and(is_due) {
                    look_at = look_at.min(looked + APART);
                }
                continue;
            }
            () = nudge.notified() => {
                look_at = look_at.min(looked + APART);
                continue;
            }
            () = tokio::time::sleep_until(look_at) => {}
        }
        looked = Instant::now();
        match sender.begin().await {
            Ok(more) => waiting = more,
            Err(error) => {
                tracing::warn!(error = ?error, "webhooks could not be sent; it is tried again");
            }
        }
        let everybody = sender.receiver == Turn::default();
        look_at = looked + if everybody { EVERY } else { ON };
    }
    let rest = async { while sender.tasks.join_next().await.is_some() {} };
    timeout(LEFT_WITHIN, rest).await.ok();
}

fn is_due(event: Event) -> bool {
    match event {
        Event::Lagged(_) => true,
        Event::Message(message) => {
            matches!(typed::event(message), Ok(Some(Told::DeliveryDue(_))))
        }
    }
}

impl Sender {
    fn new(config: &Config, store: &Store, resolver: Resolver) -> Self {
        Self {
            means: Means {
                store: store.clone(),
                openness: config.webhooks.clone(),
                resolver,
            },
            crowd: Crowd::new(config.webhook_bytes),
            tasks: JoinSet::new(),
            passed_over: HashMap::new(),
            account: Turn::default(),
            receiver: Turn::default(),
        }
    }

    /// Waits for one. None may be on its way: then it waits for ever.
    async fn one_ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, took))) => self.crowd.ended(id, Some(took)),
            Some(Err(error)) => {
                tracing::error!(error = ?error, "an attempt ran into a fault of ours; it is made again");
                self.crowd.ended(error.id(), None);
            }
            None => std::future::pending().await,
        }
    }

    /// Begins what is due, as far as there is room. `true`: there is more.
    async fn begin(&mut self) -> Result<bool> {
        if let Some(held) = self.crowd.held().cloned() {
            self.start(held).await?;
        }
        let (looked, mut more) = self.look().await?;
        let now = Instant::now();
        self.passed_over.retain(|_, until| *until > now);
        for one in looked.unreadable {
            if self.passed_over.contains_key(&one.id) {
                continue;
            }
            self.refuse(&one.id, &one.why).await?;
        }
        for one in in_turn(looked.due) {
            more |= !self.start(one).await?;
        }
        Ok(more)
    }

    /// What is due, and whether there is more than that.
    async fn look(&mut self) -> Result<(Looked, bool)> {
        let store = &self.means.store;
        let now = store.now();
        let mut looked = store.due_deliveries(now, FIRST).await?;
        if looked.due.len() + looked.unreadable.len() < FIRST as usize {
            (self.account, self.receiver) = Default::default();
            return Ok((looked, false));
        }
        let (accounts, account) = store
            .due_in_turn(now, (&self.account, true), ACCOUNTS)
            .await?;
        let (receivers, receiver) = store
            .due_in_turn(now, (&self.receiver, false), RECEIVERS)
            .await?;
        (self.account, self.receiver) = (account, receiver);
        for some in [accounts, receivers] {
            looked.due.extend(some.due);
            looked.unreadable.extend(some.unreadable);
        }
        let mut seen = HashSet::new();
        looked.due.retain(|one| seen.insert(one.id.clone()));
        Ok((looked, true))
    }

    /// `false`: there is no room for it now.
    async fn start(&mut self, one: Due) -> Result<bool> {
        if one.attempts.saturating_sub(one.tried_before) >= webhook::ATTEMPTS {
            // Whoever made them was gone before any ended.
            let why = "its attempts began and never ended";
            self.refuse(one.id.as_str(), why).await?;
            return Ok(true);
        }
        if self.passed_over.contains_key(one.id.as_str()) {
            return Ok(true);
        }
        if !self.crowd.has_room(&one) {
            return Ok(false);
        }
        let store = &self.means.store;
        let again_at = store.now() + GONE_AFTER;
        match store.take_delivery(&one, again_at).await {
            Ok(Some(Ok(taken))) => {
                let means = self.means.clone();
                let task = self.tasks.spawn(async move {
                    let (begun, id) = (Instant::now(), taken.id.clone());
                    if let Err(error) = attempt::make(&means, taken).await {
                        tracing::warn!(delivery.id = %id, error = ?error, "an attempt could not be kept; it is made again");
                    }
                    begun.elapsed()
                });
                self.crowd.began(task.id(), one);
            }
            Ok(Some(Err(unreadable))) => self.refuse(&unreadable.id, &unreadable.why).await?,
            Ok(None) => self.crowd.let_go(&one.id),
            Err(error) => self.pass_over(one.id.as_str(), error)?,
        }
        Ok(true)
    }

    /// It can never be sent: it is kept as failed, with the reason.
    async fn refuse(&mut self, id: &str, why: &str) -> Result<()> {
        if let Ok(id) = id.parse() {
            self.crowd.let_go(&id);
        }
        let store = &self.means.store;
        match store.refuse_delivery(id, why, store.now()).await {
            Ok(true) => {
                tracing::error!(
                    delivery.id = id,
                    reason = why,
                    "a webhook can never be sent"
                );
            }
            Ok(false) => {}
            Err(error) => self.pass_over(id, error)?,
        }
        Ok(())
    }

    /// What the database refuses of this one keeps nobody waiting. Fails where it is away.
    fn pass_over(&mut self, id: &str, error: Error) -> Result<()> {
        if error.kind.is_passing() {
            return Err(error);
        }
        tracing::error!(delivery.id = id, error = ?error, "a webhook's row was refused; it is passed over for a while");
        if self.passed_over.len() < FIRST as usize {
            let until = Instant::now() + GONE_AFTER;
            self.passed_over.insert(id.to_owned(), until);
        }
        Ok(())
    }
}
