//! Figures over time: aligned buckets and what is said of each. Exact, from the executions themselves.

use crate::{Error, Timestamp, words};

words! {
    pub enum Granularity { Minute = "1m", FiveMinutes = "5m", Hour = "1h", Day = "1d", }
}

impl Granularity {
    pub fn millis(self) -> i64 {
        match self {
            Self::Minute => 60_000,
            Self::FiveMinutes => 300_000,
            Self::Hour => 3_600_000,
            Self::Day => 86_400_000,
        }
    }
}

pub const MAX_BUCKETS: i64 = 11_000;

/// A checked question: `[start, end)` widened to whole buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    pub start: Timestamp,
    pub end: Timestamp,
    pub granularity: Granularity,
}

impl Range {
    pub fn new(start: Timestamp, end: Timestamp, granularity: Granularity) -> Result<Self, Error> {
        let step = granularity.millis();
        if end <= start {
            return Err(Error::fault(
                "end_time",
                format_args!("{end} is not after start_time {start}"),
            ));
        }
        let aligned = Self {
            start: Timestamp(start.0.div_euclid(step) * step),
            end: Timestamp(
                (end.0 - 1)
                    .div_euclid(step)
                    .saturating_add(1)
                    .saturating_mul(step),
            ),
            granularity,
        };
        if aligned.buckets() > MAX_BUCKETS {
            let what = format_args!(
                "makes {} buckets of {granularity}; allowed are at most {MAX_BUCKETS}",
                aligned.buckets()
            );
            return Err(Error::fault("granularity", what));
        }
        Ok(aligned)
    }

    pub fn buckets(&self) -> i64 {
        (self.end.0 - self.start.0) / self.granularity.millis()
    }

    /// Which bucket a moment of the range falls into.
    pub fn index(&self, at: Timestamp) -> Option<usize> {
        if at < self.start || at >= self.end {
            return None;
        }
        usize::try_from((at.0 - self.start.0) / self.granularity.millis()).ok()
    }
}

/// The value at share `p` of sorted figures, by nearest rank.
pub fn percentile(sorted: &[f64], p: f64) -> Option<f64> {
    let rank = (p * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_aligned_and_bounded() {
        let range = Range::new(Timestamp(61_000), Timestamp(180_000), Granularity::Minute)
            .expect("a range");
        assert_eq!(
            (range.start, range.end, range.buckets()),
            (Timestamp(60_000), Timestamp(180_000), 2)
        );
        assert_eq!(range.index(Timestamp(119_999)), Some(0));
        assert_eq!(range.index(Timestamp(180_000)), None);
        assert!(Range::new(Timestamp(5), Timestamp(5), Granularity::Minute).is_err());
        assert!(Range::new(Timestamp(0), Timestamp(i64::MAX), Granularity::Minute).is_err());
    }

    #[test]
    fn percentiles_by_nearest_rank() {
        let figures: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            (
                percentile(&figures, 0.5),
                percentile(&figures, 0.95),
                percentile(&figures, 0.99)
            ),
            (Some(50.0), Some(95.0), Some(99.0))
        );
        assert_eq!(percentile(&[], 0.5), None);
        assert_eq!(percentile(&[7.0], 0.99), Some(7.0));
    }
}
