//! What one gateway holds of one subject's limits, by its own monotonic time.

use super::{Amount, HELD, Lease, Limits, Window};
use std::time::Duration;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub request: bool,
    pub execution: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// `low`: it is time to take more in advance.
    Granted {
        low: bool,
    },
    /// More must be taken first.
    Ask,
    Refused(Refused),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub window: Window,
    /// Until there is something again.
    pub wait: Duration,
}

/// How one limit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub window: Window,
    pub quota: u64,
    pub length: Duration,
    pub remaining: u64,
    /// Until all of it is there again; where nothing remains, until something is.
    pub reset: Duration,
}

#[derive(Debug, Default)]
pub struct Purse {
    limits: Limits,
    held: Amount,
    until: Duration,
    used_at: Duration,
    lease: Option<(Lease, Duration)>,
    /// Nothing was there: not asked again before the first, free at the second.
    no_request: Option<(Duration, Duration)>,
    no_execution: Option<(Window, Duration, Duration)>,
}

impl Cost {
    pub const REQUEST: Self = Self {
        request: true,
        execution: false,
    };
    pub const EXECUTION: Self = Self {
        request: false,
        execution: true,
    };
    pub const BOTH: Self = Self {
        request: true,
        execution: true,
    };

    /// What of it these limits count.
    fn counted(self, limits: &Limits) -> Self {
        Self {
            request: self.request && limits.rate.is_some(),
            execution: self.execution && limits.has_quota(),
        }
    }
}

impl Purse {
    /// All of `cost` or nothing of it.
    pub fn take(&mut self, limits: &Limits, cost: Cost, now: Duration) -> Take {
        if self.limits != *limits {
            // Other limits since: what is held goes back, and what is empty is asked for again.
            self.limits = *limits;
            (self.until, self.no_request, self.no_execution) = (Duration::ZERO, None, None);
        }
        self.used_at = now;
        if let Some(refused) = self.refusal(cost, now) {
            return Take::Refused(refused);
        }
        if self.lacks(cost, now) {
            return Take::Ask;
        }
        let cost = cost.counted(limits);
        self.held.requests -= u32::from(cost.request);
        self.held.executions -= u32::from(cost.execution);
        let batch = limits.batch();
        let low = |counted: bool, held: u32, batch: u32| counted && held * 2 < batch;
        Take::Granted {
            low: low(cost.request, self.held.requests, batch.requests)
                || low(cost.execution, self.held.executions, batch.executions),
        }
    }

    fn refusal(&self, cost: Cost, now: Duration) -> Option<Refused> {
        let cost = cost.counted(&self.limits);
        let request = self.no_request.filter(|_| cost.request);
        let request = request.map(|(again, free)| (Window::Rate, again, free));
        let execution = self.no_execution.filter(|_| cost.execution);
        // Who waits for the longer one has both.
        let empty = [request, execution].into_iter().flatten();
        let empty = empty.filter(|(_, again, _)| now < *again);
        let (window, _, free) = empty.max_by_key(|(.., free)| *free)?;
        Some(Refused {
            window,
            wait: free.saturating_sub(now),
        })
    }

    /// Whether more must be taken before there is enough, and may be there.
    pub fn lacks(&self, cost: Cost, now: Duration) -> bool {
        let cost = cost.counted(&self.limits);
        let none = (cost.request && self.held.requests == 0)
            || (cost.execution && self.held.executions == 0);
        let old = (cost.request || cost.execution) && now >= self.until;
        (none || old) && self.refusal(cost, now).is_none()
    }

    /// It was not needed after all.
    pub fn put_back(&mut self, cost: Cost) {
        let cost = cost.counted(&self.limits);
        self.held.requests += u32::from(cost.request);
        self.held.executions += u32::from(cost.execution);
        // What was empty is not.
        if cost.request {
            self.no_request = None;
        }
        if cost.execution {
            self.no_execution = None;
        }
    }

    /// What to ask for when so many wait for `cost`, and what goes back with the same question.
    pub fn question(&mut self, cost: Cost, waiting: u32, now: Duration) -> (Amount, Amount) {
        let (cost, batch) = (cost.counted(&self.limits), self.limits.batch());
        let most = self.limits.rate.map_or(0, |rate| rate.burst);
        let want = Amount {
            requests: if cost.request {
                batch.requests.max(waiting).min(most)
            } else {
                0
            },
            executions: if cost.execution {
                batch.executions.max(waiting)
            } else {
                0
            },
        };
        (self.expired(now), want)
    }

    /// What was held for too long; it is not held any longer.
    pub fn expired(&mut self, now: Duration) -> Amount {
        if now < self.until {
            return Amount::NOTHING;
        }
        std::mem::take(&mut self.held)
    }

    /// The answer to a question.
    pub fn fill(&mut self, cost: Cost, lease: Lease, now: Duration) {
        let cost = cost.counted(&self.limits);
        self.held.requests += if cost.request {
            lease.given.requests
        } else {
            0
        };
        self.held.executions += if cost.execution {
            lease.given.executions
        } else {
            0
        };
        (self.until, self.lease) = (now + HELD, Some((lease, now)));
        let empty = |wait: Duration| (now + wait.min(HELD), now + wait);
        if cost.request {
            let none = lease.given.requests == 0 && self.held.requests == 0;
            self.no_request = none.then(|| empty(lease.next_request));
        }
        if cost.execution {
            let none = lease.given.executions == 0 && self.held.executions == 0;
            let (window, ends) = if lease.month_left == 0 {
                (Window::Month, lease.month_ends)
            } else {
                (Window::Day, lease.day_ends)
            };
            let (again, free) = empty(ends);
            self.no_execution = none.then_some((window, again, free));
        }
    }

    /// Nobody asked for so long, and nothing is held.
    pub fn is_idle(&self, now: Duration, after: Duration) -> bool {
        self.held == Amount::NOTHING && now.saturating_sub(self.used_at) >= after
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// As far as this gateway knows.
    pub fn standings(&self, now: Duration) -> Vec<Standing> {
        let Some((lease, at)) = &self.lease else {
            return Vec::new();
        };
        let age = now.saturating_sub(*at);
        let mut standings = Vec::with_capacity(3);
        if let Some(rate) = self.limits.rate {
            let there = lease.requests_left.saturating_add(rate.after(age));
            let there = there.saturating_add(self.held.requests).min(rate.burst);
            let free = self.no_request.map(|(_, free)| free.saturating_sub(now));
            let (remaining, reset) = match free {
                Some(free) if !free.is_zero() => (0, free),
                _ => (
                    there,
                    rate.window() / rate.burst.max(1) * (rate.burst - there),
                ),
            };
            standings.push(Standing {
                window: Window::Rate,
                quota: rate.burst.into(),
                length: rate.window(),
                remaining: remaining.into(),
                reset,
            });
        }
        let held = u64::from(self.held.executions);
        let quota = |window, quota: Option<u64>, days: u32, left: u64, ends: Duration| {
            Some(Standing {
                window,
                quota: quota?,
                length: Duration::from_secs(u64::from(days) * 24 * 3600),
                remaining: left.saturating_add(held).min(quota?),
                reset: ends.saturating_sub(age),
            })
        };
        standings.extend(quota(
            Window::Day,
            self.limits.executions_per_day,
            1,
            lease.day_left,
            lease.day_ends,
        ));
        standings.extend(quota(
            Window::Month,
            self.limits.executions_per_month,
            lease.month_days,
            lease.month_left,
            lease.month_ends,
        ));
        standings
    }
}
