//! A session with an instance of its own: when it is over.

use std::time::Duration;

/// Without a call for longer, its instance is let go.
pub const LONGEST_IDLE: Duration = Duration::from_secs(15 * 60);
/// However busy it is.
pub const LONGEST_LIFE: Duration = Duration::from_secs(8 * 3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub idle: Duration,
    pub life: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: LONGEST_IDLE,
            life: LONGEST_LIFE,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Unless something works on in it.
    Idle,
    /// With what runs in it.
    Old,
}

/// `idle` is `None` while something runs.
pub fn over(idle: Option<Duration>, age: Duration, limits: Limits) -> Option<Over> {
    if age >= limits.life {
        return Some(Over::Old);
    }
    idle.is_some_and(|idle| idle >= limits.idle)
        .then_some(Over::Idle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_or_old() {
        let s = Duration::from_secs;
        let limits = Limits::default();
        for (idle, age, expected) in [
            (None, s(0), None),
            (Some(s(899)), s(10_000), None),
            (Some(s(900)), s(10_000), Some(Over::Idle)),
            (None, s(28_799), None),
            (None, s(28_800), Some(Over::Old)),
            (Some(s(1000)), s(30_000), Some(Over::Old)),
        ] {
            assert_eq!(over(idle, age, limits), expected, "{idle:?} of {age:?}");
        }
    }
}
