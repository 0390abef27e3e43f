//! Helpers that have been executed and moved into their groups before they are needed. On v1 the move alone takes about 7 ms when no
//! process has been moved for a while, and moves queue up behind each other; a helper that waits costs under a megabyte.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::level::Host;
use super::start::Helper;

#[derive(Debug, Default)]
pub struct Standby {
    waiting: Mutex<VecDeque<Helper>>,
}

impl Standby {
    pub fn take(&self) -> Option<Helper> {
        loop {
            let helper = self
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front()?;
            if let Some(helper) = helper.wake() {
                return Some(helper);
            }
        }
    }

    pub fn clear(&self) {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// As many as configured. Blocks. A failure waits for the next spawn, which will report it.
    pub fn fill(&self, host: &Host) {
        while self
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
            < host.config.standby
        {
            match Helper::start(host) {
                Ok(helper) => self
                    .waiting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push_back(helper),
                Err(_) => return,
            }
        }
    }
}
