//! A sketch of figures: counts in buckets whose bounds grow by a constant factor, so that any percentile is known to a relative
//! error of one percent, and the sketches of two sets add up to the sketch of both, exactly.
//!
//! After Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error guarantees" (VLDB 2019),
//! without its collapsing: from a microsecond to a year in milliseconds there are fewer than 1,700 buckets.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A little below one percent, so that rounding does not carry a figure over it.
const ERROR: f64 = 0.009_9;
/// Figures up to here are one bucket, told as zero.
const LEAST: f64 = 1e-3;
const MOST: f64 = 1e12;

/// Written as `[at, count, at, count, …]`; `at` of zero is [`ZERO`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Vec<i64>", into = "Vec<i64>")]
pub struct Sketch(BTreeMap<i32, u64>);

const ZERO: i32 = i32::MIN;

fn growth() -> f64 {
    (1.0 + ERROR) / (1.0 - ERROR)
}

fn place(figure: f64) -> i32 {
    if figure <= LEAST {
        return ZERO;
    }
    (figure.min(MOST).ln() / growth().ln()).ceil() as i32
}

/// What a bucket's figures are told as: as far from its lower bound as from its upper one.
fn middle(place: i32) -> f64 {
    if place == ZERO {
        return 0.0;
    }
    2.0 * growth().powi(place) / (growth() + 1.0)
}

impl Sketch {
    /// What is no number is no figure.
    pub fn add(&mut self, figure: f64) {
        if !figure.is_nan() {
            *self.0.entry(place(figure)).or_default() += 1;
        }
    }

    pub fn merge(&mut self, other: &Self) {
        for (place, count) in &other.0 {
            *self.0.entry(*place).or_default() += count;
        }
    }

    /// What is left when a part of it is taken out.
    #[must_use]
    pub fn minus(&self, part: &Self) -> Self {
        let left = self.0.iter().map(|(place, count)| {
            let taken = part.0.get(place).copied().unwrap_or(0);
            (*place, count.saturating_sub(taken))
        });
        Self(left.filter(|(_, count)| *count > 0).collect())
    }

    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The figure at share `p`, by nearest rank, within one percent.
    pub fn percentile(&self, p: f64) -> Option<f64> {
        let count = self.count();
        let rank = ((p * count as f64).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0;
        self.0.iter().find_map(|(place, count)| {
            seen += count;
            (seen >= rank).then(|| middle(*place))
        })
    }
}

impl From<Vec<i64>> for Sketch {
    fn from(pairs: Vec<i64>) -> Self {
        let read = |pair: &[i64]| {
            let place = i32::try_from(*pair.first()?).ok()?;
            Some((place, u64::try_from(*pair.get(1)?).ok()?))
        };
        Self(pairs.chunks(2).filter_map(read).collect())
    }
}

impl From<Sketch> for Vec<i64> {
    fn from(sketch: Sketch) -> Self {
        let pairs = sketch.0.into_iter();
        pairs
            .flat_map(|(place, count)| [i64::from(place), i64::try_from(count).unwrap_or(i64::MAX)])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::percentile;
    use proptest::prelude::*;

    fn of(figures: &[f64]) -> Sketch {
        let mut sketch = Sketch::default();
        figures.iter().for_each(|figure| sketch.add(*figure));
        sketch
    }

    proptest! {
        #[test]
        fn percentiles_are_within_one_percent(
            mut figures in prop::collection::vec(-3.0_f64..9.0, 1..400),
            p in 0.0_f64..=1.0,
        ) {
            figures.iter_mut().for_each(|figure| *figure = 10_f64.powf(*figure));
            let told = of(&figures).percentile(p).expect("figures");
            figures.sort_unstable_by(f64::total_cmp);
            let exact = percentile(&figures, p).expect("figures");
            prop_assert!((told - exact).abs() <= 0.01 * exact + LEAST, "{told} is told of {exact}");
        }

        #[test]
        fn parts_add_up_and_come_off_again(
            one in prop::collection::vec(0.0_f64..1e6, 0..200),
            other in prop::collection::vec(0.0_f64..1e6, 0..200),
        ) {
            let both: Vec<f64> = one.iter().chain(&other).copied().collect();
            let mut merged = of(&one);
            merged.merge(&of(&other));
            prop_assert_eq!(&merged, &of(&both));
            prop_assert_eq!(merged.minus(&of(&one)), of(&other));
            let written = serde_json::to_string(&merged).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<Sketch>(&written).expect("a sketch"), merged);
        }
    }

    #[test]
    fn of_nothing_and_of_what_is_no_time() {
        assert_eq!(Sketch::default().percentile(0.5), None);
        let odd = of(&[0.0, -1.0, f64::NAN, f64::INFINITY]);
        assert_eq!(odd.count(), 3);
        assert_eq!(odd.percentile(0.5), Some(0.0));
        assert!(odd.percentile(1.0).is_some_and(f64::is_finite));
    }
}
