//! Connections: how many, how long one may say nothing, and with TLS or without.
//!
//! Whoever connects is nobody yet. A head must come whole and soon, an answer must be read, and there are only so many at once;
//! those over that wait in the kernel's queue, where they cost us nothing. Bodies have bounds of their own (`body`).

mod patient;
mod peers;
pub mod tls;

use crate::{app::App, door, error::Refusal, router};
use axum::{Router, body::Body, extract::ConnectInfo};
use domain::{Error, Result};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use patient::Patient;
use peers::Peers;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tls::Certificate;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// Fields of a head, bytes of all of them together, and of a URL. What is over that is refused in our own words.
const HEADERS: usize = 100;
const HEAD_BYTES: usize = 64 * 1024;
const URL_BYTES: usize = 8 * 1024;
/// What is over that is not read at all: hyper refuses it with a bare status.
const READ_HEADERS: usize = 200;
const READ_BYTES: usize = 128 * 1024;
/// Requests at once on one connection of HTTP/2.
const STREAMS: u32 = 256;
/// A silent HTTP/2 connection is asked whether anybody is there.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(20);
/// After accepting failed, as it does without free descriptors.
const BREATH: Duration = Duration::from_millis(100);

/// What one connection may do.
#[derive(Clone)]
struct Edge {
    http: auto::Builder<TokioExecutor>,
    router: Router,
    closing: CancellationToken,
    acceptor: Option<TlsAcceptor>,
    idle: Duration,
    stall: Duration,
}

impl Edge {
    fn new(app: &App, certificate: Option<Arc<Certificate>>) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(app.config.idle)
            .max_headers(READ_HEADERS)
            .max_buf_size(READ_BYTES);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(u32::try_from(READ_BYTES).unwrap_or(u32::MAX))
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_WITHIN);
        Self {
            http,
            router: router::router(app.clone()),
            closing: app.closing.clone(),
            acceptor: certificate.map(|one| TlsAcceptor::from(one.server())),
            idle: app.config.idle,
            stall: app.config.stall,
        }
    }

    async fn connection(self, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::trace!(error = %error, "a connection stays with Nagle's algorithm");
        }
        let Some(acceptor) = self.acceptor.clone() else {
            return self.speak(stream, peer).await;
        };
        match tokio::time::timeout(self.idle, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => self.speak(stream, peer).await,
            Ok(Err(error)) => tracing::debug!(error = %error, "a client and we agree on no TLS"),
            Err(_) => tracing::debug!("a client did not finish its TLS handshake"),
        }
    }

    async fn speak(self, stream: impl AsyncRead + AsyncWrite + Unpin + 'static, peer: SocketAddr) {
        let router = self.router;
        let service = service_fn(move |request: Request<Incoming>| {
            let refusal = too_large(&request);
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            let router = router.clone();
            async move {
                match refusal {
                    Some(refusal) => Ok(door::refused(refusal, request.headers())),
                    None => router.oneshot(request).await,
                }
            }
        });
        let stream = TokioIo::new(Patient::new(stream, self.idle, self.stall));
        let mut speaking = std::pin::pin!(self.http.serve_connection(stream, service));
        let mut told = false;
        let spoken = loop {
            tokio::select! {
                spoken = speaking.as_mut() => break spoken,
                () = self.closing.cancelled(), if !told => {
                    told = true;
                    speaking.as_mut().graceful_shutdown();
                }
            }
        };
        if let Err(error) = spoken {
            tracing::debug!(error = %error, "a connection broke off");
        }
    }
}

/// A head that is larger than any of ours needs to be.
fn too_large<B>(request: &Request<B>) -> Option<Refusal> {
    let url = request
        .uri()
        .path_and_query()
        .map_or(0, |url| url.as_str().len());
    if url > URL_BYTES {
        return Some(Refusal::uri_too_long(URL_BYTES));
    }
    let fields = request.headers();
    let bytes: usize = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    (fields.len() > HEADERS || bytes > HEAD_BYTES)
        .then(|| Refusal::headers_too_large(HEADERS, HEAD_BYTES))
}

/// Serves until told to stop; then takes nothing new, and what is in flight has its time.
pub async fn serve(
    listener: TcpListener,
    app: App,
    certificate: Option<Arc<Certificate>>,
    stop: &CancellationToken,
) -> Result<()> {
    let edge = Edge::new(&app, certificate);
    let peers = Peers::new(app.config.connections_per_address);
    let room = Arc::new(Semaphore::new(app.config.connections));
    let tracker = TaskTracker::new();
    // Those that are still there at the end are cut off.
    let cut = CancellationToken::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        let place = place.map_err(|_| Error::unavailable("the server is shutting down"))?;
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_of_the_client(&error) {
                    tracing::error!(error = %error, "no connection can be accepted");
                    tokio::time::sleep(BREATH).await;
                }
                continue;
            }
        };
        let Some(one) = peers.one_of(peer.ip()) else {
            tracing::debug!(peer = %peer.ip(), "an address has too many connections");
            continue;
        };
        let connection = edge.clone().connection(stream, peer);
        let cut = cut.clone();
        tracker.spawn(async move {
            let _places = (place, one);
            tokio::select! {
                () = connection => {}
                () = cut.cancelled() => {}
            }
        });
    }
    drop(listener);
    app.readiness.set(false);
    app.closing.cancel();
    tracker.close();
    if tokio::time::timeout(app.config.drain, tracker.wait())
        .await
        .is_err()
    {
        tracing::warn!("requests were still in flight when the drain time was over");
        cut.cancel();
        tracker.wait().await;
    }
    Ok(())
}

/// It has left before it was accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
    )
}
