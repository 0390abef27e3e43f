//! What the gateway is told when it starts.

use axum::http::HeaderValue;
use domain::{Error, Result};
use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

#[derive(Debug, Clone)]
pub struct Config {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    /// What clients call us by, without a slash at the end; by default `http://` and the bound address.
    pub public_url: Option<String>,
    /// Where people look at an agent's figures; `{agent_id}` stands for the agent.
    pub dashboard_url: Option<String>,
    /// A word of keys and deployments.
    pub region: String,
    pub max_deploy_body_bytes: usize,
    pub max_execute_body_bytes: usize,
    /// How long `serve` waits for requests in flight after it was told to stop.
    pub drain: Duration,
    /// Connections at once; those over that wait to be accepted.
    pub connections: usize,
    /// Of them, those from one address (of IPv6: one /64); those over that are closed at once. Behind a proxy all come from one.
    pub connections_per_address: usize,
    /// How long any request may take until its answer begins, an execution excepted.
    pub request: Duration,
    /// How long a connection may take from one request to the whole head of the next.
    pub idle: Duration,
    /// How long a client may not read what is sent to it.
    pub stall: Duration,
    /// With it, clients are spoken to by TLS only.
    pub tls: Option<crate::tls::Files>,
    /// Origins whose pages may call us from a browser.
    pub cors_origins: Vec<HeaderValue>,
    /// Where webhooks may go beyond the public internet.
    pub webhooks: domain::webhook::Openness,
    /// Serve `/docs`.
    pub docs: bool,
    /// `/metrics` needs no key; else it needs one that holds `system:health`.
    pub open_metrics: bool,
    /// Executions of one account that may wait or run before further async ones are refused.
    pub max_open_executions: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            public_url: None,
            dashboard_url: None,
            region: "local".to_owned(),
            max_deploy_body_bytes: 64 * 1024 * 1024,
            max_execute_body_bytes: 32 * 1024 * 1024,
            drain: Duration::from_secs(30),
            connections: 15_000,
            connections_per_address: 10_000,
            request: Duration::from_secs(120),
            idle: Duration::from_secs(30),
            stall: Duration::from_secs(60),
            tls: None,
            cors_origins: Vec::new(),
            webhooks: domain::webhook::Openness::default(),
            docs: true,
            open_metrics: false,
            max_open_executions: 100_000,
        }
    }
}

/// What `gateway.cors_origins` says.
pub fn origins(text: &str) -> Result<Vec<HeaderValue>> {
    let words = text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    let origin = |word: &str| {
        let after = word
            .strip_prefix("https://")
            .or_else(|| word.strip_prefix("http://"));
        let good = after.is_some_and(|host| {
            !host.is_empty() && !host.contains(['/', '?', '#', '@', '*']) && host.is_ascii()
        });
        HeaderValue::from_str(word).ok().filter(|_| good).ok_or_else(|| {
            let what = format!(
                "{word:?} is no origin; allowed are scheme and host, as https://console.example.com or http://127.0.0.1:3000"
            );
            Error::fault("gateway.cors_origins", what)
        })
    };
    words.map(origin).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_scheme_and_host() {
        let good = origins(" https://a.example, http://127.0.0.1:3000,").expect("origins");
        assert_eq!(good, ["https://a.example", "http://127.0.0.1:3000"]);
        assert_eq!(origins("").expect("none").len(), 0);
        for bad in [
            "*",
            "a.example",
            "https://a/b",
            "https://",
            "null",
            "https://u@a",
        ] {
            let error = origins(bad).expect_err(bad);
            assert!(
                error.to_string().contains("gateway.cors_origins"),
                "{error}"
            );
        }
    }
}
