//! Getting in: the addresses, who we say we are, whom we trust. What is secret in an address is taken out of it first and is in
//! no message.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_nats::{Client, ConnectErrorKind, ConnectOptions, ServerAddr};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;

use super::{Config, RECONNECT_MAX, RECONNECT_MIN, jittered};
use crate::{
    error::{Error, Result},
    link,
};

/// A server that froze, or a cable that was pulled, says nothing.
const PING_EVERY: Duration = Duration::from_secs(5);

/// What stands before the `@` of an address.
#[derive(PartialEq, Eq)]
enum Login {
    Password { user: String, password: String },
    Token(String),
}

pub(super) async fn connect(
    config: &Config,
    told: (watch::Sender<u64>, watch::Sender<link::State>),
    counted: Counter,
) -> Result<Client> {
    let (addresses, login) = addresses(&config.servers)?;
    let options = options(config, login, told, counted).await?;
    options
        .connect(addresses.as_slice())
        .await
        .map_err(|error| {
            let hosts = addresses
                .iter()
                .map(ServerAddr::as_url_str)
                .collect::<Vec<_>>();
            let hint = match error.kind() {
                ConnectErrorKind::AuthorizationViolation => {
                    "; check the user and password in the address, or the credentials file"
                }
                _ => "",
            };
            // The library's words may be of several lines, as those of the system's roots.
            let why = error.to_string().lines().collect::<Vec<_>>().join(", ");
            Error::Unavailable(format!(
                "cannot connect to {}: {why}{hint}",
                hosts.join(", ")
            ))
        })
}

/// The library ignores who stands in an address, so that is said to it aside.
fn addresses(servers: &[domain::Secret]) -> Result<(Vec<ServerAddr>, Option<Login>)> {
    let mut addresses = Vec::with_capacity(servers.len());
    let mut found = None;
    for server in servers {
        let shown = server.rsplit_once('@').map_or(&**server, |(_, host)| host);
        let refused = |error: &dyn std::fmt::Display| {
            Error::Setup(format!(
                "the NATS address with {shown:?} cannot be read: {error}"
            ))
        };
        let address = server
            .parse::<ServerAddr>()
            .map_err(|error| refused(&error))?;
        let mut url = address.into_inner();
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (token, None) => Some(Login::Token(decoded(token))),
            (user, Some(password)) => Some(Login::Password {
                user: decoded(user),
                password: decoded(password),
            }),
        };
        if login.is_some() {
            if found.is_some() && found != login {
                return Err(Error::Setup(
                    "the NATS addresses name different users; give all of them the same".to_owned(),
                ));
            }
            found = login;
        }
        let bare = url.set_username("").is_ok() && url.set_password(None).is_ok();
        if !bare {
            return Err(refused(&"it has no host"));
        }
        addresses.push(ServerAddr::from_url(url).map_err(|error| refused(&error))?);
    }
    Ok((addresses, found))
}

async fn options(
    config: &Config,
    login: Option<Login>,
    (reconnected, broken): (watch::Sender<u64>, watch::Sender<link::State>),
    counted: Counter,
) -> Result<ConnectOptions> {
    let first = AtomicBool::new(true);
    let mut options = ConnectOptions::new()
        .name(&config.name)
        .connection_timeout(config.connect_timeout)
        .request_timeout(Some(config.server_timeout))
        .require_tls(config.require_tls)
        // Two that are not answered, and the connection is made again.
        .ping_interval(PING_EVERY)
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| jittered(attempts, RECONNECT_MIN, RECONNECT_MAX))
        .event_callback(move |event| {
            match &event {
                async_nats::Event::Connected => {
                    tracing::info!("connected to the bus");
                    broken.send_modify(|state| state.up = true);
                    if !first.swap(false, Ordering::Relaxed) {
                        reconnected.send_modify(|count| *count += 1);
                        counted.inc();
                    }
                }
                async_nats::Event::Disconnected => {
                    tracing::warn!("lost the bus, connecting again");
                    broken.send_modify(|state| {
                        state.up = false;
                        state.breaks += 1;
                    });
                }
                async_nats::Event::SlowConsumer(subscription) => {
                    tracing::warn!(
                        subscription,
                        "a subscription is too slow and loses messages"
                    );
                }
                other => tracing::warn!(event = %other, "the bus reports"),
            }
            std::future::ready(())
        });
    options = match login {
        None => options,
        Some(Login::Password { user, password }) => options.user_and_password(user, password),
        Some(Login::Token(token)) => options.token(token),
    };
    if let Some(path) = &config.credentials {
        let loaded = options.credentials_file(path).await;
        options = loaded.map_err(|error| Error::Setup(format!("{}: {error}", path.display())))?;
    }
    if let Some(path) = &config.root_certificates {
        holds(path, "CERTIFICATE").await?;
        options = options.add_root_certificates(path.clone());
    }
    if let Some((certificate, key)) = &config.client_certificate {
        holds(certificate, "CERTIFICATE").await?;
        holds(key, "PRIVATE KEY").await?;
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options)
}

/// The library reads these files when it connects and then does not say which one is missing or empty.
async fn holds(path: &Path, what: &str) -> Result<()> {
    let said = |why: &str| Error::Setup(format!("{} cannot be used: {why}", path.display()));
    let text = tokio::fs::read(path).await;
    let text = text.map_err(|error| said(&error.to_string()))?;
    let ends = format!("{what}-----");
    let begun = String::from_utf8_lossy(&text)
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&ends));
    if begun {
        Ok(())
    } else {
        let what = what.to_lowercase();
        Err(said(&format!("it holds no {what} in PEM")))
    }
}

/// `%XX` as the byte that it stands for.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let escaped = match (first, after) {
            (b'%', [high, low, ..]) => hex(*high).zip(hex(*low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            bytes.push((high << 4) | low);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}
