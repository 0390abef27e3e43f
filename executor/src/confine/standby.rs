//! Sandboxes that have been begun before they are needed: executed, moved into their groups, and, where the executor may open trees
//! itself, made up to where it matters for which instance. On v1 the move alone takes about 7 ms when no process has been moved for a
//! while, and moves queue up behind each other. Whoever needs another ground (a layer of system packages) gets a helper that waits bare.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::Error;
use super::level::Level;
use super::plan::Ground;
use super::spec::{Spec, ground};
use super::start::Helper;

#[derive(Debug, Default)]
pub struct Standby {
    grounded: Mutex<VecDeque<Helper>>,
    bare: Mutex<VecDeque<Helper>>,
}

impl Standby {
    /// One that stands on what is wanted, else one that can be told.
    pub fn take(&self, wanted: &Ground) -> Option<Helper> {
        let of = |waiting: &Mutex<VecDeque<Helper>>| loop {
            let helper = lock(waiting).pop_front()?;
            if let Some(helper) = helper.wake() {
                return Some(helper);
            }
        };
        let is_wanted = |helper: &Helper| helper.stands_on(wanted);
        let common = lock(&self.grounded).front().is_some_and(is_wanted);
        let grounded = common.then(|| of(&self.grounded)).flatten();
        grounded.or_else(|| of(&self.bare))
    }

    pub fn grounded(&self) -> usize {
        lock(&self.grounded).len()
    }

    pub fn clear(&self) {
        lock(&self.grounded).clear();
        lock(&self.bare).clear();
    }

    /// As many as configured. Blocks. A failure waits for the next spawn, which will report it.
    pub fn fill(&self, level: &Level) {
        let host = &level.host;
        let grounded = level.is_confined() && host.hands_trees;
        let bare = if grounded {
            host.config.standby.min(1)
        } else {
            host.config.standby
        };
        while lock(&self.bare).len() < bare {
            match Helper::start(host) {
                Ok(helper) => lock(&self.bare).push_back(helper),
                Err(_) => return,
            }
        }
        if grounded {
            // An early return tears nothing down that is in use.
            let _ = self.fill_grounded(level);
        }
    }

    fn fill_grounded(&self, level: &Level) -> Result<(), Error> {
        let host = &level.host;
        let any = Spec::new("any", Vec::new());
        let wanted = ground(&any, level, host.worker_ids())?;
        let (current, of_before) = lock(&self.grounded)
            .drain(..)
            .partition(|helper| helper.stands_on(&wanted));
        *lock(&self.grounded) = current;
        drop::<VecDeque<Helper>>(of_before); // the host has other files by now
        while lock(&self.grounded).len() < host.config.standby {
            let wanted = ground(&any, level, host.worker_ids())?;
            let mut helper = Helper::start(host)?;
            helper.stand(wanted)?;
            lock(&self.grounded).push_back(helper);
        }
        Ok(())
    }
}

fn lock(waiting: &Mutex<VecDeque<Helper>>) -> MutexGuard<'_, VecDeque<Helper>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}
