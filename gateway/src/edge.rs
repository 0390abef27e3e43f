//! What one connection and one request may take of us, and what browsers and TLS are told.

use domain::{Error, Result};
use std::{path::PathBuf, time::Duration};

#[derive(Debug, Clone)]
pub struct Edge {
    /// Connections at the same time; more wait until one ends.
    pub connections: usize,
    /// How long a client may take for a request's head, a TLS handshake, or to be idle between two requests.
    pub head: Duration,
    /// All headers of a request together.
    pub head_bytes: usize,
    /// How long a client may leave an answer unread.
    pub send: Duration,
    /// Until an answer begins; an execution has its own timeout.
    pub request: Duration,
    /// Whose pages may read answers (CORS); `*` is everybody, none: nobody's.
    pub origins: Vec<String>,
    pub tls: Option<Files>,
}

/// PEM files, read anew when they change.
#[derive(Debug, Clone)]
pub struct Files {
    /// The chain, our own certificate first.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Default for Edge {
    fn default() -> Self {
        Self {
            connections: 20_000,
            head: Duration::from_secs(30),
            head_bytes: 64 * 1024,
            send: Duration::from_secs(30),
            request: Duration::from_secs(300),
            origins: Vec::new(),
            tls: None,
        }
    }
}

impl Edge {
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Refuses what cannot work, by the setting's name.
    pub fn check(&self) -> Result<()> {
        within("connections", self.connections as u64, 1, 1_000_000)?;
        within("head_bytes", self.head_bytes as u64, 8192, 1_048_576)?;
        within("head_s", self.head.as_secs(), 1, 3600)?;
        within("send_s", self.send.as_secs(), 1, 3600)?;
        within("request_s", self.request.as_secs(), 1, 86_400)?;
        match self.origins.iter().find(|origin| !is_origin(origin)) {
            Some(bad) => Err(Error::fault(
                "gateway.cors_origins",
                format!(
                    "holds {}; allowed are * or origins as https://example.org, several with commas, without a path",
                    domain::text::quote(bad)
                ),
            )),
            None => Ok(()),
        }
    }
}

fn within(name: &str, value: u64, least: u64, most: u64) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::fault(
        &format!("gateway.{name}"),
        format!("is {value}; allowed are {least} to {most}"),
    ))
}

/// As browsers send it (RFC 6454): scheme, host and perhaps a port, in lower case and nothing behind.
fn is_origin(text: &str) -> bool {
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:[]".contains(&b);
    text == "*" || host.is_some_and(|host| !host.is_empty() && host.bytes().all(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_named() {
        Edge::default().check().expect("the defaults");
        let refused = |change: fn(&mut Edge)| {
            let mut edge = Edge::default();
            change(&mut edge);
            edge.check().expect_err("refused").to_string()
        };
        for (words, name) in [
            (refused(|edge| edge.connections = 0), "gateway.connections"),
            (refused(|edge| edge.head_bytes = 8191), "gateway.head_bytes"),
            (refused(|edge| edge.head = Duration::ZERO), "gateway.head_s"),
            (refused(|edge| edge.send = Duration::ZERO), "gateway.send_s"),
            (
                refused(|edge| edge.request = Duration::ZERO),
                "gateway.request_s",
            ),
            (
                refused(|edge| edge.origins = vec!["https://a.org/x".to_owned()]),
                "gateway.cors_origins",
            ),
        ] {
            assert!(words.contains(name), "{words}");
        }
    }

    #[test]
    fn origins() {
        for good in [
            "*",
            "https://a.org",
            "http://127.0.0.1:3000",
            "http://[::1]:1",
        ] {
            assert!(is_origin(good), "{good}");
        }
        for bad in [
            "",
            "a.org",
            "https://",
            "https://A.org",
            "https://a.org/",
            "ftp://a",
            "null",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
    }
}
