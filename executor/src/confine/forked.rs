//! One process that was forked from a template, and all that it starts: as the executor holds it.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::{OnceCell, oneshot};
use tokio::time::Instant;

use super::cgroup::Groups;
use super::confined::{Exit, Memory};
use super::error::{Error, Step};
use super::template::{End, Slot};

/// The sandbox's first process says how one ended right after the kernel says that it has.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// End it with [`Forked::kill`]; dropping it kills as well, but does not see to the end.
#[derive(Debug)]
pub struct Forked {
    pid: i32,
    ended: AsyncFd<OwnedFd>,
    end: Mutex<Option<oneshot::Receiver<End>>>,
    exit: OnceCell<Exit>,
    /// `None` once they are removed.
    groups: Arc<Mutex<Option<Groups>>>,
    slot: Mutex<Option<Slot>>,
    peak: AtomicU64,
    kill_within: Duration,
}

impl Forked {
    pub(super) fn new(
        pid: i32,
        ended: AsyncFd<OwnedFd>,
        end: oneshot::Receiver<End>,
        groups: Groups,
        slot: Slot,
        kill_within: Duration,
    ) -> Self {
        Self {
            pid,
            ended,
            end: Mutex::new(Some(end)),
            exit: OnceCell::new(),
            groups: Arc::new(Mutex::new(Some(groups))),
            slot: Mutex::new(Some(slot)),
            peak: AtomicU64::new(0),
            kill_within,
        }
    }

    /// As the host sees it.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Until it has ended. What it left running is for [`Self::kill`].
    pub async fn wait(&self) -> Exit {
        *self.exit.get_or_init(|| self.settle()).await
    }

    async fn settle(&self) -> Exit {
        // An error can only mean that the runtime is shutting down.
        let _ = self.ended.readable().await;
        let told = self
            .end
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let (code, signal) = match told {
            Some(told) => match tokio::time::timeout(TOLD_WITHIN, told).await {
                Ok(Ok(end)) => end,
                // The whole sandbox has ended, and with it who would have said.
                _ => (None, Some(nix::libc::SIGKILL)),
            },
            None => (None, None),
        };
        let ooms = self.with(Groups::oom_kills).unwrap_or(0);
        Exit {
            code,
            signal,
            oom_killed: ooms > 0 && signal == Some(nix::libc::SIGKILL),
        }
    }

    /// Kills it and all that it started, sees them gone and removes their groups. `Survived` when that took too long; it may be tried again.
    pub async fn kill(&self) -> Result<Exit, Error> {
        let deadline = Instant::now() + self.kill_within;
        self.end();
        let survived = || Error::Survived {
            count: self.processes(),
            within: self.kill_within,
        };
        let Ok(exit) = tokio::time::timeout_at(deadline, self.wait()).await else {
            return Err(survived());
        };
        let groups = Arc::clone(&self.groups);
        let removing = tokio::task::spawn_blocking(move || {
            let lock = || groups.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(held) = lock().take() else {
                return true;
            };
            let gone = held.destroy(deadline.into_std());
            if !gone {
                *lock() = Some(held);
            }
            gone
        });
        if !removing.await.unwrap_or(false) {
            return Err(survived());
        }
        self.slot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        Ok(exit)
    }

    /// It waits to be used, unless somebody in its sandbox has ended it.
    pub fn is_alive(&self) -> bool {
        self.processes() > 0
    }

    /// How many processes are alive of it.
    pub fn processes(&self) -> usize {
        self.with(|groups| groups.processes().map_or(0, |pids| pids.len()))
            .unwrap_or(0)
    }

    /// What is its own: what it shares with the template counts there.
    pub fn memory(&self) -> Memory {
        let (current, peak) = self.with(Groups::memory).flatten().unwrap_or((0, 0));
        let before = self.peak.fetch_max(peak, Ordering::Relaxed);
        Memory {
            current,
            peak: peak.max(before),
        }
    }

    /// Since it was forked, µs.
    pub fn cpu_us(&self) -> u64 {
        self.with(Groups::cpu_us).flatten().unwrap_or(0)
    }

    pub fn limit_cpu(&self, cores: f64) -> Result<(), Error> {
        self.with(|groups| groups.bound_cpu(cores))
            .unwrap_or(Ok(()))
            .step("bound the processor time")
    }

    /// Forbidden to grow first: what forks faster than it is killed would never end.
    fn end(&self) {
        self.with(|groups| {
            groups.stop_growing();
            groups.kill();
        });
        let _ = pidfd_send_signal(self.ended.get_ref(), Signal::KILL);
    }

    fn with<T>(&self, look: impl FnOnce(&Groups) -> T) -> Option<T> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.as_ref().map(look)
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        self.end();
        let groups = self
            .groups
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let slot = self
            .slot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(slot) = slot {
            slot.bury(groups);
        }
    }
}
