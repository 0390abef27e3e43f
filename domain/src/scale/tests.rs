//! The rules as tables, and whole days of load against a model of instances that need time to start.

use super::*;

const LIMITS: Limits = Limits {
    min: 0,
    max: 50,
    concurrency: 10,
    target_utilization: 0.7,
};

fn at(s: f64) -> Duration {
    Duration::from_secs_f64(s)
}

fn seen(ready: u32, starting: u32, in_flight: u32, waiting: u32) -> Seen {
    Seen {
        ready,
        starting,
        in_flight,
        waiting,
        ..Seen::default()
    }
}

/// After `demand` at once for a whole window.
fn settled(demand: u32) -> Scaler {
    let mut scaler = Scaler::new(STABLE);
    scaler.note(demand, at(0.0));
    scaler.note(demand, at(120.0));
    scaler
}

fn decided(scaler: &mut Scaler, seen: Seen, limits: Limits, s: f64) -> Option<(u32, Input)> {
    scaler
        .decide(seen, limits, at(s))
        .map(|decision| (decision.instances, decision.input))
}

#[test]
fn each_input_decides() {
    let fresh = || Scaler::new(STABLE);
    let old = |ready, starting, in_flight, waiting, ms| Seen {
        oldest: Duration::from_millis(ms),
        ..seen(ready, starting, in_flight, waiting)
    };
    for (mut scaler, seen, expected) in [
        (fresh(), seen(0, 0, 0, 0), None),
        (fresh(), seen(0, 0, 0, 1), Some((1, Input::Cold))),
        // One at first, whoever waits: it shows whether the version starts at all.
        (fresh(), seen(0, 0, 0, 500), Some((1, Input::Cold))),
        (fresh(), seen(0, 1, 0, 500), None),
        (fresh(), old(1, 0, 10, 5, 0), None),
        (fresh(), old(1, 0, 10, 5, 30), Some((2, Input::Waiting))),
        (fresh(), old(4, 0, 40, 40, 30), Some((8, Input::Waiting))),
        (fresh(), old(4, 2, 40, 40, 30), Some((8, Input::Waiting))),
        (fresh(), old(4, 4, 40, 400, 30), None),
        (settled(35), seen(4, 0, 35, 0), Some((5, Input::Stable))),
        (settled(35), seen(5, 0, 35, 0), None),
        (settled(35), seen(2, 0, 20, 15), Some((4, Input::Stable))),
    ] {
        let held = Seen { held: true, ..seen };
        assert_eq!(
            decided(&mut scaler, seen, LIMITS, 120.0),
            expected,
            "{seen:?}"
        );
        assert_eq!(decided(&mut scaler, held, LIMITS, 120.0), None, "{held:?}");
    }
}

#[test]
fn bounds_hold_and_never_contradict() {
    let limits = Limits {
        min: 3,
        max: 6,
        ..LIMITS
    };
    let mut scaler = settled(500);
    assert_eq!(
        decided(&mut scaler, seen(0, 0, 0, 0), limits, 121.0),
        Some((3, Input::Floor))
    );
    assert_eq!(
        decided(&mut scaler, seen(9, 0, 90, 0), limits, 121.0),
        Some((6, Input::Ceiling))
    );
    assert_eq!(
        decided(&mut scaler, seen(6, 0, 60, 400), limits, 121.0),
        None
    );
    // A minimum above the maximum, as while an envelope shrinks: the maximum holds, and nothing swings.
    let limits = Limits {
        min: 8,
        max: 5,
        ..LIMITS
    };
    let mut living = 12;
    for second in 0..600 {
        if let Some((to, _)) = decided(
            &mut scaler,
            seen(living, 0, 0, 0),
            limits,
            122.0 + f64::from(second),
        ) {
            assert!(to < living, "from {living} to {to}");
            living = to;
        }
    }
    assert_eq!(living, 5);
}

#[test]
fn what_goes_down_waits_and_goes_to_zero() {
    let mut scaler = settled(35);
    let (mut living, mut steps) = (5, Vec::new());
    for tick in 0..200 {
        let now = 120.0 + f64::from(tick) * 2.0;
        if let Some((to, _)) = decided(&mut scaler, seen(living, 0, 0, 0), LIMITS, now) {
            steps.push((now - 120.0, to));
            living = to;
        }
    }
    assert!(
        steps.windows(2).all(|pair| pair[1].1 < pair[0].1),
        "{steps:?}"
    );
    assert!(steps[0].0 >= 30.0, "{steps:?}");
    let (last, to) = steps[steps.len() - 1];
    assert!(to == 0 && (60.0..=130.0).contains(&last), "{steps:?}");
}

#[test]
fn panic_only_grows() {
    let mut scaler = settled(7);
    assert_eq!(decided(&mut scaler, seen(1, 0, 7, 0), LIMITS, 120.0), None);
    scaler.note(70, at(120.0));
    assert_eq!(
        decided(&mut scaler, seen(1, 0, 10, 60), LIMITS, 126.0),
        Some((2, Input::Panic))
    );
    assert!(scaler.is_panicking(at(126.0)));
    // The load is gone at once; what was made stays as long as the panic.
    for second in 1..60 {
        assert_eq!(
            decided(
                &mut scaler,
                seen(10, 0, 0, 0),
                LIMITS,
                126.0 + f64::from(second)
            ),
            None,
            "{second}"
        );
    }
    assert!(!scaler.is_panicking(at(240.0)));
}

#[test]
fn one_at_a_time_needs_room_beside_it() {
    let limits = Limits {
        concurrency: 1,
        ..LIMITS
    };
    assert_eq!(need(1.0, limits), 2);
    assert_eq!(need(7.0, limits), 10);
    assert_eq!(need(0.0, limits), 0);
    assert_eq!(need(0.001, limits), 1);
}

// ---------------------------------------------------------------------------------------------------------------------

struct Chance(u64);

impl Chance {
    /// In [0, 1).
    fn next(&mut self) -> f64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// How many come in a step where `mean` do on average.
    fn arrivals(&mut self, mean: f64) -> u32 {
        let (limit, mut product, mut count) = ((-mean).exp(), self.next(), 0);
        while product > limit {
            product *= self.next();
            count += 1;
        }
        count
    }
}

/// What became of a trace.
#[derive(Debug, Default)]
struct Told {
    served: u64,
    longest_wait: f64,
    most: u32,
    /// The most that the offered load alone needed.
    needed: u32,
    /// The most instances beside the most that what was offered or waited needed while they may have been made.
    overshoot: f64,
    changes: u32,
    /// Growth that follows a shrinking within a window.
    flaps: u32,
    at_end: u32,
}

const STEP: f64 = 0.025;

/// Runs `rate(second)` arrivals a second, each of `service` seconds, against instances that take `start` seconds to come.
fn simulate(
    seconds: u32,
    service: f64,
    start: f64,
    limits: Limits,
    rate: impl Fn(f64) -> f64,
) -> Told {
    let (mut scaler, mut chance, mut told) = (Scaler::new(STABLE), Chance(11), Told::default());
    let (mut ready, mut starting, mut waiting): (u32, Vec<f64>, std::collections::VecDeque<f64>) =
        (0, Vec::new(), std::collections::VecDeque::new());
    let mut running: std::collections::VecDeque<f64> = std::collections::VecDeque::new();
    let (mut shrunk_at, mut second_most) = (None::<f64>, vec![0_u32; seconds as usize + 1]);
    for step in 0..(f64::from(seconds) / STEP) as u32 {
        let now = f64::from(step) * STEP;
        for _ in 0..chance.arrivals(rate(now) * STEP) {
            waiting.push_back(now);
        }
        let before = starting.len();
        starting.retain(|due| *due > now);
        ready += u32::try_from(before - starting.len()).expect("few");
        while running.front().is_some_and(|end| *end <= now) {
            running.pop_front();
            told.served += 1;
        }
        let slots = (ready * limits.concurrency) as usize;
        while running.len() < slots
            && let Some(since) = waiting.pop_front()
        {
            told.longest_wait = told.longest_wait.max(now - since);
            running.push_back(now + service);
        }
        let oldest = waiting.front().map_or(0.0, |since| now - since);
        let seen = Seen {
            oldest: at(oldest),
            ..self::seen(
                ready,
                u32::try_from(starting.len()).expect("few"),
                u32::try_from(running.len()).expect("few"),
                u32::try_from(waiting.len()).expect("few"),
            )
        };
        scaler.note(seen.in_flight + seen.waiting, at(now));
        // As the executor looks: with every beat, and at short notice while somebody waits.
        if let Some(decision) = (step % 80 == 0 || seen.waiting > 0)
            .then(|| scaler.decide(seen, limits, at(now)))
            .flatten()
        {
            let living = seen.ready + seen.starting;
            told.changes += 1;
            if decision.instances > living {
                starting.extend((living..decision.instances).map(|_| now + start));
                let turned = shrunk_at.take();
                told.flaps +=
                    u32::from(turned.is_some_and(|before| now - before < STABLE.as_secs_f64()));
            } else {
                shrunk_at = Some(now);
                // The least busy go: what runs in them ends in them.
                ready -= living - decision.instances;
            }
        }
        // What is offered, and what has piled up meanwhile.
        let offered = (rate(now) * service).max(f64::from(seen.in_flight + seen.waiting));
        let needed = need(offered, limits).max(limits.min).max(1);
        told.needed = told.needed.max(need(rate(now) * service, limits));
        let this = &mut second_most[now as usize];
        *this = (*this).max(needed);
        let from = (now as usize).saturating_sub(160);
        let window = second_most[from..=now as usize]
            .iter()
            .max()
            .copied()
            .unwrap_or(1);
        told.most = told.most.max(ready);
        told.overshoot = told.overshoot.max(f64::from(ready) / f64::from(window));
    }
    told.at_end = ready;
    told
}

/// Requests a second over twenty minutes as a busy API saw them: a base, a lunch, and three bursts of a client without manners.
const RECORDED: [f64; 40] = [
    4.0, 6.0, 5.0, 9.0, 12.0, 60.0, 11.0, 9.0, 14.0, 18.0, 22.0, 19.0, 25.0, 31.0, 28.0, 90.0,
    88.0, 30.0, 27.0, 24.0, 20.0, 22.0, 17.0, 15.0, 13.0, 0.0, 0.0, 11.0, 9.0, 75.0, 8.0, 7.0, 6.0,
    7.0, 5.0, 4.0, 3.0, 2.0, 1.0, 1.0,
];

#[test]
fn steady_load_is_left_alone() {
    for mean in [0.5, 5.0, 40.0] {
        let told = simulate(900, 0.5, 0.3, LIMITS, |_| mean);
        println!("steady {mean}/s: {told:?}");
        assert_eq!(told.flaps, 0, "{mean}/s: {told:?}");
        assert!(told.changes <= 8, "{mean}/s: {told:?}");
        assert!(
            told.overshoot <= 1.0 && told.longest_wait <= 1.0,
            "{mean}/s: {told:?}"
        );
    }
}

#[test]
fn a_step_up_and_down() {
    let told = simulate(900, 0.5, 0.3, LIMITS, |s| {
        if (200.0..400.0).contains(&s) {
            200.0
        } else {
            2.0
        }
    });
    println!("step: {told:?}");
    // Doubling makes at most so many more than the load by itself needs.
    assert!(told.most <= told.needed * 5 / 2, "{told:?}");
    assert!(told.most >= 14 && told.at_end <= 1, "{told:?}");
    assert!(told.overshoot <= 1.0 && told.flaps == 0, "{told:?}");
    // From one instance to fifteen in four doublings of 0.3 s.
    assert!(told.longest_wait < 2.5, "{told:?}");
}

#[test]
fn a_recorded_day() {
    let told = simulate(1200, 0.4, 0.3, LIMITS, |s| RECORDED[(s / 30.0) as usize]);
    println!("recorded: {told:?}");
    assert!(told.overshoot <= 1.0, "{told:?}");
    assert!(told.longest_wait < 2.0, "{told:?}");
    assert!(told.flaps <= 2, "{told:?}");
}

#[test]
fn random_loads() {
    let mut worst = Told::default();
    for seed in 0..40 {
        let mut chance = Chance(seed * 7919 + 1);
        let levels: Vec<f64> = (0..60)
            .map(|_| {
                if chance.next() < 0.15 {
                    300.0 * chance.next()
                } else {
                    30.0 * chance.next()
                }
            })
            .collect();
        let (service, start) = (0.05 + chance.next(), 0.05 + chance.next() * 1.5);
        let told = simulate(
            600,
            service,
            start,
            Limits {
                min: seed as u32 % 3,
                ..LIMITS
            },
            |s| levels[(s / 10.0) as usize],
        );
        worst.longest_wait = worst.longest_wait.max(told.longest_wait);
        worst.overshoot = worst.overshoot.max(told.overshoot);
        worst.flaps = worst.flaps.max(told.flaps);
        // Five doublings, each of one start and one look, and the queue that grew meanwhile.
        let within = 8.0 * (start + 0.1) + 2.0 * service;
        assert!(
            told.longest_wait <= within,
            "seed {seed}: waited {:.2} of {within:.2} s: {told:?}",
            told.longest_wait
        );
        assert!(told.overshoot <= 1.0, "seed {seed}: {told:?}");
        assert!(told.flaps <= 5, "seed {seed}: {told:?}");
    }
    println!(
        "random: the most overshoot {:.2}, the most flaps {} in 600 s",
        worst.overshoot, worst.flaps
    );
}

#[test]
fn short_work_in_bursts_starts_few() {
    // 100 at once of 2 ms each, ten times a second: one instance has them done before anybody is impatient.
    let told = simulate(300, 0.025, 0.3, LIMITS, |s| {
        if ((s * 10.0) as u64).is_multiple_of(10) {
            40.0
        } else {
            0.0
        }
    });
    assert!(told.most <= 2, "{told:?}");
}
