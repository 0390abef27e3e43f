//! How a thing is doing, how a whole is doing by its parts, and what a probe says of an instance.
//!
//! Liveness is judged apart from load: an instance that is busy is not dead, however long it leaves a probe unanswered. Dead is who
//! neither answers nor says anything nor computes, and has nothing to run that would explain it.

use crate::words;
use std::time::Duration;

words! {
    /// Ordered from best to worst.
    pub enum Health { Healthy = "healthy", Degraded = "degraded", Unhealthy = "unhealthy", }
}

/// The worst of the parts; a whole without parts is healthy.
pub fn worst(parts: impl IntoIterator<Item = Health>) -> Health {
    parts.into_iter().max().unwrap_or(Health::Healthy)
}

/// So many bad probes in a row, and an instance is replaced.
pub const MOST_BAD: u32 = 3;

/// What a probe saw of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Probe {
    /// It answered the frame.
    pub answered: bool,
    /// What its application answered at the path that was asked for.
    pub status: Option<u16>,
    /// It said anything at all meanwhile.
    pub heard: bool,
    /// It used the processor meanwhile.
    pub computed: bool,
    pub in_flight: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    Well,
    /// No answer, for a reason that is no illness: says nothing, either way.
    Loaded,
    /// Its application answered so.
    Ill(u16),
    Silent,
}

impl Probe {
    /// A path that is not there (404), or not for us (401, 405), is an answer of an application that works.
    pub fn sign(self) -> Sign {
        match self.status {
            Some(status) if status >= 500 => Sign::Ill(status),
            Some(_) => Sign::Well,
            None if self.answered => Sign::Well,
            None if self.heard || self.computed || self.in_flight > 0 => Sign::Loaded,
            None => Sign::Silent,
        }
    }
}

/// How an instance is doing, by its probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Condition {
    bad: u32,
}

impl Condition {
    pub fn after(self, sign: Sign) -> Self {
        match sign {
            Sign::Well => Self::default(),
            Sign::Loaded => self,
            Sign::Ill(_) | Sign::Silent => Self { bad: self.bad + 1 },
        }
    }

    /// Degraded: a bad probe or two, and it still takes work. Unhealthy: it is replaced.
    pub fn health(self) -> Health {
        match self.bad {
            0 => Health::Healthy,
            bad if bad < MOST_BAD => Health::Degraded,
            _ => Health::Unhealthy,
        }
    }
}

/// How an agent is doing: by what is ready of what shall be, how that is doing, and whether starting goes round in a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Serving {
    pub wanted: u32,
    pub ready: u32,
    /// Of those that are ready.
    pub not_healthy: u32,
    /// On any node.
    pub crash_looping: bool,
}

impl Serving {
    /// Unhealthy: it crashes at every start and nobody else serves it. Degraded: it serves, by fewer than it should, or by some
    /// that are not well, or only where it does not crash.
    pub fn health(self) -> Health {
        if self.crash_looping && self.ready == 0 {
            Health::Unhealthy
        } else if self.crash_looping || self.ready < self.wanted || self.not_healthy > 0 {
            Health::Degraded
        } else {
            Health::Healthy
        }
    }
}

/// An instance that ends so soon after it was ready has not got further than its start.
pub const EARLY: Duration = Duration::from_secs(10);
/// So many starts in a row that led nowhere are a loop.
pub const LOOP: u32 = 5;
/// Instances that calls have killed so soon, before that is taken for the version's own fault.
const KILLED: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// An import of half a second then costs less than a hundredth of a core.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Starts in a row that led nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Crashes {
    starts: u32,
    killed: u32,
}

/// How an instance came to its end, for those that nobody ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It never was ready.
    Start,
    /// After so long, with so many calls running.
    Ready { lived: Duration, in_flight: u32 },
}

impl Crashes {
    pub fn after(self, end: End) -> Self {
        match end {
            End::Start | End::Ready { in_flight: 0, .. } if self.is_early(end) => Self {
                starts: self.starts + 1,
                ..self
            },
            End::Ready { .. } if self.is_early(end) => Self {
                killed: self.killed + 1,
                ..self
            },
            End::Start | End::Ready { .. } => Self::default(),
        }
    }

    fn is_early(self, end: End) -> bool {
        match end {
            End::Start => true,
            End::Ready { lived, .. } => lived < EARLY,
        }
    }

    pub fn count(self) -> u32 {
        self.starts + self.killed.saturating_sub(KILLED)
    }

    pub fn is_loop(self) -> bool {
        self.count() >= LOOP
    }

    /// Before the next start.
    pub fn wait(self) -> Duration {
        match self.count() {
            0 => Duration::ZERO,
            count => (FIRST_WAIT * 2_u32.saturating_pow((count - 1).min(20))).min(LONGEST_WAIT),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Health::{Degraded, Healthy, Unhealthy},
        *,
    };

    #[test]
    fn the_worst_part_counts() {
        assert_eq!(
            worst([Health::Healthy, Health::Unhealthy, Health::Degraded]),
            Health::Unhealthy
        );
        assert_eq!(worst([]), Health::Healthy);
    }

    #[test]
    fn load_is_not_death() {
        let silent = Probe::default();
        for (probe, sign) in [
            (
                Probe {
                    answered: true,
                    ..silent
                },
                Sign::Well,
            ),
            (
                Probe {
                    status: Some(200),
                    ..silent
                },
                Sign::Well,
            ),
            (
                Probe {
                    status: Some(404),
                    ..silent
                },
                Sign::Well,
            ),
            (
                Probe {
                    status: Some(503),
                    answered: true,
                    ..silent
                },
                Sign::Ill(503),
            ),
            (
                Probe {
                    in_flight: 1,
                    ..silent
                },
                Sign::Loaded,
            ),
            (
                Probe {
                    computed: true,
                    ..silent
                },
                Sign::Loaded,
            ),
            (
                Probe {
                    heard: true,
                    ..silent
                },
                Sign::Loaded,
            ),
            (silent, Sign::Silent),
        ] {
            assert_eq!(probe.sign(), sign, "{probe:?}");
        }
        // A loop that is blocked for an hour by what it runs is well for that hour.
        let mut condition = Condition::default();
        for _ in 0..120 {
            condition = condition.after(
                Probe {
                    in_flight: 3,
                    ..silent
                }
                .sign(),
            );
        }
        assert_eq!(condition.health(), Health::Healthy);
    }

    #[test]
    fn three_bad_probes_in_a_row() {
        let mut condition = Condition::default();
        let told: Vec<_> = [
            Sign::Silent,
            Sign::Ill(500),
            Sign::Well,
            Sign::Ill(503),
            Sign::Loaded,
            Sign::Ill(503),
            Sign::Silent,
        ]
        .into_iter()
        .map(|sign| {
            condition = condition.after(sign);
            condition.health()
        })
        .collect();
        assert_eq!(
            told,
            [
                Degraded, Degraded, Healthy, Degraded, Degraded, Degraded, Unhealthy
            ]
        );
    }

    #[test]
    fn degraded_serves_still() {
        let serving = |wanted, ready, not_healthy, crash_looping| {
            Serving {
                wanted,
                ready,
                not_healthy,
                crash_looping,
            }
            .health()
        };
        for (health, expected) in [
            (serving(0, 0, 0, false), Health::Healthy),
            (serving(2, 2, 0, false), Health::Healthy),
            (serving(2, 1, 0, false), Health::Degraded),
            (serving(1, 2, 1, false), Health::Degraded),
            (serving(1, 1, 0, true), Health::Degraded),
            (serving(0, 0, 0, true), Health::Unhealthy),
            (serving(1, 0, 0, true), Health::Unhealthy),
        ] {
            assert_eq!(health, expected);
        }
    }

    #[test]
    fn a_crash_loop_waits_longer_and_longer() {
        let mut crashes = Crashes::default();
        let mut waits = Vec::new();
        for _ in 0..12 {
            crashes = crashes.after(End::Start);
            waits.push(crashes.wait().as_millis());
        }
        assert_eq!(
            waits,
            [
                250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000, 60000, 60000
            ]
        );
        assert!(crashes.is_loop());
        // One that lived is the end of the loop; one that dies of its first seconds is not.
        let early = End::Ready {
            lived: Duration::from_secs(2),
            in_flight: 0,
        };
        assert_eq!(crashes.after(early).count(), 13);
        let late = End::Ready {
            lived: Duration::from_secs(11),
            in_flight: 0,
        };
        assert_eq!(crashes.after(late).count(), 0);
        // What calls kill is theirs at first.
        let mut crashes = Crashes::default();
        for n in 1..=20 {
            crashes = crashes.after(End::Ready {
                lived: Duration::from_millis(50),
                in_flight: 1,
            });
            assert_eq!(crashes.count(), (n as u32).saturating_sub(5), "{n}");
        }
    }
}
