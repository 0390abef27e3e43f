//! One running sandbox, as the executor holds it.

use std::os::unix::net::UnixStream as Control;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, UnixStream};
use tokio::time::Instant;

use super::error::{Error, Step};
use super::level::{Host, Isolation, Level};
use super::plan::Report;
use super::remains::{Dying, Remains, bury};
use super::spec::Spec;
use super::start::{Started, start};
use super::{process, sys, wire};

/// How often the memory of an instance without a memory group is added up.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// How the worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// Killed because the instance was over its memory limit.
    pub oom_killed: bool,
}

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub current: u64,
    pub peak: u64,
}

/// A confined worker. End it with [`Confined::kill`]; dropping it kills as well, but does not see to the end.
#[derive(Debug)]
pub struct Confined {
    /// The other end of the worker's descriptor 3. `None` once taken.
    pub socket: Option<UnixStream>,
    /// Accepts what the sandbox sends to its proxy, 127.0.0.1:3128 in there. `None` once taken.
    pub egress: Option<TcpListener>,
    pub stdout: Option<pipe::Receiver>,
    pub stderr: Option<pipe::Receiver>,
    pid: i32,
    ended: AsyncFd<std::os::fd::OwnedFd>,
    control: Control,
    state: Arc<Mutex<State>>,
    peak: AtomicU64,
    memory_bytes: u64,
    watches_memory: bool,
    plain: bool,
    kill_within: Duration,
    host: Arc<Host>,
}

#[derive(Debug)]
struct State {
    remains: Remains,
    exit: Option<Exit>,
    over_limit: bool,
}

/// Starts a confined worker; returns when its program has been executed. On an error nothing is left behind.
pub async fn spawn(spec: &Spec, level: &Level) -> Result<Confined, Error> {
    if let Some(failure) = &level.failure {
        return Err(Error::Unconfined(failure.clone()));
    }
    let (asked, at) = (spec.clone(), level.clone());
    let starting = tokio::task::spawn_blocking(move || start(&asked, &at));
    let started = starting.await.map_err(|e| Error::Helper(e.to_string()))??;
    // Not awaited: a bounded piece of work that nobody here needs.
    let at = level.clone();
    drop(tokio::task::spawn_blocking(move || {
        at.host.standby.fill(&at);
    }));
    Confined::new(started, spec, level)
}

impl Confined {
    fn new(started: Started, spec: &Spec, level: &Level) -> Result<Self, Error> {
        let Started {
            pid,
            remains,
            control,
            socket,
            egress,
            stdout,
            stderr,
        } = started;
        let dying = Dying::new(remains, Arc::clone(&level.host));
        control.set_nonblocking(true).step("control socket")?;
        socket.set_nonblocking(true).step("worker socket")?;
        egress.set_nonblocking(true).step("egress listener")?;
        let receiver = |fd: Option<std::os::fd::OwnedFd>| {
            fd.map(pipe::Receiver::from_owned_fd)
                .transpose()
                .step("log pipe")
        };
        let watched = dying.init().step("pidfd")?;
        Ok(Confined {
            socket: Some(UnixStream::from_std(socket).step("worker socket")?),
            egress: Some(TcpListener::from_std(egress).step("egress listener")?),
            stdout: receiver(stdout)?,
            stderr: receiver(stderr)?,
            pid,
            ended: sys::awaited(watched).step("pidfd")?,
            control,
            state: Arc::new(Mutex::new(State {
                remains: dying.survive(),
                exit: None,
                over_limit: false,
            })),
            peak: AtomicU64::new(0),
            memory_bytes: spec.memory_mb << 20,
            watches_memory: level.watches_memory(),
            plain: level.isolation == Isolation::None,
            kill_within: level.host.config.kill_within,
            host: Arc::clone(&level.host),
        })
    }

    /// Of the sandbox's first process, as the host sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The line to the sandbox's first process.
    pub(super) fn control(&self) -> std::io::Result<Control> {
        self.control.try_clone()
    }

    /// Until the worker has ended, and with it everything in its sandbox. May be called again, and by several.
    /// Without a memory group this also watches the memory: keep one waiter.
    pub async fn wait(&self) -> Exit {
        loop {
            let tick = async {
                if self.watches_memory {
                    tokio::time::sleep(WATCH_EVERY).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                // An error can only mean that the runtime is shutting down; the reaping below settles it.
                _ = self.ended.readable() => {
                    if let Some(exit) = self.settle() {
                        return exit;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                () = tick => self.watch(),
            }
        }
    }

    /// Kills everything in the sandbox, sees it empty and removes its groups. `Survived` when that took too long; it may be tried again.
    pub async fn kill(&self) -> Result<Exit, Error> {
        let deadline = Instant::now() + self.kill_within;
        self.end();
        let Ok(exit) = tokio::time::timeout_at(deadline, self.wait()).await else {
            return Err(Error::Survived {
                count: self.processes(),
                within: self.kill_within,
            });
        };
        // On a blocking thread: removing a group waits for whoever moves a process anywhere, which takes milliseconds.
        let state = Arc::clone(&self.state);
        let removing = tokio::task::spawn_blocking(move || {
            let Some(groups) = lock(&state).remains.groups.take() else {
                return true;
            };
            let gone = groups.destroy(deadline.into_std());
            if !gone {
                lock(&state).remains.groups = Some(groups);
            }
            gone
        });
        if !removing.await.unwrap_or(false) {
            return Err(Error::Survived {
                count: self.processes(),
                within: self.kill_within,
            });
        }
        Ok(exit)
    }

    /// How many processes are alive in it, its first one included.
    pub fn processes(&self) -> usize {
        let state = self.state();
        let listed = state
            .remains
            .groups
            .as_ref()
            .and_then(super::cgroup::Groups::processes);
        match listed {
            Some(pids) => pids.len(),
            None if state.remains.init.is_none() => 0,
            None => process::tree(self.pid).len(),
        }
    }

    pub fn memory(&self) -> Memory {
        let state = self.state();
        let counted = state
            .remains
            .groups
            .as_ref()
            .and_then(super::cgroup::Groups::memory);
        let alive = state.remains.init.is_some();
        drop(state);
        let (current, peak) = counted.unwrap_or_else(|| {
            let current = if alive {
                process::tree(self.pid)
                    .iter()
                    .map(|pid| process::resident_bytes(*pid))
                    .sum()
            } else {
                0
            };
            (current, current)
        });
        let before = self.peak.fetch_max(peak, Ordering::Relaxed);
        Memory {
            current,
            peak: peak.max(before),
        }
    }

    /// Processor time of everything in it so far, µs.
    pub fn cpu_us(&self) -> u64 {
        let state = self.state();
        match state
            .remains
            .groups
            .as_ref()
            .and_then(super::cgroup::Groups::cpu_us)
        {
            Some(us) => us,
            None if state.remains.init.is_none() => 0,
            None => process::cpu_us(self.pid),
        }
    }

    /// Bounds its processor time from now on. After the warm-up, for which a quota would be ruinous.
    pub fn limit_cpu(&self, cores: f64) -> Result<(), Error> {
        match &self.state().remains.groups {
            Some(groups) => groups.bound_cpu(cores).step("bound the processor time"),
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Without a pid namespace the first process must do the killing: what it leaves would be nobody's.
    fn end(&self) {
        let state = self.state();
        if self.plain {
            let _ = self.control.shutdown(std::net::Shutdown::Both);
        } else if let Some(init) = &state.remains.init {
            let _ = pidfd_send_signal(init, Signal::KILL);
        }
    }

    fn watch(&self) {
        if self.memory().current > self.memory_bytes {
            self.state().over_limit = true;
            self.end();
        }
    }

    /// The first process has ended, and with it the sandbox: what it said last, and why it ended.
    fn settle(&self) -> Option<Exit> {
        let mut state = self.state();
        if let Some(exit) = state.exit {
            return Some(exit);
        }
        let (mut code, mut signal) = state.remains.reap()?;
        while let Ok(Some((report, _))) = wire::receive::<Report>(&self.control) {
            if let Report::Exited { code: c, signal: s } = report {
                (code, signal) = (c, s);
            }
        }
        let ooms = state
            .remains
            .groups
            .as_ref()
            .map_or(0, super::cgroup::Groups::oom_kills);
        let oom_killed = state.over_limit || (ooms > 0 && signal == Some(nix::libc::SIGKILL));
        let exit = Exit {
            code,
            signal,
            oom_killed,
        };
        state.exit = Some(exit);
        Some(exit)
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        self.end();
        let mut state = self.state();
        let remains = Remains {
            init: state.remains.init.take(),
            groups: state.remains.groups.take(),
        };
        drop(state);
        bury(&self.host, remains);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
