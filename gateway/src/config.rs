//! What the gateway is told when it starts.

use crate::edge::Edge;
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
    /// A word of keys and deployments.
    pub region: String,
    pub max_deploy_body_bytes: usize,
    pub max_execute_body_bytes: usize,
    /// How long `serve` waits for requests in flight after it was told to stop.
    pub drain: Duration,
    /// `callback_url` may be plain http to this host itself.
    pub allow_loopback_callbacks: bool,
    /// Serve `/docs`.
    pub docs: bool,
    /// `/metrics` needs no key; else it needs one that holds `system:health`.
    pub open_metrics: bool,
    /// Executions of one account that may wait or run before further async ones are refused.
    pub max_open_executions: u32,
    pub edge: Edge,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            public_url: None,
            region: "local".to_owned(),
            max_deploy_body_bytes: 64 * 1024 * 1024,
            max_execute_body_bytes: 32 * 1024 * 1024,
            drain: Duration::from_secs(30),
            allow_loopback_callbacks: false,
            docs: true,
            open_metrics: false,
            max_open_executions: 100_000,
            edge: Edge::default(),
        }
    }
}
