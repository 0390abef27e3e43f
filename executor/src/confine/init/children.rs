//! What a template's worker has forked: children of the sandbox's first process, since those who forked them have left.

use std::collections::{BTreeSet, VecDeque};
use std::os::unix::net::UnixStream;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::super::error::{Error, Step};
use super::super::plan::{Order, Plan, Report};
use super::super::root::slots;
use super::super::wire;

/// Ends that are remembered for who may yet ask: a process can end before it is watched.
const REMEMBERED: usize = 256;

type End = (i32, Option<i32>, Option<i32>);

pub struct Children {
    worker: Pid,
    watched: BTreeSet<i32>,
    ended: VecDeque<End>,
}

impl Children {
    pub fn new(worker: Pid) -> Self {
        Self {
            worker,
            watched: BTreeSet::new(),
            ended: VecDeque::new(),
        }
    }

    /// Everything that has ended, orphans of whatever kind too.
    pub fn reap(&mut self, control: &UnixStream) -> Result<(), Error> {
        loop {
            let (pid, code, signal) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Some(code), None),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, None, Some(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(_) => return Ok(()),
                Ok(_) => continue,
            };
            if pid == self.worker {
                // The number may be given again.
                self.worker = Pid::from_raw(0);
                wire::send(control, &Report::Exited { code, signal }, &[]).step("report")?;
                continue;
            }
            let end = (pid.as_raw(), code, signal);
            if self.watched.remove(&end.0) {
                tell(control, end)?;
                continue;
            }
            if self.ended.len() == REMEMBERED {
                self.ended.pop_front();
            }
            self.ended.push_back(end);
        }
    }

    /// One order. `false`: the executor has closed, or is dead.
    pub fn obey(&mut self, control: &UnixStream, plan: &Plan) -> Result<bool, Error> {
        let Ok(Some((order, _))) = wire::receive::<Order>(control) else {
            return Ok(false);
        };
        let answer = match order {
            Order::Watch { pid } => {
                let at = self.ended.iter().position(|end| end.0 == pid);
                match at.and_then(|at| self.ended.remove(at)) {
                    Some(end) => tell(control, end)?,
                    None => drop(self.watched.insert(pid)),
                }
                return Ok(true);
            }
            Order::Open { slot } => match slots::open(plan, slot) {
                Ok(()) => Report::Opened { slot },
                Err(error) => Report::NotOpened {
                    slot,
                    failure: error.to_string(),
                },
            },
            Order::Close { slot } => {
                slots::close(slot);
                return Ok(true);
            }
        };
        wire::send(control, &answer, &[]).step("report")?;
        Ok(true)
    }
}

fn tell(control: &UnixStream, (pid, code, signal): End) -> Result<(), Error> {
    wire::send(control, &Report::Ended { pid, code, signal }, &[]).step("report")
}
