//! Bytes both ways, each direction ended by itself (a half-closed side may still be read), both together when nothing moves any more.

use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::request::Body;

const BUFFER_BYTES: usize = 16 << 10;

/// When a byte last moved, in either direction: a long answer keeps a silent request alive.
struct Moved(Mutex<Instant>);

impl Moved {
    fn now() -> Self {
        Moved(Mutex::new(Instant::now()))
    }

    fn mark(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn still_for(&self, idle: Duration) {
        loop {
            let until = self.last() + idle;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

pub async fn tunnel(
    mut client: TcpStream,
    mut server: TcpStream,
    early: &[u8],
    idle: Duration,
) -> io::Result<()> {
    client
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await?;
    server.write_all(early).await?;
    let moved = Moved::now();
    let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
    let both = async {
        tokio::try_join!(
            half(from_client, to_server, &moved),
            half(from_server, to_client, &moved)
        )
        .map(|_| ())
    };
    tokio::select! {
        done = both => done,
        () = moved.still_for(idle) => Ok(()),
    }
}

/// One request: no byte after its body is sent on, so a connection cannot carry a second one past the policy.
/// The server ends it (`Connection: close`).
pub async fn forward(
    mut client: TcpStream,
    mut server: TcpStream,
    head: &[u8],
    body: Body,
    early: &[u8],
    idle: Duration,
) -> io::Result<()> {
    server.write_all(head).await?;
    let moved = Moved::now();
    let ((from_client, to_client), (from_server, mut to_server)) = (client.split(), server.split());
    let rest = early.chain(from_client);
    let limit = match body {
        Body::Length(length) => length,
        // Its end is the server's to find; what a client might send after it reaches the same, checked server.
        Body::Chunked => u64::MAX,
    };
    let request = async {
        pump(rest.take(limit), &mut to_server, &moved).await?;
        std::future::pending::<io::Result<()>>().await
    };
    tokio::select! {
        // An upload that fails may have its answer under way all the same (413).
        done = async { tokio::select! { biased; answered = half(from_server, to_client, &moved) => answered, sent = request => sent } } => done,
        () = moved.still_for(idle) => Ok(()),
    }
}

async fn half(
    from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: &Moved,
) -> io::Result<()> {
    pump(from, &mut to, moved).await?;
    to.shutdown().await
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
    moved: &Moved,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        moved.mark();
        to.write_all(&buffer[..read]).await?;
        moved.mark();
    }
}
