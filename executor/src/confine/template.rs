//! A sandbox whose worker forks others like itself, and what stands ready of them.
//!
//! In: frames that the worker understands as "fork", which this side only carries. Out: processes of the sandbox in control groups of their
//! own ([`Spare`]), with a socket each. The worker is not believed: which process answered, the kernel says (SCM_CREDENTIALS), and
//! that it is one of this sandbox, its parent.

use std::collections::HashMap;
use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as Std;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt::set_socket_passcred,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::cgroup::{Bounds, Groups};
use super::confined::{Confined, Exit, spawn};
use super::error::{Error, Step};
use super::forked::Forked;
use super::level::{Host, Level};
use super::plan::{Order, Report};
use super::remains::{Remains, bury};
use super::root::slots::SLOTS;
use super::spec::Spec;
use super::{sys, wire};

/// A worker that only waits to fork does it in milliseconds.
const FORKS_WITHIN: Duration = Duration::from_secs(5);

/// How a watched process ended: code, signal.
pub type End = (Option<i32>, Option<i32>);

#[derive(Debug)]
pub struct Template {
    confined: Confined,
    /// To the worker.
    socket: Std,
    control: Std,
    bounds: Bounds,
    slots: usize,
    host: Arc<Host>,
    state: Mutex<State>,
    gone: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<u32>,
    opening: HashMap<u32, oneshot::Sender<Result<(), String>>>,
    watched: HashMap<i32, oneshot::Sender<End>>,
}

/// One that was forked and waits for its first frame.
#[derive(Debug)]
pub struct Spare {
    pub forked: Forked,
    pub socket: UnixStream,
    /// Of the root that it is to go to, as the sandbox sees it.
    pub root: String,
}

/// Given back, and emptied, when dropped.
#[derive(Debug)]
pub struct Slot {
    template: Arc<Template>,
    number: u32,
}

impl Template {
    /// Starts one. Its socket comes beside it, as `Confined::socket` does.
    pub async fn spawn(spec: &Spec, level: &Level) -> Result<(Self, UnixStream), Error> {
        let mut confined = spawn(spec, level).await?;
        let socket = confined.socket.take();
        let socket = socket.ok_or_else(|| Error::Helper("it came without a socket".to_owned()))?;
        let template = Self {
            socket: Std::from(socket.as_fd().try_clone_to_owned().step("worker socket")?),
            control: confined.control().step("control socket")?,
            bounds: Bounds {
                memory_bytes: spec.memory_mb << 20,
                processes: spec.processes,
            },
            slots: spec.slots as usize,
            host: Arc::clone(&level.host),
            state: Mutex::new(State {
                free: (0..spec.slots).rev().collect(),
                ..State::default()
            }),
            gone: AtomicBool::new(false),
            confined,
        };
        Ok((template, socket))
    }

    /// Accepts what all of its sandbox sends to the proxy. Once.
    pub fn egress(&mut self) -> Option<tokio::net::TcpListener> {
        self.confined.egress.take()
    }

    pub fn pid(&self) -> i32 {
        self.confined.pid()
    }

    /// Its worker has ended; what was forked lives on.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// Of the template itself, once it only waits.
    pub fn limit_cpu(&self, cores: f64) -> Result<(), Error> {
        self.confined.limit_cpu(cores)
    }

    /// How many there are that were forked.
    pub fn forks(&self) -> usize {
        let free = self.state().free.len();
        self.slots.saturating_sub(free)
    }

    /// Ends everything in the sandbox, all that was forked too.
    pub async fn kill(&self) -> Result<Exit, Error> {
        self.gone.store(true, Ordering::Relaxed);
        self.confined.kill().await
    }

    /// Hears the sandbox's first process, until there is none.
    pub async fn attend(&self) -> Result<(), Error> {
        let control = self.control.try_clone().step("control socket")?;
        let control = UnixStream::from_std(control).step("control socket")?;
        loop {
            control.readable().await.step("control socket")?;
            let heard = control.try_io(Interest::READABLE, || {
                wire::receive::<Report>(&self.control)
            });
            match heard {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(Some((report, _))) => self.heard(report),
                Ok(None) | Err(_) => break,
            }
        }
        self.gone.store(true, Ordering::Relaxed);
        // Whoever waits learns by the dropped senders.
        let mut state = self.state();
        state.opening.clear();
        state.watched.clear();
        Ok(())
    }

    fn heard(&self, report: Report) {
        let mut state = self.state();
        match report {
            Report::Opened { slot } => {
                if let Some(waiting) = state.opening.remove(&slot) {
                    waiting.send(Ok(())).ok();
                }
            }
            Report::NotOpened { slot, failure } => {
                if let Some(waiting) = state.opening.remove(&slot) {
                    waiting.send(Err(failure)).ok();
                }
            }
            Report::Ended { pid, code, signal } => {
                if let Some(waiting) = state.watched.remove(&pid) {
                    waiting.send((code, signal)).ok();
                }
            }
            Report::Exited { .. } => self.gone.store(true, Ordering::Relaxed),
            _ => {}
        }
    }

    /// `frame` tells the worker to fork; the descriptor that comes with it is the new one's socket, on which it says one byte.
    pub async fn fork(self: &Arc<Self>, frame: Vec<u8>) -> Result<Spare, Error> {
        let number = self.state().free.pop();
        let number = number.ok_or_else(|| Error::Spec("every slot is taken".to_owned()))?;
        let slot = Slot {
            template: Arc::clone(self),
            number,
        };
        self.open(number).await?;
        let template = Arc::clone(self);
        let forking = tokio::task::spawn_blocking(move || template.forked(&frame));
        let born = forking
            .await
            .map_err(|_| Error::Spec("the runtime is shutting down".to_owned()))??;
        born.socket.set_nonblocking(true).step("worker socket")?;
        let socket = UnixStream::from_std(born.socket).step("worker socket")?;
        let watched = sys::awaited(born.pidfd).step("pidfd")?;
        let kill_within = self.host.config.kill_within;
        Ok(Spare {
            forked: Forked::new(born.pid, watched, born.end, born.groups, slot, kill_within),
            socket,
            root: format!("{SLOTS}/{number}"),
        })
    }

    async fn open(&self, slot: u32) -> Result<(), Error> {
        let (tell, opened) = oneshot::channel();
        self.state().opening.insert(slot, tell);
        self.order(Order::Open { slot })?;
        match tokio::time::timeout(FORKS_WITHIN, opened).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(failure))) => Err(Error::Spec(failure)),
            Ok(Err(_)) => Err(Error::Helper("the template is gone".to_owned())),
            Err(_) => Err(late("open a slot")),
        }
    }

    fn order(&self, order: Order) -> Result<(), Error> {
        wire::send(&self.control, &order, &[]).step("order a template's first process")
    }

    /// Blocks.
    fn forked(&self, frame: &[u8]) -> Result<Born, Error> {
        let groups = self.host.hierarchy.create(&self.host.leaf());
        let groups = Unsettled(Some(groups.step("create the control group")?));
        let (ours, theirs) = Std::pair().step("worker socket")?;
        set_socket_passcred(&ours, true).step("worker socket")?;
        ours.set_read_timeout(Some(FORKS_WITHIN))
            .step("worker socket")?;
        self.send(frame, &theirs)?;
        drop(theirs);
        let pid = hear(&ours)?;
        set_socket_passcred(&ours, false).step("worker socket")?;
        let pidfd = Pid::from_raw(pid).ok_or_else(|| Error::Helper("no pid".to_owned()))?;
        let pidfd = pidfd_open(pidfd, PidfdFlags::empty()).step("pidfd_open")?;
        // It waits for our answer: it lives, so the number is its own; should it have been killed, the number leads to no child of the sandbox's.
        let inside = self.inside(pid)?;
        let (tell, end) = oneshot::channel();
        self.state().watched.insert(inside, tell);
        self.order(Order::Watch { pid: inside })?;
        let groups = groups.settled(self.bounds, pid)?;
        Ok(Born {
            pid,
            pidfd,
            end,
            groups,
            socket: ours,
        })
    }

    fn send(&self, frame: &[u8], socket: &Std) -> Result<(), Error> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [socket.as_fd()];
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Error::Spec("no room for a descriptor".to_owned()));
        }
        let frame = [IoSlice::new(frame)];
        // So small that a stream takes all of it or nothing.
        sendmsg(&self.socket, &frame, &mut ancillary, SendFlags::NOSIGNAL)
            .step("tell the template to fork")?;
        Ok(())
    }

    /// The number that a process has in the sandbox, if it is a child of its first process (proc_pid_status(5)).
    fn inside(&self, pid: i32) -> Result<i32, Error> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).step("read its status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().last()?.parse::<i32>().ok()
        };
        match (field("PPid:"), field("NSpid:")) {
            (Some(parent), Some(inside)) if parent == self.pid() => Ok(inside),
            _ => Err(Error::Helper(
                "who answered is no process of the sandbox".to_owned(),
            )),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Born {
    pid: i32,
    pidfd: OwnedFd,
    end: oneshot::Receiver<End>,
    groups: Groups,
    socket: Std,
}

/// Groups that are taken away again where a step after them fails.
struct Unsettled(Option<Groups>);

impl Unsettled {
    fn settled(mut self, bounds: Bounds, pid: i32) -> Result<Groups, Error> {
        if let Some(groups) = &self.0 {
            groups.bound(bounds).step("bound the control group")?;
            groups
                .join(pid.unsigned_abs())
                .step("join the control group")?;
        }
        let groups = self.0.take();
        groups.ok_or_else(|| Error::Spec("no control group".to_owned()))
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if let Some(groups) = self.0.take() {
            groups.destroy(Instant::now() + Duration::from_secs(1));
        }
    }
}

impl Slot {
    /// With what is left of who was in it, which is dying.
    pub(super) fn bury(self, groups: Option<Groups>) {
        let remains = Remains { init: None, groups };
        bury(&self.template.host, remains);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // Once the sandbox has ended nobody obeys, and nothing is there to be emptied. Orders are taken up in turn: it is empty again for
        // whoever gets it next.
        self.template.order(Order::Close { slot: self.number }).ok();
        self.template.state().free.push(self.number);
    }
}

/// The one byte, and who sent it.
fn hear(socket: &Std) -> Result<i32, Error> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut byte)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => return Err(late("fork")),
            other => break other.step("hear what was forked")?,
        }
    };
    if received.bytes == 0 {
        return Err(Error::Helper("the template did not fork".to_owned()));
    }
    let mut sent_by = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmCredentials(credentials) = message {
            sent_by = Some(credentials.pid.as_raw_nonzero().get());
        }
    }
    sent_by.ok_or_else(|| Error::Helper("nobody said who was forked".to_owned()))
}

fn late(step: &str) -> Error {
    Error::Late {
        step: step.to_owned(),
        within: FORKS_WITHIN,
    }
}
