//! One attempt to deliver one webhook.
//!
//! The address that is checked is the one that is connected; nobody is followed elsewhere, and no answer is read.

use super::resolve::{Looks, Resolver};
use domain::{
    Result, Timestamp,
    webhook::{self, Ended, Next, Openness, Status},
};
use reqwest::{Client, Url, header, redirect};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use store::{
    Store,
    deliveries::{Attempt, Delivery},
};
use tokio::time::Instant;

const CONNECTED_WITHIN: Duration = Duration::from_secs(5);
/// From the name's resolution to the answer's head.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);
/// All that a tenant learns of an address that is not public, and of a name that has none: else they could look around in our network.
const REFUSED: &str = "the receiver's host has no address that webhooks may go to";

/// What an attempt is made with. Cheap to clone.
#[derive(Clone)]
pub struct Means {
    pub store: Store,
    pub openness: Openness,
    pub resolver: Resolver,
}

/// Why nobody answered: for the tenant, and for the operator.
#[derive(Debug, PartialEq, Eq)]
struct Why {
    shown: String,
    kept: String,
    /// Nor will anybody.
    over: bool,
}

impl Why {
    fn shown(why: String) -> Self {
        Self {
            kept: why.clone(),
            shown: why,
            over: false,
        }
    }

    fn refused(why: String) -> Self {
        Self {
            kept: why,
            ..Self::shown(REFUSED.to_owned())
        }
    }
}

/// Returns when nothing of it is left, a resolver that takes its time included.
pub async fn make(means: &Means, mut one: Delivery) -> Result<()> {
    let store = &means.store;
    let (begun, at) = (Instant::now(), store.now());
    let mut looks = Looks::new();
    let sent = tokio::time::timeout(ANSWERED_WITHIN, send(means, &mut one, at, &mut looks));
    let (ended, why) = match sent.await {
        Ok(Ok((status, retry_after))) => (
            Ended::Answered {
                status,
                retry_after,
            },
            None,
        ),
        Ok(Err(why)) if why.over => (Ended::Impossible, Some(why)),
        Ok(Err(why)) => (Ended::Broken, Some(why)),
        Err(_) => {
            let why = format!("no answer within {} s", ANSWERED_WITHIN.as_secs());
            (Ended::Broken, Some(Why::shown(why)))
        }
    };
    let made = Attempt {
        attempt: one.attempts,
        at,
        duration_ms: u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX),
        status: match ended {
            Ended::Answered { status, .. } => Some(status),
            Ended::Broken | Ended::Impossible => None,
        },
        error: why.as_ref().map(|why| why.shown.clone()),
    };
    let anew = made.attempt - one.tried_before.min(one.attempts);
    let chance = f64::from(uuid::Uuid::new_v4().as_u128() as u32) / f64::from(u32::MAX);
    let (status, due_at) = match webhook::next(anew, &ended, store.now(), chance) {
        Next::Over(status) => (status, None),
        Next::Again(at) => (Status::Pending, Some(at)),
    };
    if status != Status::Delivered {
        let reason = why.map(|why| why.kept);
        tracing::info!(delivery.id = %one.id, attempt = made.attempt, answer = made.status, reason, status = %status, "a webhook was not taken");
    }
    let kept = store.attempted(&one, &made, status, due_at).await;
    while looks.join_next().await.is_some() {}
    kept.map(drop)
}

/// The answer's status, and for how long the receiver wants to be left alone.
async fn send(
    means: &Means,
    one: &mut Delivery,
    at: Timestamp,
    looks: &mut Looks,
) -> Result<(u16, Option<Duration>), Why> {
    // What cannot be opened now may be, once the right master key is back.
    let secrets = means.store.signing_secrets(one, at).await;
    let secrets = secrets.map_err(|error| Why {
        kept: error.to_string(),
        ..Why::shown("it cannot be signed now".to_owned())
    })?;
    if secrets.is_empty() {
        return Err(Why {
            over: true,
            ..Why::shown("nobody can sign it any more: its agent is gone".to_owned())
        });
    }
    let url = webhook::target(&one.url, &means.openness).map_err(Why::refused)?;
    let found = addresses(&url, &means.openness, &means.resolver, looks).await?;
    let client = client(&url, &found)?;
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    let signature = webhook::signature(&secrets, one.id.as_str(), at, &one.body);
    let signature = signature.map_err(Why::shown)?;
    let answer = client
        .post(url)
        .header(header::CONTENT_TYPE, "application/json")
        .header("webhook-id", one.id.as_str())
        .header("webhook-timestamp", at.0.div_euclid(1000))
        .header("webhook-signature", signature)
        // It may be large: there is no second one.
        .body(std::mem::take(&mut one.body))
        .send()
        .await
        .map_err(|error| Why::shown(reason(&error)))?;
    let asked = answer.headers().get(header::RETRY_AFTER);
    let asked = asked.and_then(|text| webhook::retry_after(text.to_str().ok()?, at));
    Ok((answer.status().as_u16(), asked))
}

/// Those of the host's addresses that may be connected.
async fn addresses(
    url: &Url,
    openness: &Openness,
    resolver: &Resolver,
    looks: &mut Looks,
) -> Result<Vec<SocketAddr>, Why> {
    let found: Vec<SocketAddr> = match url.domain() {
        // Literals need nobody to resolve them.
        None => url
            .socket_addrs(|| None)
            .map_err(|_| Why::refused("the address cannot be read".to_owned()))?,
        Some(name) => {
            let port = url.port_or_known_default().unwrap_or(443);
            let Some(found) = resolver.resolve((name, port), looks).await else {
                let within = resolver.within.as_secs_f64();
                let why = format!("the receiver's name was not resolved within {within} s");
                return Err(Why::shown(why));
            };
            found.map_err(|error| Why::refused(format!("{name} cannot be resolved: {error}")))?
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
        Err(Why::refused(why))
    } else {
        Ok(allowed)
    }
}

/// Of one attempt: it knows the host by these addresses alone.
fn client(url: &Url, addresses: &[SocketAddr]) -> Result<Client, Why> {
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
    builder.build().map_err(|error| Why::shown(reason(&error)))
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
    // Postgres keeps no text with a NUL.
    let words = inner.to_string();
    let words: String = words
        .chars()
        .filter(|one| !one.is_control())
        .take(200)
        .collect();
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
        let (closed, system) = (Openness::default(), Resolver::default());
        let mut looks = Looks::new();
        let refused = addresses(&here, &closed, &system, &mut looks).await;
        let why = refused.expect_err("loopback");
        assert!(why.kept.contains("not a public address"), "{why:?}");
        // The tenant learns neither the address nor whether there is one.
        let nobody = url("https://nobody.invalid/");
        let unknown = addresses(&nobody, &closed, &system, &mut looks).await;
        assert_eq!(unknown.expect_err("no such name").shown, why.shown);
        assert_eq!(why.shown, REFUSED);
        let opened = ["127.0.0.0/8:*", "[::1]:*"].map(|rule| rule.parse().expect("a rule"));
        let opened = Openness {
            private: opened.into(),
        };
        let found = addresses(&here, &opened, &system, &mut looks).await;
        let found = found.expect("opened");
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
