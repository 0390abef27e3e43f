//! The socket to one worker: calls go out, what they say comes back to whoever waits for them.
//!
//! A worker that breaks the protocol is cut off; its calls end as [`Gone`], like those of one that crashed.

use crate::frame::{self, Done, Pong, Ready, Said, Spent};
use bytes::{Buf, Bytes, BytesMut};
use domain::{execution::Failure, log::Line};
use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};
use tokio::{
    io::AsyncReadExt,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, mpsc, oneshot},
};

/// Events of one call that may wait for their taker. Results do not wait here: they have a place of their own.
const EVENTS: usize = 1024;

/// How a call ended.
#[derive(Debug)]
pub enum Ended {
    Result(Done),
    Error(Failure, Spent),
}

/// The worker is gone before the call ended; why is known when its process has been reaped.
#[derive(Debug)]
pub struct Gone;

/// Why a link is over.
#[derive(Debug)]
pub enum Over {
    /// We closed it.
    Closed,
    /// The worker closed it, most likely by ending.
    Gone,
    /// The worker broke the protocol.
    Broken(String),
}

/// What a call says while it runs.
#[derive(Debug)]
pub enum Event {
    Log(Vec<Line>),
    Chunk(Bytes),
    Progress(f64),
}

/// The taker's side of a call. `events` is empty once `ended` is there.
pub struct Call {
    pub id: u64,
    pub ended: oneshot::Receiver<Ended>,
    pub events: mpsc::Receiver<Event>,
}

struct Open {
    ended: oneshot::Sender<Ended>,
    events: mpsc::Sender<Event>,
}

/// What a starting worker says about itself.
pub enum Hello {
    Ready(Ready),
    Failed(Failure),
}

struct Ping {
    id: u64,
    /// Only an answer with the application's status counts.
    wants_status: bool,
    answer: oneshot::Sender<Pong>,
}

pub struct Link {
    out: OwnedWriteHalf,
    backlog: Mutex<VecDeque<Bytes>>,
    queued: Notify,
    calls: Mutex<HashMap<u64, Open>>,
    next: AtomicU64,
    /// The ping that is not answered yet; one at a time.
    ping: Mutex<Option<Ping>>,
    heard: AtomicBool,
    closed: tokio_util::sync::CancellationToken,
}

impl Link {
    /// The link, and what its reader task needs.
    pub fn new(socket: UnixStream) -> (Self, OwnedReadHalf) {
        let (read, out) = socket.into_split();
        let link = Self {
            out,
            backlog: Mutex::default(),
            queued: Notify::new(),
            calls: Mutex::default(),
            next: AtomicU64::new(1),
            ping: Mutex::default(),
            heard: AtomicBool::new(false),
            closed: tokio_util::sync::CancellationToken::new(),
        };
        (link, read)
    }

    /// A call's number, for [`Self::call`].
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends a call that was encoded with `id`. What it says arrives at the returned side.
    pub fn call(&self, id: u64, frame: Bytes) -> Result<Call, Gone> {
        let (ended, on_end) = oneshot::channel();
        let (events, on_event) = mpsc::channel(EVENTS);
        self.calls().insert(id, Open { ended, events });
        self.send(frame)?;
        // The reader may have closed between the two: then nobody would ever end this call.
        if self.closed.is_cancelled() {
            self.calls().remove(&id);
            return Err(Gone);
        }
        Ok(Call {
            id,
            ended: on_end,
            events: on_event,
        })
    }

    /// Sends at once where the socket has room, else in order when it has.
    pub fn send(&self, mut frame: Bytes) -> Result<(), Gone> {
        if self.closed.is_cancelled() {
            return Err(Gone);
        }
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        if backlog.is_empty() {
            match self.out.try_write(&frame) {
                Ok(sent) if sent == frame.len() => return Ok(()),
                Ok(sent) => frame.advance(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The reader sees the end, after what was said before it.
                Err(_) => return Err(Gone),
            }
        }
        backlog.push_back(frame);
        drop(backlog);
        self.queued.notify_one();
        Ok(())
    }

    /// Asks the worker how it is doing. A later ping takes an unanswered one's place.
    pub fn ping(&self, path: Option<&str>) -> Result<oneshot::Receiver<Pong>, Gone> {
        let id = self.number();
        let frame = frame::ping(id, path).map_err(|_| Gone)?;
        let (answer, pong) = oneshot::channel();
        *self.pinged() = Some(Ping {
            id,
            wants_status: path.is_some(),
            answer,
        });
        self.send(frame)?;
        Ok(pong)
    }

    /// Whether it has said anything since this was last asked.
    pub fn was_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    /// Forgets a call: what it still says is dropped.
    pub fn forget(&self, id: u64) {
        self.calls().remove(&id);
    }

    /// Resolves when the worker is cut off or gone.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Cancelled when the link is closed.
    pub fn closing(&self) -> tokio_util::sync::CancellationToken {
        self.closed.clone()
    }

    pub fn close(&self) {
        self.closed.cancel();
        self.calls().clear();
        self.pinged().take();
    }

    fn pinged(&self) -> MutexGuard<'_, Option<Ping>> {
        self.ping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what did not fit at once; until the link is closed.
    pub async fn write(&self) {
        loop {
            tokio::select! {
                () = self.closed.cancelled() => return,
                () = self.queued.notified() => {}
            }
            loop {
                let front = self
                    .backlog
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .front()
                    .cloned();
                let Some(mut frame) = front else { break };
                tokio::select! {
                    () = self.closed.cancelled() => return,
                    ready = self.out.writable() => if ready.is_err() { return },
                }
                match self.out.try_write(&frame) {
                    Ok(sent) => {
                        frame.advance(sent);
                        let mut backlog =
                            self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
                        if frame.is_empty() {
                            backlog.pop_front();
                        } else if let Some(front) = backlog.front_mut() {
                            *front = frame;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        }
    }

    /// Reads until the worker is gone or breaks the protocol. `lines` takes what the instance says outside of any call.
    pub async fn read(
        &self,
        mut socket: OwnedReadHalf,
        most: usize,
        hello: oneshot::Sender<Hello>,
        lines: impl Fn(Vec<Line>),
    ) -> Over {
        let mut hello = Some(hello);
        let mut read = BytesMut::with_capacity(64 * 1024);
        let ended = loop {
            match frame::next(&mut read, most) {
                Ok(Some(said)) => {
                    if let Err(fault) = self.take(said, &mut hello, &lines) {
                        break Over::Broken(fault);
                    }
                }
                Ok(None) => {
                    let got = tokio::select! {
                        biased;
                        () = self.closed.cancelled() => break Over::Closed,
                        got = socket.read_buf(&mut read) => got,
                    };
                    match got {
                        Ok(0) | Err(_) => break Over::Gone,
                        Ok(_) => self.heard.store(true, Ordering::Relaxed),
                    }
                }
                Err(fault) => break Over::Broken(fault),
            }
        };
        self.close();
        ended
    }

    fn take(
        &self,
        said: Said,
        hello: &mut Option<oneshot::Sender<Hello>>,
        lines: &impl Fn(Vec<Line>),
    ) -> Result<(), String> {
        let greet = |hello: &mut Option<oneshot::Sender<Hello>>, what| match hello.take() {
            // Whoever waited has given up; the instance is being killed.
            Some(waiting) => {
                waiting.send(what).ok();
                Ok(())
            }
            None => Err("a second greeting".to_owned()),
        };
        match said {
            Said::Ready(ready) => greet(hello, Hello::Ready(ready))?,
            Said::Failed(failure) => greet(hello, Hello::Failed(failure))?,
            Said::Result(id, done) => self.end(id, Ended::Result(done)),
            Said::Error(id, failure, spent) => self.end(id, Ended::Error(failure, spent)),
            Said::Log(0, said) => lines(said),
            Said::Log(id, said) => self.tell(id, Event::Log(said)),
            Said::Chunk(id, data) => self.tell(id, Event::Chunk(data)),
            Said::Progress(id, percent) => self.tell(id, Event::Progress(percent)),
            Said::Pong(id, pong) => self.answered(id, pong),
        }
        Ok(())
    }

    fn answered(&self, id: u64, pong: Pong) {
        let is_answer =
            |ping: &mut Ping| ping.id == id && (pong.status.is_some() || !ping.wants_status);
        if let Some(ping) = self.pinged().take_if(is_answer) {
            // Whoever asked may have given up.
            ping.answer.send(pong).ok();
        }
    }

    fn end(&self, id: u64, ended: Ended) {
        let open = self.calls().remove(&id);
        if let Some(open) = open {
            // The taker may have stopped waiting (a timeout): the end is then of no use.
            open.ended.send(ended).ok();
        }
    }

    /// A full queue drops the event: the taker counts what it got, and the worker is bounded as well.
    fn tell(&self, id: u64, event: Event) {
        if let Some(open) = self.calls().get(&id) {
            open.events.try_send(event).ok();
        }
    }
}
