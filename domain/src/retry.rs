//! How often, and after how long, a failed attempt is made again.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What may be asked for.
pub const MOST_RETRIES: u32 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Attempts after the first, at most [`MOST_RETRIES`].
    pub max_retries: u32,
    pub delay_ms: u64,
    pub multiplier: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_retries: 3,
            delay_ms: 1000,
            multiplier: 2.0,
        }
    }
}

/// No wait is longer, whatever the multiplier says.
const LONGEST: Duration = Duration::from_secs(3600);

impl Policy {
    pub const NONE: Self = Self {
        max_retries: 0,
        delay_ms: 0,
        multiplier: 1.0,
    };

    /// The wait before the next attempt after `failed` attempts have failed; `None` when that was the last.
    pub fn next(&self, failed: u32) -> Option<Duration> {
        if failed == 0 || failed > self.max_retries {
            return None;
        }
        let factor = self
            .multiplier
            .max(1.0)
            .powi(i32::try_from(failed - 1).unwrap_or(i32::MAX));
        let ms = (self.delay_ms as f64 * factor).min(LONGEST.as_millis() as f64);
        Some(Duration::from_millis(ms as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_and_ends() {
        let policy = Policy::default();
        let waits: Vec<_> = (0..6)
            .map(|failed| policy.next(failed).map(|wait| wait.as_millis()))
            .collect();
        assert_eq!(
            waits,
            [None, Some(1000), Some(2000), Some(4000), None, None]
        );
    }

    #[test]
    fn never_longer_than_an_hour() {
        let policy = Policy {
            max_retries: 1000,
            delay_ms: 1000,
            multiplier: 1e300,
        };
        assert_eq!(policy.next(999), Some(LONGEST));
    }
}
