//! The executions that this process holds: waiting for a seat, running, or being recorded. Each one once.

use domain::execution::Status;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use store::executions::Key;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// How long a watcher waits for what was said before it came.
const KEEPS_WITHIN: Duration = Duration::from_millis(250);

#[derive(Default)]
pub struct Held(Mutex<HashMap<Key, Arc<Handle>>>);

/// How others reach a held execution.
pub struct Handle {
    /// Cancelled by whoever wants it stopped.
    pub cancel: CancellationToken,
    /// The recorded status, once the work has really stopped.
    stopped: watch::Sender<Option<Status>>,
    /// Asked to keep now what was said so far, and how often that was done.
    keep: Notify,
    kept: watch::Sender<u64>,
}

/// Ends the hold when dropped.
pub struct Hold {
    key: Key,
    pub handle: Arc<Handle>,
    held: Arc<Held>,
}

impl Held {
    /// `None`: it is held already.
    pub fn hold(self: &Arc<Self>, key: &Key) -> Option<Hold> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.contains_key(key) {
            return None;
        }
        let handle = Arc::new(Handle {
            cancel: CancellationToken::new(),
            stopped: watch::Sender::new(None),
            keep: Notify::new(),
            kept: watch::Sender::new(0),
        });
        map.insert(key.clone(), Arc::clone(&handle));
        Some(Hold {
            key: key.clone(),
            handle,
            held: Arc::clone(self),
        })
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Handle>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Handle {
    /// Resolves when the work has stopped: how it was recorded, `None` where the hold ended without an outcome.
    pub async fn stopped(&self) -> Option<Status> {
        let mut stopped = self.stopped.subscribe();
        stopped
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|status| *status)
    }

    /// Has the lines so far handed to the store, if it runs; one that waits for its seat has none.
    pub async fn keep(&self) {
        let mut kept = self.kept.subscribe();
        kept.mark_unchanged();
        self.keep.notify_one();
        tokio::time::timeout(KEEPS_WITHIN, kept.changed())
            .await
            .ok();
    }

    pub async fn asked_to_keep(&self) {
        self.keep.notified().await;
    }

    pub fn tell_kept(&self) {
        self.kept.send_modify(|times| *times += 1);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.borrow().is_some()
    }

    pub fn tell_stopped(&self, status: Status) {
        self.stopped.send_replace(Some(status));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}
