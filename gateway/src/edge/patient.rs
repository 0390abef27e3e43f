//! A connection that is waited for only so long: for the first bytes, which tell what is spoken, and for a reader that does not read.
//! In between hyper waits for heads, and `body` for bodies.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// HTTP/2's preface is so long; only then is it known which of the two is spoken.
const PREFACE: usize = 24;

pub struct Patient<S> {
    stream: S,
    /// Until something is answered, or so much was read.
    opening: Option<Pin<Box<Sleep>>>,
    read: usize,
    /// While nothing can be written.
    stalled: Option<Pin<Box<Sleep>>>,
    stall: Duration,
}

impl<S> Patient<S> {
    pub fn new(stream: S, opens_within: Duration, stall: Duration) -> Self {
        Self {
            stream,
            opening: Some(Box::pin(tokio::time::sleep(opens_within))),
            read: 0,
            stalled: None,
            stall,
        }
    }

    /// What a write came to; an error, when the reader has stood still for too long.
    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        wrote: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if wrote.is_ready() {
            self.stalled = None;
            return wrote;
        }
        let until = Instant::now() + self.stall;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(late("the client does not read")))
    }
}

fn late(words: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, words)
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if let Some(opening) = &mut this.opening {
            this.read += buffer.filled().len() - before;
            if this.read >= PREFACE {
                this.opening = None;
            } else if read.is_pending() {
                ready!(opening.as_mut().poll(context));
                return Poll::Ready(Err(late("the client says nothing")));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.opening = None;
        let wrote = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.judge(context, wrote)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.opening = None;
        let wrote = Pin::new(&mut this.stream).poll_write_vectored(context, pieces);
        this.judge(context, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        this.judge(context, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.stream).poll_shutdown(context);
        this.judge(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_not_waited_for() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut patient = Patient::new(ours, SOON, SOON);
        theirs.write_all(b"PRI * HT").await.expect("written");
        let mut buffer = [0; 64];
        assert_eq!(patient.read(&mut buffer).await.expect("a part"), 8);
        let error = patient.read(&mut buffer).await.expect_err("late");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_answered_may_be_silent() {
        let (ours, mut theirs) = tokio::io::duplex(64);
        let mut patient = Patient::new(ours, SOON, SOON);
        theirs.write_all(b"GET /").await.expect("written");
        let mut buffer = [0; 5];
        patient.read_exact(&mut buffer).await.expect("a request");
        patient.write_all(b"answer").await.expect("an answer");
        let silent = tokio::time::timeout(SOON * 10, patient.read(&mut buffer)).await;
        assert!(silent.is_err(), "{silent:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_not_waited_for() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let mut patient = Patient::new(ours, SOON, SOON);
        let begun = Instant::now();
        let slowly = async {
            let mut buffer = [0; 4];
            for _ in 0..3 {
                tokio::time::sleep(SOON - Duration::from_secs(1)).await;
                theirs.read_exact(&mut buffer).await.expect("some");
            }
            std::future::pending::<()>().await;
        };
        let error = tokio::select! {
            wrote = patient.write_all(&[7; 64]) => wrote.expect_err("late"),
            () = slowly => unreachable!("it goes on"),
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed(), (SOON - Duration::from_secs(1)) * 3 + SOON);
    }
}
