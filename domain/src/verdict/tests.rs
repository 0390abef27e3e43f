use super::*;

/// xorshift64*, for draws that are the same in every run.
struct Draws(u64);

impl Draws {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        (bits as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Log-normal with a median of 40 ms, as wide as answers of models are.
    fn latency(&mut self) -> f64 {
        let (a, b) = (self.unit(), self.unit());
        let normal = (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos();
        40.0 * (0.5 * normal).exp()
    }
}

/// How a simulated version behaves.
#[derive(Clone, Copy)]
struct Behaviour {
    error_rate: f64,
    /// Of every latency.
    slower: f64,
    /// Of those over the 90th percentile alone.
    slower_tail: f64,
}

const SOUND: Behaviour = Behaviour {
    error_rate: 0.03,
    slower: 1.0,
    slower_tail: 1.0,
};

fn seen(draws: &mut Draws, sample: &mut Sample, count: u32, how: Behaviour) {
    for _ in 0..count {
        sample.ended += 1;
        if draws.unit() < how.error_rate {
            sample.failed += 1;
            continue;
        }
        let ms = draws.latency();
        let tail = if ms > 75.9 { how.slower_tail } else { 1.0 };
        sample.latency.add(ms * how.slower * tail);
    }
}

/// The look at which a canary of ten percent fails, of at most `looks` that see fifty requests each.
fn fails_at(seed: u64, how: Behaviour, looks: u32) -> Option<u32> {
    let mut draws = Draws(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (mut sample, mut baseline) = (Sample::default(), Sample::default());
    (1..=looks).find(|_| {
        seen(&mut draws, &mut sample, 5, how);
        seen(&mut draws, &mut baseline, 45, SOUND);
        let criteria = Criteria::default();
        judge(&criteria, &sample, &baseline, false).outcome == Outcome::Fail
    })
}

fn failing(runs: u64, how: Behaviour, looks: u32) -> usize {
    let failed = (1..=runs).filter(|seed| fails_at(*seed, how, looks).is_some());
    failed.count()
}

#[test]
fn a_sound_version_fails_in_less_than_one_of_twenty_runs_however_often_it_is_looked_at() {
    let failed = failing(200, SOUND, 100);
    assert!(failed <= 10, "{failed} of 200 sound versions failed");
}

#[test]
fn one_that_fails_every_call_fails_at_the_first_look_that_may_say_so() {
    let how = Behaviour {
        error_rate: 1.0,
        ..SOUND
    };
    for seed in 1..50 {
        assert_eq!(fails_at(seed, how, 20), Some(6), "30 executions");
    }
}

#[test]
fn one_that_is_slower_by_three_tenths_fails() {
    let how = Behaviour {
        slower: 1.3,
        ..SOUND
    };
    let failed = failing(50, how, 200);
    assert!(failed >= 45, "{failed} of 50 by 1000 executions");
}

#[test]
fn one_whose_tail_alone_is_slower_fails() {
    let how = Behaviour {
        slower_tail: 1.6,
        ..SOUND
    };
    let failed = failing(20, how, 600);
    assert!(failed >= 18, "{failed} of 20 by 3000 executions");
}

/// Nobody would see it in the median or the mean: it takes many executions, and it is seen.
#[test]
fn one_whose_tail_alone_is_slower_by_three_tenths_fails() {
    let how = Behaviour {
        slower_tail: 1.3,
        ..SOUND
    };
    let failed = failing(10, how, 3000);
    assert!(failed >= 9, "{failed} of 10 by 15000 executions");
}

#[test]
fn bounds_hold_the_truth_and_narrow() {
    let wide = share_bounds(5, 100);
    let narrow = share_bounds(500, 10_000);
    assert!(wide.low < narrow.low && narrow.low < 0.05 && 0.05 < narrow.high);
    assert!(narrow.high < wide.high && narrow.high - narrow.low < 0.02);
    assert_eq!(share_bounds(0, 50).low, 0.0);
    assert_eq!(share_bounds(50, 50).high, 1.0);
    assert!(share_bounds(8, 8).low > 0.3);
}

#[test]
fn too_little_neither_passes_nor_fails() {
    let bad = |ended| Sample {
        ended,
        failed: ended,
        ..Sample::default()
    };
    let of = |sample: &Sample, baseline: &Sample| {
        judge(&Criteria::default(), sample, baseline, true).outcome
    };
    assert_eq!(of(&bad(0), &bad(1000)), Outcome::NotEnoughData);
    assert_eq!(of(&bad(29), &bad(1000)), Outcome::NotEnoughData);
    let good = Sample {
        ended: 1000,
        ..Sample::default()
    };
    assert_eq!(of(&good, &bad(0)), Outcome::NotEnoughData);
    assert_eq!(of(&good, &good), Outcome::Pass);
    assert_eq!(of(&bad(30), &good), Outcome::Fail);
}

#[test]
fn limits_are_guards_before_the_end_and_final_at_it() {
    let mut sample = Sample {
        ended: 100,
        failed: 6,
        ..Sample::default()
    };
    (0..94).for_each(|_| sample.latency.add(100.0));
    let of = |criteria: Criteria, last| judge(&criteria, &sample, &sample, last).outcome;
    let errors = Criteria {
        error_rate_threshold: Some(0.05),
        ..Criteria::default()
    };
    assert_eq!(
        of(errors, false),
        Outcome::Pass,
        "six of a hundred is chance"
    );
    assert_eq!(of(errors, true), Outcome::Fail);
    let slow = |limit| Criteria {
        latency_threshold_ms: Some(limit),
        ..Criteria::default()
    };
    assert_eq!(of(slow(150), true), Outcome::Pass);
    assert_eq!(
        of(slow(90), false),
        Outcome::Fail,
        "all of them are over it"
    );
}

#[test]
fn triggers_act_when_it_is_no_chance() {
    let of = |ended, failed, timeouts, health| {
        let sample = Sample {
            ended,
            failed,
            timeouts,
            ..Sample::default()
        };
        breach(&Triggers::default(), &sample, health).is_some()
    };
    assert!(!of(0, 0, 0, 0) && !of(4, 4, 0, 0) && !of(100, 50, 0, 0));
    assert!(of(20, 20, 0, 0) && of(20, 0, 20, 0) && of(0, 0, 0, 3));
}

#[test]
fn quantiles_are_true_to_two_percent() {
    let mut draws = Draws(7);
    let figures: Vec<f64> = (0..5000).map(|_| draws.latency()).collect();
    let mut histogram = Histogram::default();
    figures.iter().for_each(|ms| histogram.add(*ms));
    let mut sorted = figures;
    sorted.sort_by(f64::total_cmp);
    for share in [0.01, 0.5, 0.95, 0.99] {
        let exact = crate::metrics::percentile(&sorted, share).expect("figures");
        let ours = histogram.quantile(share).expect("figures");
        assert!(
            (ours / exact - 1.0).abs() <= 0.0201,
            "{share}: {ours} {exact}"
        );
        let bounds = histogram.quantile_bounds(share);
        assert!(
            bounds.low < exact && exact < bounds.high,
            "{share}: {bounds:?}"
        );
    }
    assert_eq!(Histogram::default().quantile(0.5), None);
}
