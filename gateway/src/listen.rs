//! The port: bound with words that say what to do, served until told to stop, each connection within the bounds of [`Edge`].

use crate::{app::App, edge::Edge, patient::Patient, router};
use axum::{Router, extract::ConnectInfo};
use domain::{Error, Result};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::util::MapRequest;

/// Connections that may wait to be accepted; the kernel takes less where `somaxconn` is lower.
const BACKLOG: u32 = 16_384;

/// Requests that one HTTP/2 connection may have on their way.
const STREAMS: u32 = 250;

/// How long no connection is accepted when none could be.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    let open = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|error: io::Error| {
        let words = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("cannot listen on {address}: another process has this port; stop it or choose another one")
            }
            io::ErrorKind::PermissionDenied => {
                format!("cannot listen on {address}: this user may not open the port; choose one above 1023")
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("cannot listen on {address}: this host has no such address; choose one of its own, as 0.0.0.0")
            }
            _ => format!("cannot listen on {address}: {error}"),
        };
        Error::unavailable(words).because(error)
    })
}

/// Accepts until `stop`; then lets every connection finish what it runs, for at most the drain time.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    app: App,
    stop: &CancellationToken,
) -> Result<()> {
    let router = router::router(app.clone());
    let places = Arc::new(Semaphore::new(app.config.edge.connections));
    let mut connections = JoinSet::new();
    loop {
        // Whoever finds no place waits in the kernel's queue: the deadlines of those who hold one bound the wait.
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accepted => accepted,
            Some(_) = connections.join_next() => continue,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (router, tls, app) = (router.clone(), tls.clone(), app.clone());
                let stop = stop.clone();
                connections.spawn(async move {
                    connection(stream, peer, tls, router, (&app.config.edge, &stop)).await;
                    drop(place);
                });
            }
            // Out of descriptors, most often: those that end give some back. Anything else is the peer's own end.
            Err(error) if is_peers(&error) => {}
            Err(error) => {
                tracing::warn!(error = %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    app.readiness.set(false);
    app.closing.cancel();
    let finish = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(app.config.drain, finish)
        .await
        .is_err()
    {
        tracing::warn!("requests were still in flight when the drain time was over");
        connections.shutdown().await;
    }
    Ok(())
}

fn is_peers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    (edge, stop): (&Edge, &CancellationToken),
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::trace!(error = %error, "a connection stays with Nagle's algorithm");
    }
    let Some(tls) = tls else {
        return speak(stream, peer, router, edge, stop).await;
    };
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(edge.head, tls.accept(stream)) => shaken,
        () = stop.cancelled() => return,
    };
    match shaken {
        Ok(Ok(stream)) => speak(stream, peer, router, edge, stop).await,
        Ok(Err(error)) => tracing::debug!(error = %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// HTTP/1.1 or HTTP/2, whichever the client begins with.
async fn speak<S>(
    stream: S,
    peer: SocketAddr,
    router: Router,
    edge: &Edge,
    stop: &CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let head_bytes = u32::try_from(edge.head_bytes).unwrap_or(u32::MAX);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(edge.head)
        .max_buf_size(edge.head_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(head_bytes)
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(edge.head)
        .keep_alive_timeout(edge.send);
    let service = MapRequest::new(router, move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request
    });
    let io = TokioIo::new(Patient::new(stream, edge.head, edge.send));
    let spoken = builder.serve_connection(io, TowerToHyperService::new(service));
    let mut spoken = pin!(spoken);
    let ended = tokio::select! {
        ended = spoken.as_mut() => ended,
        () = stop.cancelled() => {
            spoken.as_mut().graceful_shutdown();
            spoken.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!(error = %error, "a connection broke off");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_said_in_one_line() {
        let first = listen(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        let taken = first.local_addr().expect("an address");
        let error = listen(taken).expect_err("taken");
        assert!(
            error.message.contains("another process") && !error.message.contains('\n'),
            "{error}"
        );
        let foreign = listen(SocketAddr::from(([192, 0, 2, 1], 0))).expect_err("not ours");
        assert!(foreign.message.contains("192.0.2.1"), "{foreign}");
    }
}
