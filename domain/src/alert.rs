//! When an agent's figures are bad enough to tell people, whom to tell when nobody answers, and when it is over.
//!
//! What is judged are the minutes before now, whole, so it does not matter whether anybody looked meanwhile: a monitor that was away
//! finds the same as one that was not. Nothing here looks at a clock.

use crate::{
    Timestamp,
    rollup::{Cell, Span},
    words,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

words! {
    pub enum Rule { ErrorRate = "error_rate", Latency = "latency", Availability = "availability", Resource = "resource", }
}

words! {
    pub enum Status { Firing = "firing", Escalated = "escalated", Acknowledged = "acknowledged", Resolved = "resolved", }
}

/// What one rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    pub enabled: bool,
    /// Shares from 0 to 1, and milliseconds of the 95th percentile. Availability has to reach it, the others must not pass it.
    pub threshold: f64,
    /// For so long without a break; of availability: counted over so long.
    pub for_minutes: f64,
    /// Of fewer executions nothing is said.
    pub minimum_samples: u64,
}

/// Who is told when nobody has answered for so long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Level {
    pub after_minutes: f64,
    pub webhooks: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub error_rate: Limit,
    pub latency: Limit,
    pub availability: Limit,
    pub resource: Limit,
    /// In the order of their times.
    pub levels: [Level; LEVELS],
    /// Good for so long without a break, it is over; bad again within twice that, it is the same alert.
    pub resolve_after_minutes: f64,
}

pub const LEVELS: usize = 3;
/// No rule looks back further.
pub const MOST_MINUTES: f64 = 60.0;
const LEAST_MINUTES: f64 = 5.0;
const MINUTE: i64 = 60_000;

impl Default for Policy {
    /// The user's SLA section.
    fn default() -> Self {
        let limit = |threshold, for_minutes, minimum_samples| Limit {
            enabled: true,
            threshold,
            for_minutes,
            minimum_samples,
        };
        let level = |after_minutes| Level {
            after_minutes,
            webhooks: Vec::new(),
        };
        Self {
            error_rate: limit(0.01, 5.0, 10),
            latency: limit(2000.0, 3.0, 10),
            availability: limit(0.99, 60.0, 10),
            resource: limit(0.8, 3.0, 1),
            levels: [level(5.0), level(15.0), level(30.0)],
            resolve_after_minutes: 5.0,
        }
    }
}

impl Policy {
    /// By which moments are judged that nobody looked at: what came and went is kept, and nobody is told of it afterwards.
    #[must_use]
    pub fn missed(&self) -> Self {
        let mut policy = self.clone();
        for level in &mut policy.levels {
            level.after_minutes = f64::INFINITY;
        }
        policy
    }

    pub fn limit(&self, rule: Rule) -> Limit {
        match rule {
            Rule::ErrorRate => self.error_rate,
            Rule::Latency => self.latency,
            Rule::Availability => self.availability,
            Rule::Resource => self.resource,
        }
    }
}

/// Longer ago, minutes that were missed are not judged any more.
const MISSED: Duration = Duration::from_secs(6 * 3600);
/// Away for less, nobody has missed anything: the minute of now is judged whole when it is over.
const AWAY: Duration = Duration::from_secs(30);

/// The ends of minutes that nobody has judged since `judged`, each to be judged as if it were now; `first`: when anything ended of what
/// the rules may look at.
pub fn missed(judged: Timestamp, first: Timestamp, now: Timestamp) -> Vec<Timestamp> {
    if now.since(judged) < AWAY {
        return Vec::new();
    }
    let longest = now.0.saturating_sub(MISSED.as_millis() as i64);
    let from = Timestamp(judged.0.max(longest).max(first.0));
    let mut at = Span::Minute.start(from).0 + MINUTE;
    let mut all = Vec::new();
    while at <= now.0 {
        all.push(Timestamp(at));
        at += MINUTE;
    }
    all
}

pub fn minutes(minutes: f64) -> Duration {
    Duration::try_from_secs_f64(minutes.max(0.0) * 60.0).unwrap_or(Duration::MAX)
}

/// What ended in one minute (or in another span, where figures are asked for), of all versions of an agent.
#[derive(Debug, Clone, Default)]
pub struct Minute {
    pub cell: Cell,
    /// The largest peak of memory, as a share of what its version may use.
    pub memory: Option<f64>,
}

impl From<Cell> for Minute {
    fn from(cell: Cell) -> Self {
        Self { cell, memory: None }
    }
}

impl Minute {
    pub fn merge(&mut self, other: &Self) {
        self.cell.merge(&other.cell);
        self.memory = self.memory.into_iter().chain(other.memory).reduce(f64::max);
    }
}

/// What was judged, and against what.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub value: f64,
    pub threshold: f64,
    /// Executions.
    pub samples: u64,
    /// Bad since then, without a break, to the minute.
    pub since: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// Bad, and long enough.
    Bad(Figures),
    /// Bad, and not for long enough to say so.
    Pending(Figures),
    Good,
    /// Too little ran: neither begins nor ends anything.
    Unknown,
}

/// Where the window of a rule begins: with a whole minute, and the one in which its time began is in it. However short its time,
/// what ended in the last few minutes is looked at: else an alert would not be over when it gets quiet after the first good ones.
pub fn window(limit: Limit, now: Timestamp) -> Timestamp {
    let back = millis(limit.for_minutes.max(LEAST_MINUTES) + 1.0);
    Span::Minute.start(Timestamp(now.0.saturating_sub(back)))
}

/// Judges the minutes of a rule's window, oldest first, those without executions left out. Backwards from now, as many as make enough
/// samples are one look; looks that are bad make the time for which it has been bad, until one is good.
pub fn judge(rule: Rule, limit: Limit, window: &[&Minute], now: Timestamp) -> Verdict {
    if rule == Rule::Availability {
        return available(limit, window, now);
    }
    let least = limit.minimum_samples.max(1);
    let (mut look, mut bad) = (Minute::default(), Minute::default());
    for minute in window.iter().rev() {
        look.merge(minute);
        let (samples, value) = figure(rule, &look);
        let Some(value) = value.filter(|_| samples >= least) else {
            continue;
        };
        if value <= limit.threshold {
            if bad.cell.total() == 0 {
                return Verdict::Good;
            }
            break;
        }
        bad.merge(&std::mem::take(&mut look));
        if lasted(&bad, limit, now) {
            break;
        }
    }
    let (samples, value) = figure(rule, &bad);
    let Some(value) = value.filter(|_| samples > 0) else {
        return Verdict::Unknown;
    };
    let figures = figures(value, limit, samples, &bad);
    if lasted(&bad, limit, now) {
        Verdict::Bad(figures)
    } else {
        Verdict::Pending(figures)
    }
}

/// The share of minutes with executions in which one was completed.
fn available(limit: Limit, window: &[&Minute], now: Timestamp) -> Verdict {
    let samples = window.iter().map(|minute| minute.cell.judged()).sum();
    let busy = window.iter().filter(|minute| minute.cell.judged() > 0);
    let up = busy.clone().filter(|minute| minute.cell.completed > 0);
    let share = share(up.count() as f64, busy.count() as f64);
    let Some(value) = share.filter(|_| samples >= limit.minimum_samples.max(1)) else {
        return Verdict::Unknown;
    };
    if value >= limit.threshold {
        return Verdict::Good;
    }
    let from = now.0.saturating_sub(millis(limit.for_minutes));
    let first = window
        .iter()
        .filter_map(|minute| minute.cell.first_at)
        .min();
    let mut figures = figures(value, limit, samples, &Minute::default());
    figures.since = Timestamp(first.unwrap_or(from).max(from));
    Verdict::Bad(figures)
}

fn figure(rule: Rule, of: &Minute) -> (u64, Option<f64>) {
    let cell = &of.cell;
    match rule {
        Rule::ErrorRate | Rule::Availability => {
            let rate = share(cell.bad() as f64, cell.judged() as f64);
            (cell.judged(), rate)
        }
        Rule::Latency => (cell.duration.count, cell.durations.percentile(0.95)),
        Rule::Resource => (cell.total(), of.memory),
    }
}

fn figures(value: f64, limit: Limit, samples: u64, of: &Minute) -> Figures {
    Figures {
        value,
        threshold: limit.threshold,
        samples,
        since: Timestamp(of.cell.first_at.unwrap_or_default()),
    }
}

fn lasted(bad: &Minute, limit: Limit, now: Timestamp) -> bool {
    let since = bad.cell.first_at.map(Timestamp);
    since.is_some_and(|since| now.since(since) >= minutes(limit.for_minutes))
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

fn millis(of: f64) -> i64 {
    i64::try_from(minutes(of).as_millis()).unwrap_or(i64::MAX)
}

/// From the moment that raised it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    pub opened_at: Timestamp,
    /// Levels are told from then on; later than `opened_at` where it came back.
    pub raised_at: Timestamp,
    /// That raised it.
    pub figures: Figures,
    /// The last time that it was bad.
    pub bad_at: Timestamp,
    /// The highest level that was told; 0: none.
    pub level: u8,
    pub told_at: Option<Timestamp>,
    pub acknowledged_at: Option<Timestamp>,
    /// Good since then.
    pub good_since: Option<Timestamp>,
    pub resolved_at: Option<Timestamp>,
    /// How often it came back after it was over.
    pub returns: u32,
}

impl Alert {
    pub fn status(&self) -> Status {
        match self {
            Self {
                resolved_at: Some(_),
                ..
            } => Status::Resolved,
            Self {
                acknowledged_at: Some(_),
                ..
            } => Status::Acknowledged,
            Self { level: 1.., .. } => Status::Escalated,
            Self { level: 0, .. } => Status::Firing,
        }
    }

    fn opened(figures: Figures, now: Timestamp) -> Self {
        Self {
            opened_at: now,
            raised_at: now,
            figures,
            bad_at: now,
            level: 0,
            told_at: None,
            acknowledged_at: None,
            good_since: None,
            resolved_at: None,
            returns: 0,
        }
    }
}

/// Of one rule of one agent.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The newest.
    pub alert: Option<Alert>,
    pub verdict: Verdict,
    pub policy: &'a Policy,
    /// The agent is there, and the rule is on.
    pub watched: bool,
    /// For how long somebody has looked without a break, and without a clock that jumped.
    pub steady: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    Nothing,
    /// A new one.
    Open(Alert),
    Change(Alert),
    /// A change that this level is told of.
    Escalate(Alert),
    /// A change that the levels are told of which were told before.
    Resolve(Alert),
}

/// Of an open alert nothing ran for so long: nobody is harmed any longer.
const SILENT: Duration = Duration::from_secs(3600);
/// `bad_at` is written no more often.
const NOTED_EVERY: Duration = Duration::from_secs(60);
/// Between two levels, however late it is: who was just told may answer first.
const APART: Duration = Duration::from_secs(60);

pub fn decide(seen: &Seen<'_>, now: Timestamp) -> Step {
    let Some(alert) = seen.alert else {
        return opening(seen, now);
    };
    if let Some(resolved_at) = alert.resolved_at {
        let soon = now.since(resolved_at) < minutes(seen.policy.resolve_after_minutes) * 2;
        return match opening(seen, now) {
            // Who was told that it is over is told anew that it is not.
            Step::Open(_) if soon => Step::Change(Alert {
                raised_at: now,
                bad_at: now,
                level: 0,
                told_at: None,
                acknowledged_at: None,
                resolved_at: None,
                returns: alert.returns.saturating_add(1),
                ..alert
            }),
            other => other,
        };
    }
    let over = Step::Resolve(Alert {
        resolved_at: Some(now),
        good_since: None,
        ..alert
    });
    if !seen.watched {
        return over;
    }
    match (seen.verdict, alert.good_since) {
        (Verdict::Good, Some(since)) if since <= now => {
            let good = now.since(since).min(seen.steady);
            if good >= minutes(seen.policy.resolve_after_minutes) {
                over
            } else {
                Step::Nothing
            }
        }
        (Verdict::Good, _) if seen.policy.resolve_after_minutes <= 0.0 => over,
        // The first time, or a clock that was set back.
        (Verdict::Good, _) => Step::Change(Alert {
            good_since: Some(now),
            ..alert
        }),
        (Verdict::Unknown, _) if now.since(alert.bad_at).min(seen.steady) >= SILENT => over,
        (Verdict::Unknown, Some(_)) => Step::Nothing,
        (Verdict::Bad(_) | Verdict::Pending(_), Some(_)) => Step::Change(Alert {
            bad_at: now,
            good_since: None,
            ..alert
        }),
        (Verdict::Bad(_) | Verdict::Pending(_) | Verdict::Unknown, None) => {
            escalation(seen, alert, now)
        }
    }
}

fn opening(seen: &Seen<'_>, now: Timestamp) -> Step {
    match seen.verdict {
        Verdict::Bad(figures) if seen.watched => Step::Open(Alert::opened(figures, now)),
        _ => Step::Nothing,
    }
}

/// Of an alert that is bad now: one level at a time.
fn escalation(seen: &Seen<'_>, alert: Alert, now: Timestamp) -> Step {
    let bad = matches!(seen.verdict, Verdict::Bad(_) | Verdict::Pending(_));
    let noted = bad && (now.since(alert.bad_at) >= NOTED_EVERY || alert.bad_at > now);
    let alert = Alert {
        bad_at: if bad { now } else { alert.bad_at },
        ..alert
    };
    let level = usize::from(alert.level);
    if alert.acknowledged_at.is_none()
        && let Some(next) = seen.policy.levels.get(level)
    {
        let before = level
            .checked_sub(1)
            .and_then(|at| seen.policy.levels.get(at));
        let between = before.map_or(0.0, |before| next.after_minutes - before.after_minutes);
        let apart = minutes(between).min(APART);
        let heard = alert.told_at.is_none_or(|told| now.since(told) >= apart);
        if heard && now.since(alert.raised_at) >= minutes(next.after_minutes) {
            return Step::Escalate(Alert {
                level: alert.level + 1,
                told_at: Some(now),
                ..alert
            });
        }
    }
    if noted {
        Step::Change(alert)
    } else {
        Step::Nothing
    }
}

#[cfg(test)]
mod tests;
