//! A bus, an account of one's own, and how to wait: always with a deadline.

use std::{
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bus::{
    Bus, Delivery, Error, Limits, Message, Priority, Requests, Subject, Work, WorkOptions, nats,
};

/// For everything that must happen; long, because a slow machine is no failure.
pub const SOON: Duration = Duration::from_secs(20);
/// For everything that must not happen.
pub const A_WHILE: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    Memory,
    Nats,
}

pub struct World {
    pub engine: Engine,
    pub bus: Bus,
    pub account: String,
    config: Option<nats::Config>,
    /// A bus that nobody holds any more ends its takers.
    others: Mutex<Vec<Bus>>,
}

impl World {
    pub fn memory(case: &str) -> Self {
        Self {
            engine: Engine::Memory,
            bus: Bus::memory(Limits::default()),
            account: account(case),
            config: None,
            others: Mutex::default(),
        }
    }

    pub async fn nats(case: &str) -> Self {
        let config = config();
        let bus = Bus::nats(config.clone())
            .await
            .expect("the NATS server of PHALANX_TEST_NATS_URL can be used");
        Self {
            engine: Engine::Nats,
            bus,
            account: account(case),
            config: Some(config),
            others: Mutex::default(),
        }
    }

    /// The same world seen from another process: another connection where there is one.
    pub async fn other(&self) -> Result<Bus, Error> {
        let other = match &self.config {
            None => self.bus.clone(),
            Some(config) => Bus::nats(config.clone()).await?,
        };
        self.others
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(other.clone());
        Ok(other)
    }

    /// A world of this kind with other bounds. Leave alone what the streams are made from.
    pub async fn bounded(&self, limits: Limits) -> Result<Bus, Error> {
        match &self.config {
            None => Ok(Bus::memory(limits)),
            Some(config) => {
                Bus::nats(nats::Config {
                    limits,
                    ..config.clone()
                })
                .await
            }
        }
    }

    pub fn run(&self) -> Subject {
        Subject::run(&self.account, "ver_1", "node_1")
    }

    pub fn work(&self) -> Subject {
        Subject::work(&self.account, "ver_1", Priority::Normal)
    }
}

pub fn config() -> nats::Config {
    let url = std::env::var("PHALANX_TEST_NATS_URL")
        .expect("PHALANX_TEST_NATS_URL is not set: run the tests through tests/run, which starts a NATS server");
    nats::Config::new([url])
}

fn account(case: &str) -> String {
    format!("{case}-{}", uuid::Uuid::new_v4().simple())
}

pub fn text(words: impl Into<String>) -> Message {
    Message::new(words.into())
}

pub fn words(message: &Message) -> String {
    String::from_utf8_lossy(&message.payload).into_owned()
}

pub fn options(max_in_flight: usize) -> WorkOptions {
    WorkOptions {
        max_in_flight,
        ack_wait: Duration::from_secs(30),
        max_deliver: 5,
    }
}

/// What must happen.
pub async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, happens).await {
        Ok(value) => value,
        Err(_elapsed) => panic!("waited {SOON:?} for {what}"),
    }
}

/// What must not happen, at least for a while.
pub async fn nothing<T>(what: &str, happens: impl Future<Output = T>) {
    assert!(
        tokio::time::timeout(A_WHILE, happens).await.is_err(),
        "{what}"
    );
}

pub async fn delivery(work: &mut Work) -> Delivery {
    soon("a delivery", work.next())
        .await
        .expect("the bus is not drained")
}

/// Answers every request with these words until the bus is drained or this is dropped.
pub async fn answer_with(mut requests: Requests, words: String) -> Result<(), Error> {
    while let Some(request) = requests.next().await {
        request.respond(text(words.clone())).await?;
    }
    Ok(())
}
