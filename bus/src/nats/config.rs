//! Where the NATS server is and how to be let in; the bounds that its streams get.

use std::{path::PathBuf, time::Duration};

use crate::message::Limits;
use domain::Secret;

#[derive(Debug, Clone)]
pub struct Config {
    /// `nats://host:4222` or `tls://…`; a user and password or a token may stand before the host, the same for all.
    pub servers: Vec<Secret>,
    /// Shown by the server's own monitoring.
    pub name: String,
    /// A `.creds` file (JWT and nkey).
    pub credentials: Option<PathBuf>,
    /// PEM; whom to trust instead of the system's roots.
    pub root_certificates: Option<PathBuf>,
    /// PEM, certificate and key, for a server that verifies its clients.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    pub require_tls: bool,
    /// Bound of one connection attempt; the first one decides whether the process starts.
    pub connect_timeout: Duration,
    /// Bound of every exchange with the server itself: storing a message, a consumer, a ping.
    pub server_timeout: Duration,
    /// Copies of each stream: 1 on a single server, 3 in a cluster.
    pub replicas: usize,
    /// Bounds of the stream of waiting work; over them `enqueue` says that it is full.
    pub work_messages: i64,
    pub work_bytes: i64,
    /// Stored work older than this is dropped: its row has long been swept.
    pub work_age: Duration,
    pub limits: Limits,
}

impl Config {
    pub fn new(servers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            servers: servers
                .into_iter()
                .map(|server| server.into().into())
                .collect(),
            name: "phalanx".to_owned(),
            credentials: None,
            root_certificates: None,
            client_certificate: None,
            require_tls: false,
            connect_timeout: Duration::from_secs(5),
            server_timeout: Duration::from_secs(5),
            replicas: 1,
            work_messages: 1_000_000,
            work_bytes: 1 << 30,
            work_age: Duration::from_secs(7 * 24 * 3600),
            limits: Limits::default(),
        }
    }
}
