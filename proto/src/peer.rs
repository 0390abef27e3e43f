//! How services reach each other by gRPC: by TCP, or inside one process through memory, behind the same channel.

use crate::{
    door::{ANSWERS_WITHIN, ASK_EVERY, Door, Incoming, Tls},
    trace::Calls,
};
use domain::{Error, Result};
use hyper_util::rt::TokioIo;
use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{io::DuplexStream, net::TcpListener, sync::mpsc};
use tonic::transport::{Channel, Endpoint, Uri, server::TcpIncoming};

/// Addresses of services in this process begin with this; all others are `host:port`.
const MEMORY: &str = "memory:";
/// Bytes in flight on one in-memory connection.
const PIPE_BYTES: usize = 256 * 1024;
const CONNECTS_WITHIN: Duration = Duration::from_secs(3);

/// Where this process listens for other processes.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Port 0 takes a free one.
    pub address: SocketAddr,
    /// `host:port` that others call it by; `None`: the bound address.
    pub advertise: Option<String>,
}

/// Resolves addresses to channels and keeps them open. The default one knows no other process.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    doors: Arc<Mutex<HashMap<String, mpsc::Sender<DuplexStream>>>>,
    channels: Arc<Mutex<HashMap<String, Channel>>>,
    listen: Option<Arc<Listen>>,
    tls: Option<Arc<Tls>>,
}

impl Peers {
    /// For a process among others: the one door that it opens is reached by TCP.
    pub fn over_tcp(listen: Listen, tls: Option<Tls>) -> Self {
        Self {
            listen: Some(Arc::new(listen)),
            tls: tls.map(Arc::new),
            ..Self::default()
        }
    }

    /// Opens a door. `name` tells the doors of one process apart.
    pub async fn open(&self, name: &str) -> Result<Door> {
        let Some(listen) = &self.listen else {
            return Ok(self.open_in_memory(name));
        };
        let refused = |error: io::Error| {
            Error::unavailable(format!(
                "cannot listen for gRPC on {}: {error}; choose another address",
                listen.address
            ))
            .because(error)
        };
        let listener = TcpListener::bind(listen.address).await.map_err(refused)?;
        let bound = listener.local_addr().map_err(refused)?;
        Ok(Door {
            address: listen
                .advertise
                .clone()
                .unwrap_or_else(|| bound.to_string()),
            // Without it an answer waits for the acknowledgement of the one before.
            incoming: Incoming::Tcp(TcpIncoming::from(listener).with_nodelay(Some(true))),
            tls: self.tls.as_deref().cloned(),
        })
    }

    fn open_in_memory(&self, name: &str) -> Door {
        let (sender, receiver) = mpsc::channel(64);
        let address = format!("{MEMORY}{name}");
        self.doors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(address.clone(), sender);
        self.channels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&address);
        Door {
            address,
            incoming: Incoming::Memory(receiver),
            tls: None,
        }
    }

    /// A channel to `address`; it connects when it is first used, and again after it broke.
    pub fn channel(&self, address: &str) -> Result<Calls<Channel>> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(Calls(channel.clone()));
        }
        let channel = if address.starts_with(MEMORY) {
            self.through_memory(address)
        } else {
            self.through_tcp(address)?
        };
        channels.insert(address.to_owned(), channel.clone());
        Ok(Calls(channel))
    }

    fn through_memory(&self, address: &str) -> Channel {
        let doors = self.doors.clone();
        let name = address.to_owned();
        let connect = tower::service_fn(move |_: Uri| {
            let door = doors
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(&name)
                .cloned();
            async move {
                let door = door.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
                let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
                door.send(theirs)
                    .await
                    .map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
                Ok::<_, io::Error>(TokioIo::new(ours))
            }
        });
        Endpoint::from_static("http://memory.invalid").connect_with_connector_lazy(connect)
    }

    fn through_tcp(&self, address: &str) -> Result<Channel> {
        let wrong = |error| {
            Error::internal(format!("{address:?} is not an address of a service")).because(error)
        };
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(wrong)?;
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.client()).map_err(|error| {
                Error::unavailable("the certificate and key for gRPC cannot be used").because(error)
            })?;
        }
        Ok(endpoint
            .connect_timeout(CONNECTS_WITHIN)
            .tcp_nodelay(true)
            // A process that froze, or a cable that was pulled, says nothing: it is noticed by its silence.
            .http2_keep_alive_interval(ASK_EVERY)
            .keep_alive_timeout(ANSWERS_WITHIN)
            .keep_alive_while_idle(true)
            .connect_lazy())
    }
}
