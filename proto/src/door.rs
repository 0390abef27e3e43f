//! The door of a service: where its gRPC is reached, by TCP (with mutual TLS where it is configured) or through memory, and
//! what stands behind every door alike: health, reflection and a way to leave.

use crate::{trace, v1};
use domain::{Error, Result};
use futures::Stream;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    net::TcpStream,
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{
        Certificate, ClientTlsConfig, Identity, Server, ServerTlsConfig,
        server::{Connected, TcpIncoming},
    },
};
use tonic_health::ServingStatus;

/// A connection that says nothing is asked whether it lives, and given up when it does not answer.
pub(crate) const ASK_EVERY: Duration = Duration::from_secs(5);
pub(crate) const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// Calls in flight when the door closes may go on for so long.
const LEAVES_WITHIN: Duration = Duration::from_secs(10);

/// Mutual TLS, all in PEM: both sides show a certificate that `ca` has signed.
#[derive(Clone)]
pub struct Tls {
    pub ca: String,
    pub certificate: String,
    pub key: String,
    /// The name that every certificate carries; `None`: the host part of the address that is called.
    pub name: Option<String>,
}

impl Tls {
    fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key)
    }

    fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(self.identity())
            .client_ca_root(Certificate::from_pem(&self.ca))
    }

    pub(crate) fn client(&self) -> ClientTlsConfig {
        let config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.ca))
            .identity(self.identity());
        match &self.name {
            Some(name) => config.domain_name(name),
            None => config,
        }
    }
}

/// The key stays out of every log.
impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// A door that is open, and answers once it is served.
#[derive(Debug)]
pub struct Door {
    pub(crate) address: String,
    pub(crate) incoming: Incoming,
    pub(crate) tls: Option<Tls>,
}

impl Door {
    /// What others call it by, for [`crate::peer::Peers`].
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Serves `routes`, whose services are called `names`, with health and reflection beside them, until `stop`; then says that
    /// it does not serve any more and lets finish what runs.
    pub async fn serve(
        self,
        routes: Routes,
        names: &[&'static str],
        stop: CancellationToken,
    ) -> Result<()> {
        let (health, healthy) = tonic_health::server::health_reporter();
        for name in names {
            health
                .set_service_status(*name, ServingStatus::Serving)
                .await;
        }
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(|error| Error::internal("reflection cannot be set up").because(error))?;
        let mut server = Server::builder()
            .http2_keepalive_interval(Some(ASK_EVERY))
            .http2_keepalive_timeout(Some(ANSWERS_WITHIN));
        if let Some(tls) = &self.tls {
            server = server.tls_config(tls.server()).map_err(|error| {
                Error::unavailable("the certificate and key for gRPC cannot be used").because(error)
            })?;
        }
        let leaving = stop.clone();
        let names: Vec<&'static str> = std::iter::once("").chain(names.iter().copied()).collect();
        let told = async move {
            leaving.cancelled().await;
            for name in names {
                health
                    .set_service_status(name, ServingStatus::NotServing)
                    .await;
            }
        };
        let served = server
            .layer(trace::Taken)
            .add_routes(routes)
            .add_service(healthy)
            .add_service(reflection)
            .serve_with_incoming_shutdown(self.incoming, told);
        // A watcher of health never ends by itself.
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(LEAVES_WITHIN).await;
        };
        tokio::select! {
            served = served => served.map_err(|error| Error::internal("the gRPC server ended").because(error)),
            () = late => Ok(()),
        }
    }
}

/// Connections that come in.
#[derive(Debug)]
pub(crate) enum Incoming {
    Memory(mpsc::Receiver<DuplexStream>),
    Tcp(TcpIncoming),
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut *self {
            Self::Memory(door) => door
                .poll_recv(cx)
                .map(|next| next.map(|stream| Ok(Connection::Memory(stream)))),
            Self::Tcp(door) => Pin::new(door)
                .poll_next(cx)
                .map(|next| next.map(|stream| stream.map(Connection::Tcp))),
        }
    }
}

/// One connection, either way.
#[derive(Debug)]
pub(crate) enum Connection {
    Memory(DuplexStream),
    Tcp(TcpStream),
}

/// Calls the same method of either kind of stream.
macro_rules! either {
    ($connection:expr, $stream:ident => $call:expr) => {
        match $connection.get_mut() {
            Connection::Memory($stream) => $call,
            Connection::Tcp($stream) => $call,
        }
    };
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
