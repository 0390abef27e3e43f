//! A connection whose client may be slow, but not for ever: it begins to speak, and reads what it is answered, within a time.
//!
//! What is bounded here has no bound in hyper: the first bytes, before it is known which HTTP a client speaks, and answers that
//! nobody reads. A timer exists only while one of the two is waited for.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// The preface of HTTP/2 and the head of its first frame (RFC 9113, 3.4); every head of HTTP/1 that names its host and a path of ours is
/// longer.
const BEGUN: usize = 33;

pub struct Patient<S> {
    stream: S,
    /// Until it has said [`BEGUN`] bytes.
    begin: Option<Pin<Box<Sleep>>>,
    said: usize,
    stalled: Option<Pin<Box<Sleep>>>,
    send: Duration,
}

impl<S> Patient<S> {
    pub fn new(stream: S, head: Duration, send: Duration) -> Self {
        Self {
            stream,
            begin: Some(Box::pin(sleep(head))),
            said: 0,
            stalled: None,
            send,
        }
    }

    /// A write that is pending waits only so long; one that went through begins anew.
    fn bounded<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let send = self.send;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(send)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.begin.is_none() {
            return read;
        }
        self.said += buffer.filled().len() - before;
        if self.said >= BEGUN {
            self.begin = None;
        }
        match (read, &mut self.begin) {
            (Poll::Pending, Some(begin)) => {
                ready!(begin.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            (read, _) => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.bounded(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.bounded(shut, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn who_does_not_begin_is_left() {
        let (near, mut far) = duplex(1024);
        let mut near = Patient::new(near, SHORT, LONG);
        far.write_all(b"PRI * HTTP/2.0").await.expect("written");
        let mut said = Vec::new();
        let error = near.read_to_end(&mut said).await.expect_err("too slow");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(said, b"PRI * HTTP/2.0");
    }

    #[tokio::test]
    async fn who_has_begun_may_be_silent() {
        let (near, mut far) = duplex(1024);
        let mut near = Patient::new(near, SHORT, LONG);
        far.write_all(&[b'x'; BEGUN]).await.expect("written");
        near.read_exact(&mut [0; BEGUN]).await.expect("read");
        let silence = tokio::time::timeout(SHORT * 4, near.read_u8()).await;
        assert!(silence.is_err(), "still waited for: {silence:?}");
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_is_given_up() {
        let (near, far) = duplex(8);
        let mut near = Patient::new(near, LONG, SHORT);
        let error = near.write_all(&[0; 64]).await.expect_err("unread");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(far);
    }
}
