use super::*;
use proptest::prelude::*;

const SECOND: i64 = 1_000_000;

fn rate(per_second: u32, burst: u32) -> Limits {
    Limits {
        rate: Some(Rate {
            per_1000_s: per_second * 1000,
            burst,
        }),
        ..Limits::default()
    }
}

fn asks(requests: u32, executions: u32) -> Amount {
    Amount {
        requests,
        executions,
    }
}

#[test]
fn a_bucket_gives_its_burst_and_then_its_rate() {
    let (limits, mut spent) = (rate(10, 20), Spent::default());
    let now = 1_000 * SECOND;
    let first = lease(&limits, &mut spent, now, Amount::NOTHING, asks(30, 0));
    assert_eq!((first.given.requests, first.requests_left), (20, 0));
    assert_eq!(first.next_request, Duration::from_millis(100));
    let none = lease(
        &limits,
        &mut spent,
        now + 99_999,
        Amount::NOTHING,
        asks(1, 0),
    );
    assert_eq!(
        (none.given.requests, none.next_request),
        (0, Duration::from_micros(1))
    );
    let one = lease(
        &limits,
        &mut spent,
        now + 100_000,
        Amount::NOTHING,
        asks(5, 0),
    );
    assert_eq!(one.given.requests, 1);
    // What goes back is there for others at once.
    let back = lease(&limits, &mut spent, now + 100_000, asks(7, 0), asks(9, 0));
    assert_eq!(back.given.requests, 7);
}

#[test]
fn a_clock_that_was_set_costs_one_bucket_at_most() {
    let (limits, mut spent) = (rate(10, 20), Spent::default());
    let now = 1_000_000 * SECOND;
    lease(&limits, &mut spent, now, Amount::NOTHING, asks(20, 0));
    let back = now - 3600 * SECOND;
    let none = lease(&limits, &mut spent, back, Amount::NOTHING, asks(1, 0));
    assert_eq!(
        (none.given.requests, none.next_request),
        (0, Duration::from_millis(100))
    );
    let soon = lease(
        &limits,
        &mut spent,
        back + SECOND,
        Amount::NOTHING,
        asks(99, 0),
    );
    assert_eq!(soon.given.requests, 10, "it is refilled from then on");
    let far = lease(&limits, &mut spent, now * 2, Amount::NOTHING, asks(99, 0));
    assert_eq!(far.given.requests, 20, "a year brings no more than a burst");
}

#[test]
fn quotas_are_of_the_day_and_the_month() {
    let limits = Limits {
        executions_per_day: Some(10),
        executions_per_month: Some(25),
        ..Limits::default()
    };
    let at = |text: &str| crate::Timestamp::parse(text).expect("a time").0 * 1000;
    let mut spent = Spent::default();
    let mut take = |when: &str, back: u32, want: u32| {
        lease(&limits, &mut spent, at(when), asks(0, back), asks(0, want))
    };
    let first = take("2028-02-28T23:00:00Z", 0, 15);
    assert_eq!(
        (first.given.executions, first.day_left, first.month_left),
        (10, 0, 15)
    );
    assert_eq!(first.day_ends, Duration::from_secs(3600));
    assert_eq!(
        (first.month_days, first.month_ends),
        (29, Duration::from_secs(25 * 3600))
    );
    assert_eq!(take("2028-02-28T23:59:59Z", 0, 1).given.executions, 0);
    assert_eq!(
        take("2028-02-28T23:59:59Z", 2, 5).given.executions,
        2,
        "two came back"
    );
    assert_eq!(take("2028-02-29T00:00:00Z", 0, 10).given.executions, 10);
    // A clock that was set back opens no day again.
    assert_eq!(take("2028-02-28T12:00:00Z", 0, 10).given.executions, 0);
    assert_eq!(take("2028-03-01T00:00:00Z", 0, 10).given.executions, 10);
    assert_eq!(take("2028-03-02T00:00:00Z", 0, 99).given.executions, 10);
    let third = take("2028-03-03T00:00:00Z", 0, 99);
    assert_eq!(
        (third.given.executions, third.month_left),
        (5, 0),
        "the month's"
    );
}

#[test]
fn months_are_those_of_the_calendar() {
    for day in -200_000..200_000_i64 {
        let at = jiff::Timestamp::from_second(day * DAY_S + 7).expect("a time");
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        let first = date.first_of_month().to_zoned(jiff::tz::TimeZone::UTC);
        let (index, begins, ends) = month(day * DAY_S + 7);
        assert_eq!(
            index,
            i64::from(date.year()) * 12 + i64::from(date.month()) - 1
        );
        assert_eq!(begins, first.expect("a time").timestamp().as_second());
        assert_eq!(
            (ends - begins) / DAY_S,
            i64::from(date.days_in_month()),
            "{date}"
        );
    }
}

#[test]
fn nobody_hands_on_more_than_he_has() {
    let own = Limits {
        executions_per_day: Some(10),
        ..rate(10, 20)
    };
    assert!(own.is_within(&own) && own.is_within(&Limits::default()));
    assert!(!Limits::default().is_within(&own));
    assert!(!Limits { rate: None, ..own }.is_within(&own));
    assert!(
        !Limits {
            executions_per_day: Some(11),
            ..own
        }
        .is_within(&own)
    );
    assert!(
        Limits {
            executions_per_month: Some(1),
            ..own
        }
        .is_within(&own)
    );
}

/// Gateways over one row, each with its own monotonic time.
struct Cluster {
    limits: Limits,
    spent: Spent,
    gateways: Vec<Purse>,
    now: Duration,
    /// What the database's clock is apart from ours.
    jump_us: i64,
    granted: Vec<Duration>,
}

impl Cluster {
    fn new(limits: Limits, gateways: usize) -> Self {
        Self {
            limits,
            spent: Spent::default(),
            gateways: (0..gateways).map(|_| Purse::default()).collect(),
            now: Duration::ZERO,
            jump_us: 0,
            granted: Vec::new(),
        }
    }

    fn now_us(&self) -> i64 {
        1_000_000 * SECOND + i64::try_from(self.now.as_micros()).expect("small") + self.jump_us
    }

    /// One request at one gateway.
    fn ask(&mut self, gateway: usize) -> bool {
        loop {
            let (now, now_us) = (self.now, self.now_us());
            let purse = &mut self.gateways[gateway];
            match purse.take(&self.limits, Cost::BOTH, now) {
                Take::Granted { low } => {
                    self.granted.push(now);
                    if low {
                        let (back, want) = purse.question(Cost::BOTH, 0, now);
                        let lease = lease(&self.limits, &mut self.spent, now_us, back, want);
                        purse.fill(Cost::BOTH, lease, now);
                    }
                    return true;
                }
                Take::Refused(refused) => {
                    assert!(refused.wait > Duration::ZERO);
                    return false;
                }
                Take::Ask => {
                    let (back, want) = purse.question(Cost::BOTH, 1, now);
                    let lease = lease(&self.limits, &mut self.spent, now_us, back, want);
                    purse.fill(Cost::BOTH, lease, now);
                }
            }
        }
    }

    fn sweep(&mut self) {
        let (now, now_us) = (self.now, self.now_us());
        for purse in &mut self.gateways {
            let back = purse.expired(now);
            lease(&self.limits, &mut self.spent, now_us, back, Amount::NOTHING);
        }
    }

    /// The most that was granted within any such time.
    fn most_within(&self, window: Duration) -> usize {
        let ends = self.granted.iter().enumerate();
        ends.map(|(at, end)| {
            let before = self.granted[..at].iter().rev();
            before.take_while(|one| **one + window > *end).count() + 1
        })
        .max()
        .unwrap_or(0)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Ask(usize, u8),
    Wait(u16),
    Crash(usize),
    Jump(i32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..4_usize, 1..30_u8).prop_map(|(gateway, times)| Step::Ask(gateway, times)),
        4 => (0..2000_u16).prop_map(Step::Wait),
        1 => (0..4_usize).prop_map(Step::Crash),
    ];
    prop::collection::vec(step, 1..150)
}

fn run(cluster: &mut Cluster, steps: &[Step]) {
    for step in steps {
        match *step {
            Step::Ask(gateway, times) => {
                for _ in 0..times {
                    cluster.ask(gateway);
                }
            }
            Step::Wait(ms) => {
                for _ in 0..=ms / 500 {
                    cluster.now += Duration::from_millis(u64::from(ms.min(500)));
                    cluster.sweep();
                }
            }
            Step::Crash(gateway) => cluster.gateways[gateway] = Purse::default(),
            Step::Jump(ms) => cluster.jump_us += i64::from(ms) * 1000,
        }
    }
}

proptest! {
    /// Whatever happens, no more than the bucket and the quota hold.
    #[test]
    fn together_they_never_hand_out_more(steps in steps(), per_second in 1..50_u32, burst in 1..100_u32, day in 1..500_u64) {
        let burst = burst.max(per_second.div_ceil(10));
        let limits = Limits { executions_per_day: Some(day), ..rate(per_second, burst) };
        let mut cluster = Cluster::new(limits, 4);
        run(&mut cluster, &steps);
        prop_assert!(cluster.granted.len() as u64 <= day);
        for seconds in [1_u64, 3, 10] {
            let most = cluster.most_within(Duration::from_secs(seconds));
            let allowed = u64::from(per_second) * (seconds + 2 * HELD.as_secs()) + u64::from(burst);
            prop_assert!(most as u64 <= allowed, "{most} in {seconds} s of {allowed}");
        }
    }

    /// A database's clock that is set to and fro brings at most a full bucket each time, and nobody waits for long.
    #[test]
    fn jumps_of_the_clock_are_survived(jumps in prop::collection::vec(-10_000_000..10_000_000_i32, 1..20)) {
        let mut cluster = Cluster::new(rate(10, 20), 2);
        for jump in jumps {
            run(&mut cluster, &[Step::Jump(jump), Step::Ask(0, 40)]);
            cluster.now += Duration::from_secs(3);
            cluster.sweep();
            prop_assert!(cluster.ask(1), "nothing three seconds after a jump");
        }
    }
}

#[test]
fn what_is_there_is_handed_out() {
    // 8 requests a second at four gateways in turn, of 10 that are allowed: nobody is refused for long.
    let mut cluster = Cluster::new(rate(10, 20), 4);
    let mut refused = 0;
    for n in 0..800 {
        refused += usize::from(!cluster.ask(n % 4));
        cluster.now += Duration::from_millis(125);
        if n % 4 == 0 {
            cluster.sweep();
        }
    }
    assert!(refused < 40, "{refused} of 800 were refused");
    // And 30 a second get the 10.
    let mut cluster = Cluster::new(rate(10, 20), 4);
    for n in 0..3000 {
        cluster.ask(n % 4);
        cluster.now += Duration::from_micros(33_333);
        if n % 15 == 0 {
            cluster.sweep();
        }
    }
    let granted = cluster.granted.len();
    assert!((950..=1040).contains(&granted), "{granted} of about 1000");
}

#[test]
fn the_whole_quota_is_handed_out_and_told() {
    let limits = Limits {
        executions_per_day: Some(1000),
        ..Limits::default()
    };
    let mut cluster = Cluster::new(limits, 3);
    for n in 0..3000 {
        cluster.ask(n % 3);
        cluster.now += Duration::from_millis(2);
        if n % 250 == 0 {
            cluster.sweep();
        }
    }
    for _ in 0..5 {
        cluster.now += Duration::from_secs(1);
        cluster.sweep();
        cluster.ask(0);
    }
    assert_eq!(cluster.granted.len(), 1000);
    let standing = cluster.gateways[0].standings(cluster.now)[0];
    assert_eq!(
        (standing.window, standing.quota, standing.remaining),
        (Window::Day, 1000, 0)
    );
    assert_eq!(standing.length, Duration::from_secs(24 * 3600));
}

#[test]
fn what_was_not_needed_is_there_again() {
    let mut cluster = Cluster::new(rate(1, 1), 1);
    assert!(cluster.ask(0) && !cluster.ask(0));
    cluster.gateways[0].put_back(Cost::BOTH);
    assert!(cluster.ask(0) && !cluster.ask(0));
    // Other limits count at once.
    cluster.limits = rate(1, 5);
    assert!(cluster.ask(0));
}
