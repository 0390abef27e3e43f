//! What is kept of many ended executions at once: a cell. Cells add up, exactly, to the cell of all of them; so a minute's cells
//! make an hour's, and those of several versions an agent's.

use crate::{Timestamp, execution::Status, sketch::Sketch, words};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Names of custom metrics that one cell holds; those over it are left out.
const MOST_NAMES: usize = 200;

words! {
    /// How long the time is that one cell is of.
    pub enum Span { Minute = "minute", Hour = "hour", Day = "day", Ever = "ever", }
}

impl Span {
    /// Where the time begins that a moment is in.
    pub fn start(self, at: Timestamp) -> Timestamp {
        match self.millis() {
            Some(step) => Timestamp(at.0.div_euclid(step) * step),
            None => Timestamp(0),
        }
    }

    /// `None`: without end.
    pub fn millis(self) -> Option<i64> {
        match self {
            Self::Minute => Some(60_000),
            Self::Hour => Some(3_600_000),
            Self::Day => Some(86_400_000),
            Self::Ever => None,
        }
    }
}

/// One ended execution, as figures need it.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended {
    pub completed_at: Timestamp,
    pub status: Status,
    /// `None` where it never ran.
    pub duration_ms: Option<f64>,
    pub queue_ms: Option<f64>,
    pub cpu_ms: Option<f64>,
    pub memory_peak_mb: Option<f64>,
    pub tokens: Option<i64>,
    pub metrics: BTreeMap<String, f64>,
}

/// How many there were of a figure, and what they make together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Sum {
    #[serde(rename = "n")]
    pub count: u64,
    #[serde(rename = "s")]
    pub sum: f64,
}

impl Sum {
    fn add(&mut self, figure: f64) {
        if figure.is_finite() {
            self.count += 1;
            self.sum += figure;
        }
    }

    fn merge(&mut self, other: Self) {
        self.count += other.count;
        self.sum += other.sum;
    }

    fn minus(self, part: Self) -> Self {
        Self {
            count: self.count.saturating_sub(part.count),
            sum: self.sum - part.sum,
        }
    }

    pub fn mean(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// Ended executions, counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cell {
    pub completed: u64,
    pub failed: u64,
    pub timeout: u64,
    pub cancelled: u64,
    pub first_at: Option<i64>,
    pub duration: Sum,
    pub durations: Sketch,
    pub queue: Sum,
    pub queues: Sketch,
    pub cpu: Sum,
    pub memory_peak_mb: Option<f64>,
    pub tokens: Sum,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub custom: BTreeMap<String, Sum>,
}

impl Cell {
    pub fn total(&self) -> u64 {
        self.completed + self.failed + self.timeout + self.cancelled
    }

    /// Failed, or out of time.
    pub fn bad(&self) -> u64 {
        self.failed + self.timeout
    }

    /// A cancel is its caller's own wish: neither a success nor a failure, and in no rate.
    pub fn judged(&self) -> u64 {
        self.completed + self.bad()
    }

    /// Of the time that executions ran, the part that a processor worked for them: one that computes on several all the time has all of it.
    pub fn cpu_share(&self) -> Option<f64> {
        let measured = self.cpu.count > 0 && self.duration.sum > 0.0;
        measured.then(|| (self.cpu.sum / self.duration.sum).min(1.0))
    }

    pub fn add(&mut self, ended: &Ended) {
        match ended.status {
            Status::Completed => self.completed += 1,
            Status::Failed => self.failed += 1,
            Status::Timeout => self.timeout += 1,
            Status::Cancelled => self.cancelled += 1,
            Status::Queued | Status::Running => return,
        }
        self.first_at = least(self.first_at, Some(ended.completed_at.0));
        if let Some(duration) = ended.duration_ms {
            self.duration.add(duration);
            self.durations.add(duration);
        }
        if let Some(queue) = ended.queue_ms {
            self.queue.add(queue);
            self.queues.add(queue);
        }
        ended.cpu_ms.into_iter().for_each(|cpu| self.cpu.add(cpu));
        self.memory_peak_mb = most(self.memory_peak_mb, ended.memory_peak_mb);
        let tokens = ended.tokens.into_iter();
        tokens.for_each(|tokens| self.tokens.add(tokens as f64));
        for (name, value) in &ended.metrics {
            if let Some(sum) = self.named(name) {
                sum.add(*value);
            }
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.completed += other.completed;
        self.failed += other.failed;
        self.timeout += other.timeout;
        self.cancelled += other.cancelled;
        self.first_at = least(self.first_at, other.first_at);
        self.duration.merge(other.duration);
        self.durations.merge(&other.durations);
        self.queue.merge(other.queue);
        self.queues.merge(&other.queues);
        self.cpu.merge(other.cpu);
        self.memory_peak_mb = most(self.memory_peak_mb, other.memory_peak_mb);
        self.tokens.merge(other.tokens);
        for (name, sum) in &other.custom {
            if let Some(own) = self.named(name) {
                own.merge(*sum);
            }
        }
    }

    /// What was not counted yet, where `self` is all and `part` what was. Adding it to `part` gives `self`.
    #[must_use]
    pub fn minus(&self, part: &Self) -> Self {
        let custom = self.custom.iter().map(|(name, sum)| {
            let counted = part.custom.get(name).copied().unwrap_or_default();
            (name.clone(), sum.minus(counted))
        });
        Self {
            completed: self.completed.saturating_sub(part.completed),
            failed: self.failed.saturating_sub(part.failed),
            timeout: self.timeout.saturating_sub(part.timeout),
            cancelled: self.cancelled.saturating_sub(part.cancelled),
            first_at: self.first_at,
            duration: self.duration.minus(part.duration),
            durations: self.durations.minus(&part.durations),
            queue: self.queue.minus(part.queue),
            queues: self.queues.minus(&part.queues),
            cpu: self.cpu.minus(part.cpu),
            memory_peak_mb: self.memory_peak_mb,
            tokens: self.tokens.minus(part.tokens),
            custom: custom.filter(|(_, sum)| sum.count > 0).collect(),
        }
    }

    fn named(&mut self, name: &str) -> Option<&mut Sum> {
        if !self.custom.contains_key(name) && self.custom.len() >= MOST_NAMES {
            return None;
        }
        Some(self.custom.entry(name.to_owned()).or_default())
    }
}

fn least(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    one.into_iter().chain(other).min()
}

fn most(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ended() -> impl Strategy<Value = Ended> {
        let status = prop::sample::select(vec![
            Status::Completed,
            Status::Failed,
            Status::Timeout,
            Status::Cancelled,
        ]);
        // Whole figures: sums of them are exact in any order.
        let figure = || prop::option::of((0..100_000_u32).prop_map(f64::from));
        let metrics = prop::collection::btree_map("[a-c]", (0..100_u32).prop_map(f64::from), 0..3);
        (
            (0..10_000_000_i64, status, figure(), figure()),
            (figure(), figure(), prop::option::of(0..1000_i64), metrics),
        )
            .prop_map(
                |(
                    (at, status, duration_ms, queue_ms),
                    (cpu_ms, memory_peak_mb, tokens, metrics),
                )| {
                    Ended {
                        completed_at: Timestamp(at),
                        status,
                        duration_ms,
                        queue_ms,
                        cpu_ms,
                        memory_peak_mb,
                        tokens,
                        metrics,
                    }
                },
            )
    }

    fn of(all: &[Ended]) -> Cell {
        let mut cell = Cell::default();
        all.iter().for_each(|one| cell.add(one));
        cell
    }

    proptest! {
        #[test]
        fn parts_make_the_whole(all in prop::collection::vec(ended(), 0..60), cut in 0..60_usize) {
            let (one, other) = all.split_at(cut.min(all.len()));
            let (whole, mut merged) = (of(&all), of(one));
            merged.merge(&of(other));
            prop_assert_eq!(&merged, &whole);
            // What came late is what the whole has over what was counted.
            let mut again = of(one);
            again.merge(&whole.minus(&of(one)));
            prop_assert_eq!(&again, &whole);
            let written = serde_json::to_string(&whole).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<Cell>(&written).expect("a cell"), whole);
        }
    }

    #[test]
    fn names_are_bounded() {
        let mut one = Ended {
            completed_at: Timestamp(1),
            status: Status::Completed,
            duration_ms: None,
            queue_ms: None,
            cpu_ms: None,
            memory_peak_mb: None,
            tokens: None,
            metrics: BTreeMap::new(),
        };
        for n in 0..MOST_NAMES + 50 {
            one.metrics.insert(format!("m{n}"), 1.0);
        }
        let cell = of(&[one]);
        assert_eq!(cell.custom.len(), MOST_NAMES);
        assert_eq!((cell.total(), cell.judged(), cell.bad()), (1, 1, 0));
    }

    #[test]
    fn a_moment_is_in_one_cell_of_each_span() {
        let at = Timestamp(86_400_000 + 3_600_000 + 61_000);
        let starts: Vec<i64> = Span::ALL.iter().map(|span| span.start(at).0).collect();
        assert_eq!(starts, [90_060_000, 90_000_000, 86_400_000, 0]);
        assert_eq!(Span::Minute.start(Timestamp(-1)), Timestamp(-60_000));
    }
}
