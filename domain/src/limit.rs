//! How often a key or an agent may be asked: a token bucket for requests, counters for executions of a day and of a month.
//!
//! What was taken is one row for all gateways ([`Spent`]). Each gateway takes some in advance ([`lease`]) and hands it out by
//! itself ([`Purse`]); what it does not need within [`HELD`] goes back. So together they never hand out more than there is,
//! and over any time t at most `rate * (t + 2 * HELD) + burst` requests; one gateway may refuse what another one still holds.

mod purse;

pub use purse::{Cost, Purse, Refused, Standing, Take};

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a gateway keeps what it took in advance.
pub const HELD: Duration = Duration::from_secs(1);
/// The most that one lease takes of a quota, unless as many wait for it.
const MOST_EXECUTIONS: u64 = 100;
const DAY_S: i64 = 24 * 3600;

/// A token bucket: it holds `burst` requests and is refilled by `per_1000_s` in 1000 seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    pub per_1000_s: u32,
    pub burst: u32,
}

/// What is not named is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    pub rate: Option<Rate>,
    pub executions_per_day: Option<u64>,
    pub executions_per_month: Option<u64>,
}

/// What limits, and over what time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    Rate,
    Day,
    Month,
}

/// Days and months are those of UTC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// When the bucket is full again.
    pub full_at_us: i64,
    /// Days since 1970-01-01.
    pub day: i64,
    pub day_used: u64,
    /// Months since year 0.
    pub month: i64,
    pub month_used: u64,
}

/// Requests and executions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    pub requests: u32,
    pub executions: u32,
}

/// What a gateway was given, and what is left for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub given: Amount,
    pub requests_left: u32,
    /// Until there is a request again, where there is none.
    pub next_request: Duration,
    pub day_left: u64,
    pub day_ends: Duration,
    pub month_left: u64,
    pub month_ends: Duration,
    pub month_days: u32,
}

impl Rate {
    fn interval_us(self) -> i64 {
        (1_000_000_000 / i64::from(self.per_1000_s.max(1))).max(1)
    }

    /// How long an empty bucket takes to be full.
    pub fn window(self) -> Duration {
        let us = self.interval_us().saturating_mul(i64::from(self.burst));
        Duration::from_micros(us.unsigned_abs())
    }

    /// Whole requests that came in after `waited`.
    fn after(self, waited: Duration) -> u32 {
        let interval = u128::from(self.interval_us().unsigned_abs());
        u32::try_from(waited.as_micros() / interval).unwrap_or(u32::MAX)
    }
}

impl Limits {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn has_quota(&self) -> bool {
        self.executions_per_day.is_some() || self.executions_per_month.is_some()
    }

    /// Whether nothing is allowed here that `other` does not allow.
    pub fn is_within(&self, other: &Self) -> bool {
        fn within<T: PartialOrd>(one: Option<T>, other: Option<T>) -> bool {
            match (one, other) {
                (_, None) => true,
                (None, Some(_)) => false,
                (Some(one), Some(other)) => one <= other,
            }
        }
        within(
            self.rate.map(|rate| rate.per_1000_s),
            other.rate.map(|rate| rate.per_1000_s),
        ) && within(
            self.rate.map(|rate| rate.burst),
            other.rate.map(|rate| rate.burst),
        ) && within(self.executions_per_day, other.executions_per_day)
            && within(self.executions_per_month, other.executions_per_month)
    }

    /// How much is taken in advance: a quarter of a burst, and half a percent of a quota.
    fn batch(&self) -> Amount {
        let least = [self.executions_per_day, self.executions_per_month];
        let least = least.into_iter().flatten().min().unwrap_or(0);
        let executions = (least / 200).clamp(1, MOST_EXECUTIONS);
        Amount {
            requests: self.rate.map_or(0, |rate| (rate.burst / 4).max(1)),
            executions: u32::try_from(executions).unwrap_or(1),
        }
    }
}

impl Amount {
    pub const NOTHING: Self = Self {
        requests: 0,
        executions: 0,
    };
}

/// Gives `back` what was not needed, and takes as much of `want` as there is. A clock that was set back costs no more than the
/// time of one full bucket, and nothing of a quota.
pub fn lease(limits: &Limits, spent: &mut Spent, now_us: i64, back: Amount, want: Amount) -> Lease {
    let (requests, requests_left, next_request) = match limits.rate {
        None => (want.requests, 0, Duration::ZERO),
        Some(rate) => requests(rate, spent, now_us, back.requests, want.requests),
    };
    let now_s = now_us.div_euclid(1_000_000);
    let (day, (month, month_begins, month_ends)) = (now_s.div_euclid(DAY_S), month(now_s));
    // A time that lies before what was counted last counts on there: else a clock could bring a quota back.
    if day > spent.day {
        (spent.day, spent.day_used) = (day, 0);
    }
    if month > spent.month {
        (spent.month, spent.month_used) = (month, 0);
    }
    let back = u64::from(back.executions);
    spent.day_used = spent.day_used.saturating_sub(back);
    spent.month_used = spent.month_used.saturating_sub(back);
    let left =
        |limit: Option<u64>, used: u64| limit.map_or(u64::MAX, |limit| limit.saturating_sub(used));
    let day_left = left(limits.executions_per_day, spent.day_used);
    let month_left = left(limits.executions_per_month, spent.month_used);
    let executions = u64::from(want.executions).min(day_left).min(month_left);
    spent.day_used += executions;
    spent.month_used += executions;
    let until =
        |end_s: i64| Duration::from_micros((end_s * 1_000_000 - now_us).max(0).unsigned_abs());
    Lease {
        given: Amount {
            requests,
            executions: u32::try_from(executions).unwrap_or(want.executions),
        },
        requests_left,
        next_request,
        day_left: day_left - executions,
        day_ends: until((day + 1) * DAY_S),
        month_left: month_left - executions,
        month_ends: until(month_ends),
        month_days: u32::try_from((month_ends - month_begins) / DAY_S).unwrap_or(31),
    }
}

/// A bucket as its theoretical arrival time (GCRA, ITU-T I.371): full at `full_at_us`, one request less for each interval before.
fn requests(rate: Rate, spent: &mut Spent, now: i64, back: u32, want: u32) -> (u32, u32, Duration) {
    let (interval, burst) = (rate.interval_us(), i64::from(rate.burst));
    let empty = interval.saturating_mul(burst);
    let full_at = spent
        .full_at_us
        .saturating_sub(interval.saturating_mul(i64::from(back)));
    let full_in = full_at.saturating_sub(now).clamp(0, empty);
    let level = (empty - full_in) / interval;
    let given = i64::from(want).min(level);
    let full_in = full_in + given * interval;
    spent.full_at_us = now.saturating_add(full_in);
    let next = (full_in - (empty - interval)).max(0);
    let small = |n: i64| u32::try_from(n).unwrap_or(0);
    (
        small(given),
        small(level - given),
        Duration::from_micros(next.unsigned_abs()),
    )
}

/// The month of a time, when it began and when it ends, in seconds.
fn month(now_s: i64) -> (i64, i64, i64) {
    // The proleptic Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms").
    let z = now_s.div_euclid(DAY_S) + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let index = year * 12 + month - 1;
    (index, first_of(index), first_of(index + 1))
}

/// When a month begins, in seconds since 1970.
fn first_of(index: i64) -> i64 {
    let (year, month) = (index.div_euclid(12), index.rem_euclid(12) + 1);
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let yoe = year.rem_euclid(400);
    let mp = if month > 2 { month - 3 } else { month + 9 };
    let doy = (153 * mp + 2) / 5;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    (era * 146_097 + doe - 719_468) * DAY_S
}

#[cfg(test)]
mod tests;
