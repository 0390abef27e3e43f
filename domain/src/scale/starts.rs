//! Who may start, and when: no version more than its allowance, and on a node everybody in turn.

use std::{collections::VecDeque, time::Duration};

/// Starts a second that one version's load may ask of a node, over what it has saved up.
const RATE: f64 = 20.0;
/// What it saves up at most.
const SAVED: f64 = 40.0;

/// A token bucket.
#[derive(Debug)]
pub struct Allowance {
    saved: f64,
    at: Duration,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            saved: SAVED,
            at: Duration::ZERO,
        }
    }
}

impl Allowance {
    /// As many of `wanted` as are allowed now.
    pub fn take(&mut self, wanted: u32, at: Duration) -> u32 {
        let passed = at.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(at);
        self.saved = (self.saved + passed * RATE).min(SAVED);
        let taken = wanted.min(self.saved as u32);
        self.saved -= f64::from(taken);
        taken
    }
}

/// Those who wait for a start on a node, by whose they are: everybody's first before anybody's second.
#[derive(Debug)]
pub struct Turns<K, T> {
    lines: VecDeque<(K, VecDeque<T>)>,
}

impl<K, T> Default for Turns<K, T> {
    fn default() -> Self {
        Self {
            lines: VecDeque::new(),
        }
    }
}

impl<K: PartialEq, T> Turns<K, T> {
    pub fn push(&mut self, whose: K, item: T) {
        match self.lines.iter_mut().find(|(key, _)| *key == whose) {
            Some((_, line)) => line.push_back(item),
            None => self.lines.push_back((whose, VecDeque::from([item]))),
        }
    }

    /// The next; whose it was stands behind all others then.
    pub fn pop(&mut self) -> Option<T> {
        let (key, mut line) = self.lines.pop_front()?;
        let item = line.pop_front();
        if !line.is_empty() {
            self.lines.push_back((key, line));
        }
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_one_starves_nobody() {
        let mut turns = Turns::default();
        for n in 0..1000 {
            turns.push(0, (0, n));
        }
        for agent in 1..200 {
            turns.push(agent, (agent, 0));
        }
        let served: Vec<_> = (0..400).filter_map(|_| turns.pop()).collect();
        let last = served.iter().rposition(|(agent, _)| *agent != 0);
        assert_eq!(
            last,
            Some(199),
            "everybody's first start is among the first 200"
        );
        assert!(served[200..].iter().all(|(agent, _)| *agent == 0));
        assert_eq!(
            served
                .iter()
                .filter(|(agent, _)| *agent == 0)
                .map(|(_, n)| *n)
                .collect::<Vec<_>>(),
            (0..201).collect::<Vec<_>>()
        );
    }

    #[test]
    fn an_allowance_refills_and_is_bounded() {
        let mut starts = Allowance::default();
        let at = Duration::from_secs;
        assert_eq!(starts.take(1000, at(0)), 40);
        assert_eq!(starts.take(1000, at(0)), 0);
        assert_eq!(starts.take(5, at(1)), 5);
        assert_eq!(starts.take(1000, at(1)), 15);
        assert_eq!(starts.take(1000, at(3600)), 40);
        assert_eq!(
            starts.take(1, at(5)),
            0,
            "a clock that goes back gives nothing"
        );
    }
}
