//! How services reach each other by gRPC: by TCP, or inside one process through memory, behind the same channel.

use domain::{Error, Result};
use futures::Stream;
use hyper_util::rt::TokioIo;
use std::{
    collections::HashMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{io::DuplexStream, sync::mpsc};
use tonic::transport::{Channel, Endpoint, Uri, server::Connected};

/// Addresses of services in this process begin with this; all others are `host:port`.
const MEMORY: &str = "memory:";
/// Bytes in flight on one in-memory connection.
const PIPE_BYTES: usize = 256 * 1024;

/// Resolves addresses to channels and keeps them open.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    doors: Arc<Mutex<HashMap<String, mpsc::Sender<DuplexStream>>>>,
    channels: Arc<Mutex<HashMap<String, Channel>>>,
}

impl Peers {
    /// Opens a door of this process: the address to tell others, and the connections that come through it.
    pub fn listen(&self, name: &str) -> (String, Incoming) {
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
        (address, Incoming(receiver))
    }

    /// A channel to `address`; it connects when it is first used, and again after it broke.
    pub fn channel(&self, address: &str) -> Result<Channel> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = if address.starts_with(MEMORY) {
            self.through_memory(address)?
        } else {
            over_tcp(address)?
        };
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    fn through_memory(&self, address: &str) -> Result<Channel> {
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
        let endpoint = Endpoint::from_static("http://memory.invalid");
        Ok(endpoint.connect_with_connector_lazy(connect))
    }
}

fn over_tcp(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
        Error::internal(format!("{address:?} is not an address of a service")).because(error)
    })?;
    Ok(endpoint
        .connect_timeout(Duration::from_secs(3))
        .tcp_nodelay(true)
        .connect_lazy())
}

/// Connections from inside this process, for `serve_with_incoming`.
#[derive(Debug)]
pub struct Incoming(mpsc::Receiver<DuplexStream>);

impl Stream for Incoming {
    type Item = Result<Connection, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0
            .poll_recv(cx)
            .map(|next| next.map(|stream| Ok(Connection(stream))))
    }
}

/// One in-memory connection.
#[derive(Debug)]
pub struct Connection(DuplexStream);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl tokio::io::AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
