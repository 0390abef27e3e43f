//! What has to be cleared away after a sandbox: its first process to be reaped, its groups to be removed.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::cgroup::Groups;
use super::level::Host;

#[derive(Debug)]
pub struct Remains {
    /// `None`: reaped.
    pub init: Option<OwnedFd>,
    pub groups: Option<Groups>,
}

impl Remains {
    /// The first process's end (code, signal), once, when it has ended. Does not block.
    pub fn reap(&mut self) -> Option<(Option<i32>, Option<i32>)> {
        let end = match waitid(
            WaitId::PidFd(self.init.as_ref()?.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        ) {
            Ok(Some(status)) => (status.exit_status(), status.terminating_signal()),
            Ok(None) | Err(Errno::INTR) => return None,
            Err(_) => (None, None), // reaped by somebody else: it has ended, nobody knows how
        };
        self.init = None;
        Some(end)
    }

    /// Whether nothing is left. Blocks.
    fn clear(&mut self, deadline: Instant) -> bool {
        if let Some(init) = &self.init
            && reap_by(init, deadline)
        {
            self.init = None;
        }
        if self
            .groups
            .as_ref()
            .is_some_and(|groups| groups.destroy(deadline))
        {
            self.groups = None;
        }
        self.init.is_none() && self.groups.is_none()
    }
}

/// Waits for the end of a process that has been killed, and reaps it.
pub fn reap_by(pidfd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or_default();
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            _ => break,
        }
    }
    !matches!(
        waitid(
            WaitId::PidFd(pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG
        ),
        Ok(None)
    )
}

/// Sandboxes that were dropped instead of killed. They are dying already; here they are seen to the end.
#[derive(Debug, Default)]
pub struct Graveyard {
    remains: Mutex<Vec<Remains>>,
}

impl Graveyard {
    pub fn add(&self, remains: Remains) {
        self.remains
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(remains);
    }

    /// Blocks, but never those who add.
    pub fn bury(&self, within: Duration) {
        let deadline = Instant::now() + within;
        let mut all =
            std::mem::take(&mut *self.remains.lock().unwrap_or_else(PoisonError::into_inner));
        all.retain_mut(|remains| !remains.clear(deadline));
        self.remains
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .append(&mut all);
    }
}

/// At once on a blocking thread if there is a runtime, else by whoever starts the next sandbox.
pub fn bury(host: &Arc<Host>, remains: Remains) {
    if remains.init.is_none() && remains.groups.is_none() {
        return;
    }
    host.graveyard.add(remains);
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let host = Arc::clone(host);
        drop(runtime.spawn_blocking(move || host.graveyard.bury(host.config.kill_within)));
    }
}

/// Between a started sandbox and its handle: an early return buries it.
pub struct Dying {
    remains: Option<Remains>,
    host: Arc<Host>,
}

impl Dying {
    pub fn new(remains: Remains, host: Arc<Host>) -> Self {
        Dying {
            remains: Some(remains),
            host,
        }
    }

    pub fn init(&self) -> std::io::Result<OwnedFd> {
        match self.remains.as_ref().and_then(|r| r.init.as_ref()) {
            Some(init) => init.try_clone(),
            None => Err(std::io::ErrorKind::NotFound.into()),
        }
    }

    pub fn survive(mut self) -> Remains {
        self.remains.take().unwrap_or(Remains {
            init: None,
            groups: None,
        })
    }
}

impl Drop for Dying {
    fn drop(&mut self) {
        if let Some(remains) = self.remains.take() {
            if let Some(init) = &remains.init {
                let _ = pidfd_send_signal(init, Signal::KILL);
            }
            bury(&self.host, remains);
        }
    }
}
