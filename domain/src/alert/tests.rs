use super::*;

const FIGURES: Figures = Figures {
    value: 0.5,
    threshold: 0.01,
    samples: 100,
    since: Timestamp(0),
};
const STEADY: Duration = Duration::from_secs(86_400);

fn at(minute: i64) -> Timestamp {
    Timestamp(minute * 60_000)
}

fn verdict(word: char) -> Verdict {
    match word {
        'b' => Verdict::Bad(FIGURES),
        'p' => Verdict::Pending(FIGURES),
        'g' => Verdict::Good,
        _ => Verdict::Unknown,
    }
}

/// One verdict a minute, from minute 1: the alert at the end, and what was told.
fn run(
    verdicts: &str,
    mut look: impl FnMut(i64, &mut Option<Alert>),
) -> (Option<Alert>, Vec<String>) {
    let (policy, mut alert, mut told) = (Policy::default(), None, Vec::new());
    for (word, minute) in verdicts.chars().zip(1..) {
        look(minute, &mut alert);
        let seen = Seen {
            alert,
            verdict: verdict(word),
            policy: &policy,
            watched: true,
            steady: STEADY,
        };
        match decide(&seen, at(minute)) {
            Step::Nothing => {}
            Step::Open(next) => {
                told.push(format!("{minute} opened"));
                alert = Some(next);
            }
            Step::Change(next) => alert = Some(next),
            Step::Escalate(next) => {
                told.push(format!("{minute} level {}", next.level));
                alert = Some(next);
            }
            Step::Resolve(next) => {
                told.push(format!("{minute} resolved"));
                alert = Some(next);
            }
        }
    }
    (alert, told)
}

fn told(verdicts: &str) -> Vec<String> {
    run(verdicts, |_, _| {}).1
}

#[test]
fn a_life() {
    let none: [&str; 0] = [];
    assert_eq!(told("gp?ppg"), none, "not long enough");
    assert_eq!(told("b"), ["1 opened"]);
    assert_eq!(
        told(&"b".repeat(60)),
        ["1 opened", "6 level 1", "16 level 2", "31 level 3"]
    );
    assert_eq!(told("bbggggggg"), ["1 opened", "8 resolved"]);
    // It flaps: one alert, never over, and nobody is told anew.
    let flapping = told(&"bgg".repeat(30));
    assert!(
        flapping.len() <= 4 && flapping.iter().all(|word| !word.ends_with("resolved")),
        "{flapping:?}"
    );
    assert_eq!(
        flapping
            .iter()
            .filter(|word| word.ends_with("opened"))
            .count(),
        1
    );
    // Back within ten minutes: the same alert. Later: another one.
    let (alert, words) = run("bgggggggb", |_, _| {});
    assert_eq!(
        (words, alert.map(|alert| alert.returns)),
        (
            vec!["1 opened".to_owned(), "7 resolved".to_owned()],
            Some(1)
        )
    );
    assert_eq!(
        told("bgggggggggggggggggb"),
        ["1 opened", "7 resolved", "19 opened"]
    );
    // Nothing runs: an hour later nobody is harmed.
    let words = told(&format!("b{}", "?".repeat(70)));
    assert_eq!(
        words.last().map(String::as_str),
        Some("61 resolved"),
        "{words:?}"
    );
}

#[test]
fn who_answers_ends_the_escalation() {
    let (alert, words) = run(&"b".repeat(60), |minute, alert| {
        if minute == 10
            && let Some(alert) = alert
        {
            alert.acknowledged_at = Some(at(10));
        }
    });
    assert_eq!(words, ["1 opened", "6 level 1"]);
    assert_eq!(
        alert.map(|alert| alert.status()),
        Some(Status::Acknowledged)
    );
}

#[test]
fn after_a_long_absence_levels_come_one_by_one() {
    let policy = Policy::default();
    let mut alert = Alert::opened(FIGURES, at(0));
    let mut told = Vec::new();
    for second in 0..300 {
        let seen = Seen {
            alert: Some(alert),
            verdict: Verdict::Bad(FIGURES),
            policy: &policy,
            watched: true,
            steady: Duration::from_secs(second),
        };
        let now = at(600) + Duration::from_secs(second);
        match decide(&seen, now) {
            Step::Escalate(next) => {
                told.push((second, next.level));
                alert = next;
            }
            Step::Change(next) => alert = next,
            other => assert_eq!(other, Step::Nothing),
        }
    }
    assert_eq!(told, [(0, 1), (60, 2), (120, 3)]);
}

#[test]
fn a_clock_that_jumps_ends_nothing_too_early() {
    let policy = Policy::default();
    let alert = Alert {
        good_since: Some(at(100)),
        ..Alert::opened(FIGURES, at(100))
    };
    let step = |now, steady| {
        let seen = Seen {
            alert: Some(alert),
            verdict: Verdict::Good,
            policy: &policy,
            watched: true,
            steady: Duration::from_secs(steady),
        };
        decide(&seen, now)
    };
    let anew = Step::Change(Alert {
        good_since: Some(at(1)),
        ..alert
    });
    assert_eq!(step(at(1), 9999), anew, "set back");
    assert_eq!(step(at(5000), 299), Step::Nothing, "set forward");
    assert!(matches!(step(at(5000), 300), Step::Resolve(_)));
}

#[test]
fn what_is_not_watched_any_longer_is_over() {
    let policy = Policy::default();
    let mut seen = Seen {
        alert: Some(Alert::opened(FIGURES, at(1))),
        verdict: Verdict::Bad(FIGURES),
        policy: &policy,
        watched: false,
        steady: STEADY,
    };
    assert!(matches!(decide(&seen, at(2)), Step::Resolve(_)));
    seen.alert = None;
    assert_eq!(decide(&seen, at(2)), Step::Nothing);
}

fn minute(start: i64, completed: u64, failed: u64, ms: f64) -> Minute {
    let mut cell = Cell {
        completed,
        failed,
        first_at: Some(at(start).0),
        ..Cell::default()
    };
    for _ in 0..completed + failed {
        cell.durations.add(ms);
        cell.duration.count += 1;
    }
    Minute {
        cell,
        memory: Some(0.5),
    }
}

fn word(rule: Rule, window: &[Minute], now: i64) -> char {
    let window: Vec<&Minute> = window.iter().collect();
    match judge(rule, Policy::default().limit(rule), &window, at(now)) {
        Verdict::Bad(_) => 'b',
        Verdict::Pending(_) => 'p',
        Verdict::Good => 'g',
        Verdict::Unknown => '?',
    }
}

#[test]
fn bad_for_long_enough() {
    let series = |all: &[(u64, u64)]| -> Vec<Minute> {
        all.iter()
            .zip(1..)
            .map(|((good, bad), at)| minute(at, *good, *bad, 1.0))
            .collect()
    };
    let bad = [(90, 10); 5];
    for (window, now, expected) in [
        (series(&[]), 6, '?'),
        (series(&[(99, 1)]), 6, 'g'),
        (series(&bad), 6, 'b'),
        (series(&bad), 5, 'p'),
        // A good minute in between: it begins anew.
        (
            series(&[(90, 10), (90, 10), (100, 0), (90, 10), (90, 10)]),
            6,
            'p',
        ),
        (
            series(&[(90, 10), (90, 10), (90, 10), (90, 10), (90, 10), (100, 0)]),
            7,
            'g',
        ),
        // A few a minute: looks are as long as they need to be.
        (series(&[(1, 1), (1, 1), (1, 1), (1, 1), (1, 1)]), 6, 'b'),
        (series(&[(2, 0), (2, 0), (2, 0), (2, 0), (2, 0)]), 6, 'g'),
        (series(&[(0, 1), (0, 1)]), 6, '?'),
    ] {
        assert_eq!(word(Rule::ErrorRate, &window, now), expected, "{window:?}");
    }
    let judged = judge(
        Rule::ErrorRate,
        Policy::default().error_rate,
        &series(&bad).iter().collect::<Vec<_>>(),
        at(6),
    );
    let expected = Figures {
        value: 0.1,
        threshold: 0.01,
        samples: 500,
        since: at(1),
    };
    assert_eq!(judged, Verdict::Bad(expected));
}

#[test]
fn the_other_rules() {
    let slow = |ms| {
        vec![
            minute(1, 100, 0, ms),
            minute(2, 100, 0, ms),
            minute(3, 100, 0, ms),
        ]
    };
    assert_eq!(word(Rule::Latency, &slow(2500.0), 4), 'b');
    assert_eq!(word(Rule::Latency, &slow(2500.0), 3), 'p');
    assert_eq!(word(Rule::Latency, &slow(1500.0), 4), 'g');
    let up = |down: i64| -> Vec<Minute> {
        (1..=60)
            .map(|at| minute(at, u64::from(at > down), 1, 1.0))
            .collect()
    };
    assert_eq!(word(Rule::Availability, &up(0), 61), 'g');
    assert_eq!(word(Rule::Availability, &up(1), 61), 'b');
    assert_eq!(word(Rule::Availability, &up(0)[..3], 61), '?');
    let mut full = slow(1.0);
    assert_eq!(word(Rule::Resource, &full, 4), 'g');
    full.iter_mut().for_each(|minute| minute.memory = Some(0.9));
    assert_eq!(word(Rule::Resource, &full, 4), 'b');
    full.iter_mut().for_each(|minute| minute.memory = None);
    assert_eq!(word(Rule::Resource, &full, 4), '?');
}

#[test]
fn the_window_begins_with_a_whole_minute() {
    let mut limit = Policy::default().error_rate;
    for (minutes, second, first) in [(5.0, 0, 94), (5.0, 59, 94), (30.0, 59, 69), (0.0, 5, 94)] {
        limit.for_minutes = minutes;
        let now = at(100) + Duration::from_secs(second);
        assert_eq!(window(limit, now), at(first), "{minutes} {second}");
    }
}

#[test]
fn what_was_missed_is_judged_by_its_minutes() {
    let (away, now) = (at(100), Timestamp(at(105).0 + 7));
    let of = |judged, first| missed(judged, first, now);
    assert_eq!(
        of(away, at(0)),
        [at(101), at(102), at(103), at(104), at(105)]
    );
    // Nothing ended before: nothing is judged before.
    assert_eq!(of(away, Timestamp(at(103).0 + 1)), [at(104), at(105)]);
    assert_eq!(of(Timestamp(now.0 - 29_999), at(0)).len(), 0);
    assert_eq!(of(Timestamp(now.0 + 60_000), at(0)).len(), 0);
    // Of a week, the last six hours.
    let week = missed(at(0), at(0), at(7 * 24 * 60));
    assert_eq!(
        (week.len(), week.first()),
        (360, Some(&at(7 * 24 * 60 - 359)))
    );
}

/// One verdict a minute. Nobody looks in `away`; then its minutes are judged as missed, and from then on everything as ever.
fn with_a_gap(verdicts: &str, away: std::ops::Range<i64>) -> Vec<(Alert, Vec<String>)> {
    let policy = Policy::default();
    let silent = policy.missed();
    let mut alerts: Vec<(Alert, Vec<String>)> = Vec::new();
    for (word, minute) in verdicts.chars().zip(1..) {
        let is_missed = away.contains(&minute);
        let seen = Seen {
            alert: alerts.last().map(|(alert, _)| *alert),
            verdict: verdict(word),
            policy: if is_missed { &silent } else { &policy },
            watched: true,
            steady: STEADY,
        };
        // Who is back goes on from when it is.
        let step = decide(&seen, at(minute));
        match step {
            Step::Nothing => {}
            Step::Open(next) => alerts.push((next, Vec::new())),
            Step::Change(next) | Step::Escalate(next) | Step::Resolve(next) => {
                let (alert, told) = alerts.last_mut().expect("there is one");
                *alert = next;
                match step {
                    Step::Escalate(_) => told.push(format!("{minute} level {}", next.level)),
                    Step::Resolve(_) if next.level > 0 => told.push(format!("{minute} resolved")),
                    _ => {}
                }
            }
        }
    }
    alerts
}

#[test]
fn a_monitor_that_was_away_finds_what_came_and_went() {
    let cases = [
        // Began and ended meanwhile.
        ("gggbbbbbbgggggggggg", 4..17),
        // Began before, ended meanwhile.
        ("gbbbbbbbbbgggggggggggg", 9..20),
        // Began meanwhile, goes on for long.
        (
            "gggbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
            2..45,
        ),
        // Twice, far apart.
        ("gbbggggggggggggggggggggggbbggggggggg", 2..35),
    ];
    for (verdicts, away) in cases.clone() {
        let (seen, missed) = (
            with_a_gap(verdicts, 0..0),
            with_a_gap(verdicts, away.clone()),
        );
        let times = |all: &[(Alert, Vec<String>)]| -> Vec<_> {
            all.iter()
                .map(|(one, _)| (one.opened_at, one.resolved_at, one.returns))
                .collect()
        };
        assert_eq!(times(&seen), times(&missed), "{verdicts}");
        for (alert, told) in &missed {
            let over_before = alert.resolved_at.is_some_and(|end| end < at(away.end));
            let late: Vec<&String> = told.iter().filter(|word| word.contains("level")).collect();
            if over_before && alert.opened_at >= at(away.start) {
                assert!(
                    late.is_empty(),
                    "{verdicts}: nobody is told of what is over: {told:?}"
                );
            }
        }
    }
    // No storm: what is due is told one level a minute.
    let (_, told) = with_a_gap(cases[2].0, cases[2].1.clone()).remove(0);
    assert_eq!(told, ["45 level 1", "46 level 2", "47 level 3"]);
}
