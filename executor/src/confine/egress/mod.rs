//! The only way out of a sandbox: an HTTP proxy that the executor serves on the listener which the sandbox's network has on
//! 127.0.0.1:3128. It keeps to the agent's policy, resolves names itself, connects only to the very addresses it has checked, and
//! says no in words.
//! Never here: what is inside the tunnels.

mod address;
mod copy;
mod request;
mod resolve;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use domain::address::is_public;
use domain::egress::{Egress, Rule};
use request::{Kind, Request};
pub use resolve::Resolver;

/// Where an instance may connect to.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// The agent's own word: by the host that it asks for.
    pub egress: Egress,
    /// The operator's: networks that agents may reach although they are private, or this host's own. By the address that is connected.
    pub private: Arc<[Rule]>,
}

#[derive(Debug, Clone)]
pub struct Bounds {
    pub head_bytes: usize,
    pub head_within: Duration,
    pub connect_within: Duration,
    pub idle: Duration,
    /// At a time; more wait in the listener's backlog.
    pub connections: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            head_bytes: 16 << 10,
            head_within: Duration::from_secs(10),
            connect_within: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            connections: 256,
        }
    }
}

/// A connection that was not made, and why. For the instance's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub host: String,
    pub port: u16,
    pub reason: String,
}

#[derive(Debug, Clone)]
pub struct Proxy {
    pub policy: Policy,
    pub bounds: Bounds,
    pub resolver: Resolver,
    /// When it is full, refusals are not told; they are refusals all the same.
    pub refusals: mpsc::Sender<Refusal>,
}

impl Policy {
    fn allows(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        let told = |rule: &Rule| rule.holds(ip, address.port());
        is_public(ip) && !address::is_ours(ip) || self.private.iter().any(told)
    }
}

impl Proxy {
    /// Until `stop`; open connections end with it.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.bounds.connections));
        let proxy = Arc::new(self);
        let mut connections = JoinSet::new();
        loop {
            let accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await.ok()?;
                Some((slot, listener.accept().await))
            };
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                Some((slot, accepted)) = accepted => match accepted {
                    Ok((client, _)) => {
                        let proxy = Arc::clone(&proxy);
                        connections.spawn(async move {
                            proxy.answer(client).await;
                            drop(slot);
                        });
                    }
                    // Out of descriptors, or a client that left at once: neither ends the proxy.
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
            }
        }
    }

    async fn answer(&self, mut client: TcpStream) {
        let (request, early) = match timeout(self.bounds.head_within, self.read(&mut client)).await
        {
            Ok(Ok(Some(read))) => read,
            Ok(Ok(None)) => return,
            Ok(Err(why)) => return say(&mut client, "400 Bad Request", why).await,
            Err(_) => {
                return say(
                    &mut client,
                    "408 Request Timeout",
                    "no complete request within the time allowed",
                )
                .await;
            }
        };
        let server = match timeout(self.bounds.connect_within, self.connect(&request)).await {
            Ok(Ok(server)) => server,
            Ok(Err(No::Refused(reason))) => {
                let text = format!("{}:{} refused: {reason}", request.host, request.port);
                // Bounded: whoever listens may miss some.
                let _ = self.refusals.try_send(Refusal {
                    host: request.host,
                    port: request.port,
                    reason,
                });
                return say(&mut client, "403 Forbidden", &text).await;
            }
            Ok(Err(No::Failed(e))) => {
                return say(
                    &mut client,
                    "502 Bad Gateway",
                    &format!("{}:{}: {e}", request.host, request.port),
                )
                .await;
            }
            Err(_) => {
                return say(
                    &mut client,
                    "504 Gateway Timeout",
                    &format!("{}:{}: no connection in time", request.host, request.port),
                )
                .await;
            }
        };
        // The end of a connection is the client's to notice: there is nobody to tell here.
        let _ = match request.kind {
            Kind::Tunnel => copy::tunnel(client, server, &early, self.bounds.idle).await,
            Kind::Forward { head, body } => {
                copy::forward(client, server, &head, body, &early, self.bounds.idle).await
            }
        };
    }

    /// The request and what came after its head. `None`: the client left without a word.
    async fn read(
        &self,
        client: &mut TcpStream,
    ) -> Result<Option<(Request, Vec<u8>)>, &'static str> {
        let mut bytes = Vec::with_capacity(1024);
        loop {
            if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                let early = bytes.split_off(end + 4);
                return request::parse(&bytes).map(|request| Some((request, early)));
            }
            if bytes.len() >= self.bounds.head_bytes {
                return Err("the head is too long");
            }
            let left = self.bounds.head_bytes - bytes.len();
            match client
                .read_buf(&mut bytes::BufMut::limit(&mut bytes, left))
                .await
            {
                Ok(0) if bytes.is_empty() => return Ok(None),
                Ok(0) | Err(_) => return Err("the head ended early"),
                Ok(_) => {}
            }
        }
    }

    /// Connects to an address that was checked; there is no second look-up. Literal addresses, however spelt, take the same way.
    async fn connect(&self, request: &Request) -> Result<TcpStream, No> {
        let (host, port) = (domain::egress::host(&request.host), request.port);
        // Before the name is resolved: a look-up is a message to whoever serves the name.
        self.policy
            .egress
            .permits(&host, port)
            .map_err(|why| No::Refused(why.to_owned()))?;
        let addresses = self
            .resolver
            .resolve(&host, port)
            .await
            .map_err(No::Failed)?;
        let mut failed = None;
        for address in addresses.iter().filter(|a| self.policy.allows(**a)) {
            match TcpStream::connect(address).await {
                Ok(server) => {
                    // A tunnel's bytes come as they come.
                    let _ = server.set_nodelay(true);
                    return Ok(server);
                }
                Err(e) => failed = Some(e),
            }
        }
        Err(match (failed, addresses.first()) {
            (Some(e), _) => No::Failed(e),
            (None, Some(address)) => {
                No::Refused(format!("{} is not a public address", address.ip()))
            }
            (None, None) => No::Failed(io::ErrorKind::NotFound.into()),
        })
    }
}

enum No {
    Refused(String),
    Failed(io::Error),
}

async fn say(client: &mut TcpStream, status: &str, text: &str) {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\nProxy-Agent: phalanx\r\n\r\n{text}\n",
        text.len() + 1
    );
    // The client may be gone.
    let _ = client.write_all(answer.as_bytes()).await;
    let _ = client.shutdown().await;
}

#[cfg(test)]
mod tests;
