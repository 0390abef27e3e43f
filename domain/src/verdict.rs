//! Whether a version does worse than the one beside it, and when that may be said.
//!
//! The samples are looked at every second, so every bound here holds at all looks together. It comes from a mixture of binomial
//! likelihoods over a uniform prior, a martingale that by Ville's inequality passes `1/ALPHA` with a probability of at most `ALPHA`
//! (Robbins 1970; Howard, Ramdas et al. 2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences"). A quantile is
//! bounded by the same: the share of figures under the true quantile is that quantile's rank.

use crate::words;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Of each side, before anything is said.
pub const LEAST_SAMPLES: u64 = 30;
/// Before a trigger acts.
pub const LEAST_TO_ACT: u64 = 5;
/// A median or a 95th percentile that is worse by less is no reason to roll back.
pub const TOLERANCE: f64 = 1.1;
/// Of one bound. Three comparisons of two sides each stay under one in twenty together.
const ALPHA: f64 = 0.05 / 6.0;
/// Two neighbouring buckets of a histogram are so far apart.
const STEP: f64 = 1.02;
/// The last bucket: over the longest execution, in microseconds.
const BUCKETS: u16 = 1300;

/// Latencies in milliseconds, in buckets of two percent; merged by addition.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Histogram(pub BTreeMap<u16, u64>);

impl Histogram {
    pub fn add(&mut self, ms: f64) {
        let bucket = (ms.max(0.001) * 1000.0).ln() / STEP.ln();
        let bucket = bucket.ceil().clamp(0.0, f64::from(BUCKETS)) as u16;
        *self.0.entry(bucket).or_default() += 1;
    }

    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.0 {
            *self.0.entry(*bucket).or_default() += count;
        }
    }

    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The upper edge of a bucket.
    fn edge(bucket: u16) -> f64 {
        STEP.powi(i32::from(bucket)) / 1000.0
    }

    /// By nearest rank, to two percent.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let rank = (share * self.count() as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        self.0.iter().find_map(|(bucket, count)| {
            below += count;
            (below >= rank).then(|| Self::edge(*bucket))
        })
    }

    /// Between which figures the true quantile lies, at all looks.
    fn quantile_bounds(&self, share: f64) -> Bounds {
        let all = self.count();
        let mut bounds = Bounds {
            low: 0.0,
            high: f64::INFINITY,
        };
        let mut below = 0;
        for (bucket, count) in &self.0 {
            // So few are under this bucket that the quantile is not.
            if (below as f64) < share * all as f64 && is_excluded(below, all, share) {
                bounds.low = Self::edge(bucket.saturating_sub(1));
            }
            below += count;
            if (below as f64) > share * all as f64 && is_excluded(below, all, share) {
                bounds.high = Self::edge(*bucket);
                break;
            }
        }
        bounds
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Bounds {
    low: f64,
    high: f64,
}

/// What ended of one version while it was looked at. A cancel is its caller's own wish and is not counted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sample {
    pub ended: u64,
    pub failed: u64,
    pub timeouts: u64,
    /// Of what completed.
    pub latency: Histogram,
}

impl Sample {
    pub fn merge(&mut self, other: &Self) {
        self.ended += other.ended;
        self.failed += other.failed;
        self.timeouts += other.timeouts;
        self.latency.merge(&other.latency);
    }

    /// Failed, or out of time.
    pub fn bad(&self) -> u64 {
        self.failed + self.timeouts
    }

    pub fn error_rate(&self) -> Option<f64> {
        (self.ended > 0).then(|| self.bad() as f64 / self.ended as f64)
    }

    pub fn figures(&self) -> Figures {
        Figures {
            samples: self.ended,
            failed: self.failed,
            timeouts: self.timeouts,
            error_rate: self.error_rate(),
            p50_ms: self.latency.quantile(0.5),
            p95_ms: self.latency.quantile(0.95),
        }
    }
}

/// A sample as it is shown.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Figures {
    pub samples: u64,
    pub failed: u64,
    pub timeouts: u64,
    pub error_rate: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
}

/// The caller's own limits.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Criteria {
    pub error_rate_threshold: Option<f64>,
    /// Of the 95th percentile.
    pub latency_threshold_ms: Option<u32>,
}

words! {
    pub enum Outcome {
        Pass = "pass",
        Fail = "fail",
        NotEnoughData = "not_enough_data",
        MeasurementError = "measurement_error",
    }
}

/// What is said of a version, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub outcome: Outcome,
    pub reason: String,
}

impl Verdict {
    pub fn new(outcome: Outcome, reason: impl Into<String>) -> Self {
        Self {
            outcome,
            reason: reason.into(),
        }
    }
}

/// `last`: the time is over, so the limits are compared with the figures themselves; before, a version fails by a limit only
/// where chance is no explanation.
pub fn judge(criteria: &Criteria, sample: &Sample, baseline: &Sample, last: bool) -> Verdict {
    let fail = |reason: String| Verdict::new(Outcome::Fail, reason);
    if sample.ended < LEAST_SAMPLES {
        let lack = format!(
            "{} of at least {LEAST_SAMPLES} executions of the new version have ended",
            sample.ended
        );
        return Verdict::new(Outcome::NotEnoughData, lack);
    }
    if let Some(reason) = over_a_limit(criteria, sample, last) {
        return fail(reason);
    }
    if baseline.ended < LEAST_SAMPLES {
        let lack = format!(
            "{} of at least {LEAST_SAMPLES} executions of the old version have ended beside it",
            baseline.ended
        );
        return Verdict::new(Outcome::NotEnoughData, lack);
    }
    let (ours, theirs) = (
        share_bounds(sample.bad(), sample.ended),
        share_bounds(baseline.bad(), baseline.ended),
    );
    if ours.low > theirs.high {
        return fail(format!(
            "its error rate is at least {:.4}, that of the old version at most {:.4}",
            ours.low, theirs.high
        ));
    }
    for share in [0.5, 0.95] {
        let ours = sample.latency.quantile_bounds(share);
        let theirs = baseline.latency.quantile_bounds(share);
        if ours.low > theirs.high * TOLERANCE {
            return fail(format!(
                "its p{:.0} is at least {:.1} ms, that of the old version at most {:.1} ms",
                share * 100.0,
                ours.low,
                theirs.high
            ));
        }
    }
    let reason = format!(
        "no worse than the old version by {} and {} executions",
        sample.ended, baseline.ended
    );
    Verdict::new(Outcome::Pass, reason)
}

fn over_a_limit(criteria: &Criteria, sample: &Sample, last: bool) -> Option<String> {
    if let Some(limit) = criteria.error_rate_threshold {
        let rate = sample.error_rate().unwrap_or(0.0);
        let sure = share_bounds(sample.bad(), sample.ended).low > limit;
        if sure || (last && rate > limit) {
            return Some(format!(
                "its error rate is {rate:.4}; success_criteria allow {limit}"
            ));
        }
    }
    let limit = criteria.latency_threshold_ms?;
    let p95 = sample.latency.quantile(0.95)?;
    let sure = sample.latency.quantile_bounds(0.95).low > f64::from(limit);
    (sure || (last && p95 > f64::from(limit)))
        .then(|| format!("its p95 is {p95:.1} ms; success_criteria allow {limit} ms"))
}

/// When a version is rolled back, whatever else is said of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Triggers {
    pub error_rate: f64,
    pub timeout_rate: f64,
    /// Instances of it that failed.
    pub health_check_failures: u32,
}

impl Default for Triggers {
    fn default() -> Self {
        Self {
            error_rate: 0.5,
            timeout_rate: 0.5,
            health_check_failures: 3,
        }
    }
}

/// Which trigger is pulled; a rate only where chance is no explanation.
pub fn breach(triggers: &Triggers, sample: &Sample, health_failures: u32) -> Option<String> {
    if health_failures >= triggers.health_check_failures {
        return Some(format!(
            "{health_failures} of its health checks failed; rollback_triggers.health_check_failures is {}",
            triggers.health_check_failures
        ));
    }
    if sample.ended < LEAST_TO_ACT {
        return None;
    }
    let over = |name: &str, bad: u64, limit: f64| {
        (share_bounds(bad, sample.ended).low > limit).then(|| {
            format!(
                "{bad} of its {} executions ended so; rollback_triggers.{name} is {limit}",
                sample.ended
            )
        })
    };
    over("error_rate", sample.bad(), triggers.error_rate)
        .or_else(|| over("timeout_rate", sample.timeouts, triggers.timeout_rate))
}

/// Between which the true share lies, at all looks.
fn share_bounds(hits: u64, all: u64) -> Bounds {
    if all == 0 {
        return Bounds {
            low: 0.0,
            high: 1.0,
        };
    }
    let middle = hits as f64 / all as f64;
    let bisect = |mut inside: f64, mut outside: f64| {
        for _ in 0..40 {
            let between = f64::midpoint(inside, outside);
            if is_excluded(hits, all, between) {
                outside = between;
            } else {
                inside = between;
            }
        }
        outside
    };
    Bounds {
        low: if hits == 0 { 0.0 } else { bisect(middle, 0.0) },
        high: if hits == all {
            1.0
        } else {
            bisect(middle, 1.0)
        },
    }
}

/// Whether the true share is not `share`, by `hits` of `all`.
fn is_excluded(hits: u64, all: u64, share: f64) -> bool {
    let (hit, miss) = (hits as f64, (all - hits) as f64);
    if (share <= 0.0 && hits > 0) || (share >= 1.0 && hits < all) {
        return true;
    }
    let times = |count: f64, of: f64| if count == 0.0 { 0.0 } else { count * of.ln() };
    let mixture = ln_factorial(hit) + ln_factorial(miss) - ln_factorial(hit + miss + 1.0);
    mixture - times(hit, share) - times(miss, 1.0 - share) >= -ALPHA.ln()
}

/// By Stirling's series; exact to 1e-10 and better.
fn ln_factorial(n: f64) -> f64 {
    if n < 16.0 {
        return (2..=n as u32).map(|k| f64::from(k).ln()).sum();
    }
    n * n.ln() - n + 0.5 * (std::f64::consts::TAU * n).ln() + 1.0 / (12.0 * n)
        - 1.0 / (360.0 * n.powi(3))
}

#[cfg(test)]
#[path = "verdict/tests.rs"]
mod tests;
