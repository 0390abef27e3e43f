//! How a version takes over from the one before it: all at once, in steps, or first for a share of the callers who judge it.
//!
//! Three stages have a say, each a phase of the deployment: `canary` waits for a verdict, `shift` moves callers, `watch` keeps the
//! version before warm. [`decide`] plans; deployer does what it says and looks again.

use crate::{
    Timestamp,
    deployment::Status,
    traffic::Route,
    verdict::{Criteria, Figures, Outcome, Sample, Triggers, Verdict},
    words,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

words! {
    pub enum Strategy {
        Rolling = "rolling",
        BlueGreen = "blue_green",
        Canary = "canary",
    }
}

words! {
    /// What a caller may ask of a deployment on its way.
    pub enum Order {
        Promote = "promote",
        Pause = "pause",
        Resume = "resume",
        Abort = "abort",
    }
}

/// All of the callers, in the thousandths of [`Route::weight`].
pub const ALL: u32 = 1000;
/// A rolling update moves callers in at most so many steps.
const MOST_STEPS: u32 = 4;
/// Answers of monitor that may fail in a row before a canary pauses.
const MOST_ERRORS: u32 = 5;
/// Verdicts kept for the reader, the newest last.
const MOST_VERDICTS: usize = 20;

/// What was asked for when the deployment was accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub strategy: Strategy,
    pub canary: Canary,
    pub auto_rollback: bool,
    pub triggers: Triggers,
    /// The version before stays warm for a while after the switch.
    pub watched: bool,
}

/// A plain deploy: callers move as soon as the version is healthy, and nothing is watched.
impl Default for Plan {
    fn default() -> Self {
        Self {
            strategy: Strategy::Rolling,
            canary: Canary::default(),
            auto_rollback: false,
            triggers: Triggers::default(),
            watched: false,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    /// Thousandths of the callers.
    pub weight: u32,
    pub minutes: u32,
    pub criteria: Criteria,
}

impl Default for Canary {
    fn default() -> Self {
        Self {
            weight: 100,
            minutes: 10,
            criteria: Criteria::default(),
        }
    }
}

/// How far a rollout is: the part of a deployment's state that is about callers.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Rollout {
    pub plan: Plan,
    /// Who answered before; nobody for a first version, or one that answered already.
    pub baseline: Option<Route>,
    /// Instances that served before: the new version gets as many before the old one loses any.
    pub capacity: u32,
    /// Thousandths of the callers that the new version was given.
    pub weight: u32,
    pub samples: Samples,
    /// The newest last; one that says the same as the one before takes its place.
    pub verdicts: Vec<Judged>,
    /// Answers of monitor that failed in a row.
    pub errors: u32,
    pub held: Option<Held>,
    /// It goes back, and what it is called then.
    pub undo: Option<Undo>,
    pub switched_at: Option<Timestamp>,
    pub undone_at: Option<Timestamp>,
    /// Nothing of the version before is promised any more.
    pub settled: bool,
}

/// What ended of both versions since callers were shared.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Samples {
    /// Counted from here.
    pub from: Option<Timestamp>,
    /// Everything before is counted.
    pub upto: Option<Timestamp>,
    pub version: Sample,
    pub baseline: Sample,
}

/// A verdict with what it was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    pub at: Timestamp,
    pub outcome: Outcome,
    pub reason: String,
    pub version: Figures,
    pub baseline: Figures,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub since: Timestamp,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    pub status: Status,
    pub reason: String,
}

impl Rollout {
    pub fn of(plan: Plan) -> Self {
        Self {
            plan,
            ..Self::default()
        }
    }

    /// Keeps a verdict for the reader.
    pub fn note(&mut self, verdict: &Verdict, at: Timestamp) {
        let judged = Judged {
            at,
            outcome: verdict.outcome,
            reason: verdict.reason.clone(),
            version: self.samples.version.figures(),
            baseline: self.samples.baseline.figures(),
        };
        self.errors = match verdict.outcome {
            Outcome::MeasurementError => self.errors + 1,
            Outcome::Pass | Outcome::Fail | Outcome::NotEnoughData => 0,
        };
        if self
            .verdicts
            .last()
            .is_some_and(|last| last.outcome == judged.outcome)
        {
            self.verdicts.pop();
        }
        self.verdicts.push(judged);
        let over = self.verdicts.len().saturating_sub(MOST_VERDICTS);
        self.verdicts.drain(..over);
    }

    /// Steps in which callers move.
    fn steps(&self) -> u32 {
        match self.plan.strategy {
            Strategy::Rolling => self.capacity.clamp(1, MOST_STEPS),
            Strategy::BlueGreen | Strategy::Canary => 1,
        }
    }

    /// Instances that the new version must have before it is given `weight` of the callers.
    pub fn needed(&self, weight: u32) -> u32 {
        (self.capacity.max(1) * weight).div_ceil(ALL).max(1)
    }

    /// The first share that it is given.
    pub fn first_weight(&self) -> u32 {
        match self.plan.strategy {
            _ if self.baseline.is_none() => ALL,
            Strategy::Canary => self.plan.canary.weight,
            Strategy::Rolling | Strategy::BlueGreen => self.weight_after(0),
        }
    }

    /// The next step over `weight`.
    fn weight_after(&self, weight: u32) -> u32 {
        let steps = self.steps();
        (1..=steps)
            .map(|step| ALL * step / steps)
            .find(|next| *next > weight)
            .unwrap_or(ALL)
    }
}

/// What was ordered of one deployment, folded from the orders in the sequence in which they came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Orders {
    pub promoted: Option<Timestamp>,
    /// Who, and when.
    pub paused: Option<(String, Timestamp)>,
    pub resumed: Option<Timestamp>,
    pub aborted: Option<String>,
    /// In pauses that are over.
    rested: Duration,
}

impl Orders {
    pub fn of<'a>(given: impl IntoIterator<Item = (Order, &'a str, Timestamp)>) -> Self {
        let mut orders = Self::default();
        for (order, by, at) in given {
            match order {
                Order::Pause => {
                    orders.paused.get_or_insert((by.to_owned(), at));
                }
                Order::Resume | Order::Promote => {
                    if let Some((_, since)) = orders.paused.take() {
                        orders.rested += at.since(since);
                    }
                    if order == Order::Promote {
                        orders.promoted = Some(at);
                    } else {
                        orders.resumed = Some(at);
                    }
                }
                Order::Abort => orders.aborted = Some(by.to_owned()),
            }
        }
        orders
    }

    /// Since `from`, without the pauses.
    fn active(&self, from: Timestamp, now: Timestamp) -> Duration {
        let resting = self
            .paused
            .as_ref()
            .map_or(Duration::ZERO, |(_, since)| now.since((*since).max(from)));
        now.since(from).saturating_sub(self.rested + resting)
    }

    /// Whether a pause that deployer began itself was ended since.
    pub fn has_ended(&self, held: &Held) -> bool {
        let after = |at: Option<Timestamp>| at.is_some_and(|at| at >= held.since);
        after(self.resumed) || after(self.promoted)
    }
}

words! {
    pub enum Stage {
        Canary = "canary",
        Shift = "shift_traffic",
        Watch = "watch",
    }
}

/// What deployer sees before it decides.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    pub rollout: &'a Rollout,
    pub stage: Stage,
    /// When the stage began.
    pub since: Timestamp,
    /// Thousandths of the callers that the new version has.
    pub weight: u32,
    /// Instances of it that are ready.
    pub ready: u32,
    pub orders: &'a Orders,
    pub verdict: Option<&'a Verdict>,
    pub breach: Option<&'a str>,
    /// A newer deployment waits.
    pub newer: bool,
    /// How long the version before stays warm.
    pub watch: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// So many instances of the new version, before anything else.
    Grow(u32),
    /// Give the new version so many thousandths of the callers.
    Route(u32),
    /// Look again in a moment; this is what is waited for.
    Wait(String),
    /// Stop until an operator says how it goes on.
    Pause(String),
    /// Callers go back to the version before.
    RollBack(String),
    /// The stage is over.
    Done(String),
}

pub fn decide(seen: &Seen<'_>, now: Timestamp) -> Step {
    let rollout = seen.rollout;
    if rollout.baseline.is_none() {
        return match seen.stage {
            Stage::Shift if seen.weight < ALL => Step::Route(ALL),
            Stage::Canary => Step::Done("no other version answers: nothing to compare with".into()),
            Stage::Shift | Stage::Watch => Step::Done("no other version answers".into()),
        };
    }
    let paused = paused(seen);
    if seen.stage == Stage::Watch
        && let Some(over) = watch_is_over(seen, paused.is_some(), now)
    {
        return Step::Done(over.into());
    }
    if let Some(breach) = seen.breach {
        return bad(seen, breach);
    }
    match seen.stage {
        Stage::Canary => canary(seen, paused, now),
        Stage::Shift => shift(seen, paused),
        Stage::Watch => watch(seen, paused, now),
    }
}

/// Without leave to roll back, an operator has to say.
fn bad(seen: &Seen<'_>, reason: &str) -> Step {
    if seen.rollout.plan.auto_rollback {
        return Step::RollBack(reason.to_owned());
    }
    if seen.orders.promoted.is_some() {
        return Step::Done(format!("promoted, although {reason}"));
    }
    match paused(seen) {
        Some(reason) => Step::Wait(reason),
        None => Step::Pause(format!("{reason}; auto_rollback is off: promote or abort")),
    }
}

/// Why it stands still, if it does.
fn paused(seen: &Seen<'_>) -> Option<String> {
    if let Some((by, _)) = &seen.orders.paused {
        return Some(format!("paused by {by}"));
    }
    let held = seen.rollout.held.as_ref()?;
    (!seen.orders.has_ended(held)).then(|| held.reason.clone())
}

fn canary(seen: &Seen<'_>, paused: Option<String>, now: Timestamp) -> Step {
    let plan = &seen.rollout.plan;
    let weight = plan.canary.weight;
    if seen.orders.promoted.is_some() {
        return Step::Done("promoted".into());
    }
    if seen.weight < weight {
        return Step::Route(weight);
    }
    let verdict = seen.verdict;
    if let Some(failed) = verdict.filter(|verdict| verdict.outcome == Outcome::Fail) {
        return bad(seen, &failed.reason);
    }
    if let Some(reason) = paused {
        return Step::Wait(reason);
    }
    if seen.rollout.errors >= MOST_ERRORS
        && let Some(error) = verdict
    {
        return Step::Pause(format!("{}; resume, promote or abort", error.reason));
    }
    let duration = Duration::from_secs(u64::from(plan.canary.minutes) * 60);
    let left = duration.saturating_sub(seen.orders.active(seen.since, now));
    match verdict {
        _ if !left.is_zero() => Step::Wait(format!("{} s of its time are left", left.as_secs())),
        Some(passed) if passed.outcome == Outcome::Pass => Step::Done(passed.reason.clone()),
        Some(other) => Step::Wait(other.reason.clone()),
        None => Step::Wait("a verdict is waited for".into()),
    }
}

/// Whether the canary's time is over, so that a verdict is its last.
pub fn is_last(rollout: &Rollout, orders: &Orders, since: Timestamp, now: Timestamp) -> bool {
    orders.active(since, now).as_secs() >= u64::from(rollout.plan.canary.minutes) * 60
}

fn shift(seen: &Seen<'_>, paused: Option<String>) -> Step {
    if seen.weight >= ALL {
        return Step::Done("every caller has moved".into());
    }
    if let Some(reason) = paused {
        return Step::Wait(reason);
    }
    let next = seen.rollout.weight_after(seen.weight);
    let needed = seen.rollout.needed(next);
    if seen.ready < needed {
        return Step::Grow(needed);
    }
    Step::Route(next)
}

/// Once it is over, what serves before may be gone: nothing brings it back.
fn watch_is_over(seen: &Seen<'_>, paused: bool, now: Timestamp) -> Option<&'static str> {
    let rollout = seen.rollout;
    if rollout.settled || !rollout.plan.watched {
        return Some("the version before is not kept");
    }
    if seen.newer || seen.orders.promoted.is_some() {
        return Some("the version before is not needed any more");
    }
    (!paused && watch_left(seen, now).is_zero()).then_some("its watch time is over")
}

fn watch_left(seen: &Seen<'_>, now: Timestamp) -> Duration {
    let active = seen.orders.active(seen.since, now);
    seen.watch.saturating_sub(active)
}

fn watch(seen: &Seen<'_>, paused: Option<String>, now: Timestamp) -> Step {
    if let Some(reason) = paused {
        return Step::Wait(reason);
    }
    let left = watch_left(seen, now);
    Step::Wait(format!(
        "the version before stays warm for {} s",
        left.as_secs()
    ))
}

#[cfg(test)]
#[path = "rollout/tests.rs"]
mod tests;
