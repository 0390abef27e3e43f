//! Sends webhooks that are due, signed, and keeps every attempt. Any monitor may: whoever takes a delivery makes its attempt.
//!
//! The address that is checked is the one that is connected; nobody is followed elsewhere, and no answer is read.

use crate::Config;
use domain::{
    Result, Timestamp,
    webhook::{self, Ended, Next, Openness, Status},
};
use reqwest::{Client, Url, header, redirect};
use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};
use store::{
    Place, Store,
    deliveries::{Attempt, Delivery},
};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(1);
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);
/// From the name's resolution to the answer's head.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);
/// Whoever took a delivery and said nothing for so long is gone.
const GONE_AFTER: Duration = Duration::from_secs(60);
/// Deliveries that are on their way at a time, and of those the ones to the same receiver.
const MOST: usize = 32;
const MOST_TO_ONE: usize = 4;
/// Looked at, for those among them whose receiver is not busy.
const LOOKED_AT: u32 = 500;
/// What is on its way when we leave may take so long; then it is sent again by whoever is next.
const LEFT_WITHIN: Duration = Duration::from_secs(3);

pub async fn run(config: &Config, store: &Store, stop: &CancellationToken) {
    let mut tasks: JoinSet<String> = JoinSet::new();
    let mut busy: HashMap<String, usize> = HashMap::new();
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                match done {
                    Ok(url) => {
                        if let Some(count) = busy.get_mut(&url) {
                            *count -= 1;
                        }
                        busy.retain(|_, count| *count > 0);
                    }
                    Err(error) => tracing::error!(error = ?error, "an attempt ran into a fault of ours; it is made again"),
                }
                continue;
            }
            _ = tick.tick() => {}
        }
        if let Err(error) = begin(config, store, &mut tasks, &mut busy).await {
            tracing::warn!(error = ?error, "webhooks could not be sent; it is tried again");
        }
    }
    let rest = async { while tasks.join_next().await.is_some() {} };
    tokio::time::timeout(LEFT_WITHIN, rest).await.ok();
}

/// Takes what is due, as far as there is room.
async fn begin(
    config: &Config,
    store: &Store,
    tasks: &mut JoinSet<String>,
    busy: &mut HashMap<String, usize>,
) -> Result<()> {
    if tasks.is_empty() {
        busy.clear();
    }
    for one in store.due_deliveries(store.now(), LOOKED_AT).await? {
        if tasks.len() >= MOST {
            break;
        }
        let count = busy.entry(one.url.clone()).or_default();
        if *count >= MOST_TO_ONE || !store.take_delivery(&one, store.now() + GONE_AFTER).await? {
            continue;
        }
        *count += 1;
        let (store, openness) = (store.clone(), config.webhooks.clone());
        tasks.spawn(async move {
            if let Err(error) = attempt(&store, &openness, &one).await {
                tracing::warn!(delivery.id = %one.id, error = ?error, "an attempt could not be kept; it is made again");
            }
            one.url
        });
    }
    Ok(())
}

async fn attempt(store: &Store, openness: &Openness, one: &Delivery) -> Result<()> {
    let (begun, at) = (Instant::now(), store.now());
    let sent = async {
        // What cannot be opened now may be, once the right master key is back.
        let secret = store.unseal(
            &Place::alert_policy(&one.account, &one.sealed_for),
            &one.secret,
        );
        let secret = secret.map_err(|error| error.message)?;
        send(openness, one, &String::from_utf8_lossy(&secret), at).await
    };
    let sent = tokio::time::timeout(ANSWERED_WITHIN, sent);
    let (ended, error) = match sent.await {
        Ok(Ok((status, retry_after))) => (
            Ended::Answered {
                status,
                retry_after,
            },
            None,
        ),
        Ok(Err(why)) => (Ended::Broken, Some(why)),
        Err(_) => {
            let why = format!("no answer within {} s", ANSWERED_WITHIN.as_secs());
            (Ended::Broken, Some(why))
        }
    };
    let made = Attempt {
        attempt: one.attempts + 1,
        at,
        duration_ms: u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX),
        status: match ended {
            Ended::Answered { status, .. } => Some(status),
            Ended::Broken => None,
        },
        error,
    };
    let (status, due_at) = match webhook::next(made.attempt, &ended, store.now()) {
        Next::Over(status) => (status, None),
        Next::Again(at) => (Status::Pending, Some(at)),
    };
    if status != Status::Delivered {
        tracing::info!(delivery.id = %one.id, attempt = made.attempt, answer = made.status, reason = made.error, status = %status, "a webhook was not taken");
    }
    store.attempted(one, &made, status, due_at).await?;
    Ok(())
}

/// The answer's status, and for how long the receiver wants to be left alone.
async fn send(
    openness: &Openness,
    one: &Delivery,
    secret: &str,
    at: Timestamp,
) -> Result<(u16, Option<Duration>), String> {
    let url = webhook::target(&one.url, openness)?;
    let client = client(&url, &addresses(&url, openness).await?)?;
    let signature = webhook::signature(&[secret], one.id.as_str(), at, &one.body)?;
    let answer = client
        .post(url)
        .header(header::CONTENT_TYPE, "application/json")
        .header("webhook-id", one.id.as_str())
        .header("webhook-timestamp", at.0.div_euclid(1000))
        .header("webhook-signature", signature)
        .body(one.body.clone())
        .send()
        .await
        .map_err(|error| reason(&error))?;
    let asked = answer.headers().get(header::RETRY_AFTER);
    let asked = asked.and_then(|text| webhook::retry_after(text.to_str().ok()?, at));
    Ok((answer.status().as_u16(), asked))
}

/// Those of the host's addresses that may be connected.
async fn addresses(url: &Url, openness: &Openness) -> Result<Vec<SocketAddr>, String> {
    let found: Vec<SocketAddr> = match url.domain() {
        // Literals need nobody to resolve them.
        None => url
            .socket_addrs(|| None)
            .map_err(|_| "the address cannot be read".to_owned())?,
        Some(name) => {
            let port = url.port_or_known_default().unwrap_or(443);
            let found = tokio::net::lookup_host((name, port)).await;
            found
                .map_err(|_| format!("{name} cannot be resolved"))?
                .collect()
        }
    };
    let mut why = "the host has no address".to_owned();
    let mut allowed = Vec::new();
    for address in found {
        match openness.allows(url, address) {
            Ok(()) => allowed.push(address),
            Err(refused) => why = refused,
        }
    }
    if allowed.is_empty() {
        Err(why)
    } else {
        Ok(allowed)
    }
}

/// Of one attempt: it knows the host by these addresses alone.
fn client(url: &Url, addresses: &[SocketAddr]) -> Result<Client, String> {
    let mut builder = Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECTED_WITHIN)
        .timeout(ANSWERED_WITHIN)
        .pool_max_idle_per_host(0)
        .referer(false)
        .user_agent(concat!("phalanx/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(Arc::new(Nobody));
    if let Some(name) = url.domain() {
        builder = builder.resolve_to_addrs(name, addresses);
    }
    builder.build().map_err(|error| reason(&error))
}

/// Resolves nothing: whatever was not checked is not connected.
struct Nobody;

impl reqwest::dns::Resolve for Nobody {
    fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
        Box::pin(async { Err("this name was not checked".into()) })
    }
}

/// The innermost reason, without the URL: it may hold a word that only its receiver knows.
fn reason(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let what = if error.is_timeout() {
        "no answer in time"
    } else if error.is_connect() {
        "no connection"
    } else {
        "the request broke"
    };
    let words: String = inner.to_string().chars().take(200).collect();
    if words.contains("://") {
        what.to_owned()
    } else {
        format!("{what}: {words}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncReadExt, net::TcpListener};

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[tokio::test]
    async fn a_name_is_refused_for_what_it_resolves_to() {
        let here = url("https://localhost:8443/");
        let refused = addresses(&here, &Openness::default()).await;
        let why = refused.expect_err("loopback");
        assert!(why.contains("not a public address"), "{why}");
        let opened = ["127.0.0.0/8:*", "[::1]:*"].map(|rule| rule.parse().expect("a rule"));
        let opened = Openness {
            private: opened.into(),
        };
        let found = addresses(&here, &opened).await.expect("opened");
        assert!(found.iter().all(|one| one.ip().is_loopback()), "{found:?}");
    }

    #[tokio::test]
    async fn the_address_that_was_checked_is_connected_and_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        // Nobody else knows this name.
        let checked = url(&format!("http://checked.invalid:{}/", address.port()));
        let client = client(&checked, &[address]).expect("a client");
        let other = client.post(url("http://localhost/")).send().await;
        let why = reason(&other.expect_err("it was not checked"));
        assert!(why.contains("this name was not checked"), "{why}");
        let answered = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut first = [0; 4];
            stream.read_exact(&mut first).await.expect("a request");
            first
        };
        let sent = client.post(checked).send();
        let within = Duration::from_secs(60);
        let both = async { tokio::join!(answered, sent).0 };
        let first = tokio::time::timeout(within, both).await;
        assert_eq!(&first.expect("in time"), b"POST");
    }
}
