use super::*;
use crate::id::VersionId;

const MINUTE: i64 = 60_000;

fn rollout(strategy: Strategy, capacity: u32) -> Rollout {
    Rollout {
        baseline: Some(Route {
            version_id: VersionId::from_uuid(uuid::Uuid::from_u128(1)),
            version: semver::Version::new(1, 0, 0),
            weight: ALL,
        }),
        capacity,
        ..Rollout::of(Plan {
            strategy,
            auto_rollback: true,
            watched: true,
            ..Plan::default()
        })
    }
}

fn seen<'a>(rollout: &'a Rollout, stage: Stage, orders: &'a Orders) -> Seen<'a> {
    Seen {
        rollout,
        stage,
        since: Timestamp(0),
        weight: 0,
        ready: 0,
        orders,
        verdict: None,
        breach: None,
        newer: false,
        watch: Duration::from_secs(60),
    }
}

#[test]
fn rolling_never_moves_callers_before_there_is_room_for_them() {
    for capacity in 1..30 {
        let (rollout, orders) = (rollout(Strategy::Rolling, capacity), Orders::default());
        let mut now = seen(&rollout, Stage::Shift, &orders);
        let mut steps = 0;
        loop {
            match decide(&now, Timestamp(0)) {
                Step::Grow(ready) => {
                    assert!(ready > now.ready);
                    now.ready = ready;
                }
                Step::Route(weight) => {
                    // What the old version gives up, the new one has already.
                    assert!(now.ready * ALL >= capacity * weight);
                    assert!(weight > now.weight);
                    (now.weight, steps) = (weight, steps + 1);
                }
                Step::Done(_) => break,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((now.weight, steps), (ALL, capacity.min(MOST_STEPS)));
        assert_eq!(now.ready, capacity);
    }
}

#[test]
fn blue_green_switches_once_with_the_whole_set() {
    let (rollout, orders) = (rollout(Strategy::BlueGreen, 7), Orders::default());
    let mut now = seen(&rollout, Stage::Shift, &orders);
    assert_eq!(decide(&now, Timestamp(0)), Step::Grow(7));
    now.ready = 7;
    assert_eq!(decide(&now, Timestamp(0)), Step::Route(ALL));
}

#[test]
fn a_canary_waits_for_its_time_and_for_its_verdict() {
    let (rollout, orders) = (rollout(Strategy::Canary, 1), Orders::default());
    let mut now = seen(&rollout, Stage::Canary, &orders);
    assert_eq!(decide(&now, Timestamp(0)), Step::Route(100));
    now.weight = 100;
    let pass = Verdict::new(Outcome::Pass, "as good");
    let lack = Verdict::new(Outcome::NotEnoughData, "too few");
    let fail = Verdict::new(Outcome::Fail, "worse");
    let at = |now: &Seen<'_>, minutes: i64| decide(now, Timestamp(minutes * MINUTE));
    now.verdict = Some(&pass);
    assert!(matches!(at(&now, 9), Step::Wait(_)));
    assert_eq!(at(&now, 10), Step::Done("as good".into()));
    now.verdict = Some(&lack);
    assert_eq!(at(&now, 100_000), Step::Wait("too few".into()), "it holds");
    now.verdict = Some(&fail);
    assert_eq!(at(&now, 1), Step::RollBack("worse".into()));
}

#[test]
fn monitor_away_is_tried_again_and_then_pauses_until_somebody_says() {
    let mut rollout = rollout(Strategy::Canary, 1);
    let error = Verdict::new(Outcome::MeasurementError, "monitor does not answer");
    let none = Orders::default();
    for _ in 1..MOST_ERRORS {
        rollout.note(&error, Timestamp(0));
        let now = Seen {
            weight: 100,
            verdict: Some(&error),
            ..seen(&rollout, Stage::Canary, &none)
        };
        assert!(matches!(decide(&now, Timestamp(0)), Step::Wait(_)));
    }
    rollout.note(&error, Timestamp(0));
    let decided = |rollout: &Rollout, orders: &Orders| {
        let now = Seen {
            weight: 100,
            verdict: Some(&error),
            ..seen(rollout, Stage::Canary, orders)
        };
        decide(&now, Timestamp(100 * MINUTE))
    };
    let Step::Pause(reason) = decided(&rollout, &none) else {
        panic!("it goes on");
    };
    rollout.held = Some(Held {
        since: Timestamp(5),
        reason: reason.clone(),
    });
    assert_eq!(decided(&rollout, &none), Step::Wait(reason));
    rollout.errors = 0;
    let resumed = Orders::of([(Order::Resume, "key", Timestamp(6))]);
    assert!(matches!(decided(&rollout, &resumed), Step::Wait(why) if why.contains("monitor")));
    let promoted = Orders::of([(Order::Promote, "key", Timestamp(6))]);
    assert_eq!(decided(&rollout, &promoted), Step::Done("promoted".into()));
    assert_eq!(rollout.verdicts.len(), 1, "the same again is one line");
}

#[test]
fn pauses_stop_the_clock() {
    let orders = Orders::of([
        (Order::Pause, "key", Timestamp(MINUTE)),
        (Order::Pause, "key", Timestamp(2 * MINUTE)),
        (Order::Resume, "key", Timestamp(3 * MINUTE)),
        (Order::Pause, "key", Timestamp(5 * MINUTE)),
    ]);
    let active = |now: i64| {
        orders
            .active(Timestamp(0), Timestamp(now * MINUTE))
            .as_secs()
            / 60
    };
    assert_eq!((active(5), active(50)), (3, 3));
    let (rollout, pass) = (
        rollout(Strategy::Canary, 1),
        Verdict::new(Outcome::Pass, "as good"),
    );
    let now = Seen {
        weight: 100,
        verdict: Some(&pass),
        ..seen(&rollout, Stage::Canary, &orders)
    };
    assert_eq!(
        decide(&now, Timestamp(500 * MINUTE)),
        Step::Wait("paused by key".into())
    );
}

#[test]
fn triggers_act_in_every_stage_and_ask_where_they_may_not() {
    let mut rollout = rollout(Strategy::Canary, 1);
    let orders = Orders::default();
    for stage in Stage::ALL {
        let now = Seen {
            weight: ALL,
            breach: Some("all fail"),
            ..seen(&rollout, *stage, &orders)
        };
        assert_eq!(
            decide(&now, Timestamp(0)),
            Step::RollBack("all fail".into())
        );
    }
    rollout.plan.auto_rollback = false;
    let now = Seen {
        breach: Some("all fail"),
        ..seen(&rollout, Stage::Watch, &orders)
    };
    assert!(matches!(decide(&now, Timestamp(0)), Step::Pause(_)));
}

#[test]
fn the_watch_ends_by_time_by_promotion_and_by_a_newer_deployment() {
    let (rollout, none) = (rollout(Strategy::BlueGreen, 1), Orders::default());
    let promoted = Orders::of([(Order::Promote, "key", Timestamp(1))]);
    let now = seen(&rollout, Stage::Watch, &none);
    assert!(matches!(decide(&now, Timestamp(59_000)), Step::Wait(_)));
    assert!(matches!(decide(&now, Timestamp(60_000)), Step::Done(_)));
    let newer = Seen {
        newer: true,
        ..now.clone()
    };
    assert!(matches!(decide(&newer, Timestamp(1)), Step::Done(_)));
    let now = seen(&rollout, Stage::Watch, &promoted);
    assert!(matches!(decide(&now, Timestamp(1)), Step::Done(_)));
}

#[test]
fn a_first_version_has_nothing_to_wait_for() {
    let (rollout, orders) = (
        Rollout::of(Plan {
            strategy: Strategy::Canary,
            ..Plan::default()
        }),
        Orders::default(),
    );
    let of = |stage| decide(&seen(&rollout, stage, &orders), Timestamp(0));
    assert!(matches!(of(Stage::Canary), Step::Done(_)));
    assert_eq!(of(Stage::Shift), Step::Route(ALL));
    assert!(matches!(of(Stage::Watch), Step::Done(_)));
}
