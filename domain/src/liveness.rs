//! Whether another process is there, by its heartbeats: one rule for everybody who judges.
//!
//! Silence says something only to an observer who could have heard: while the rows could not be written or read, nobody could
//! beat, and nobody must look dead when they are back. So nobody is lost before the observer itself has looked for as long as
//! the silence without interruption.

use crate::Timestamp;
use std::time::Duration;

/// Between two heartbeats, and between two looks of an observer.
pub const BEAT: Duration = Duration::from_secs(2);
/// Silent for longer: a beat was missed.
pub const LATE_AFTER: Duration = Duration::from_millis(3_500);
/// Three beats missed.
pub const LOST_AFTER: Duration = Duration::from_secs(6);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    Alive,
    /// Silent, and not for certain gone: nothing new goes there, and nothing is taken from it.
    Late,
    Lost,
}

/// For how long an observer has seen the rows without interruption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sight(Option<Span>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    since: Timestamp,
    last: Timestamp,
}

impl Sight {
    /// A look went well. One that comes too long after the one before, as of a process that was frozen, begins anew.
    pub fn saw(&mut self, at: Timestamp) {
        let since = match self.0 {
            Some(span) if at >= span.last && at.since(span.last) < LOST_AFTER => span.since,
            Some(_) | None => at,
        };
        self.0 = Some(Span { since, last: at });
    }

    /// A look failed: what is silent from now on may only be unheard.
    pub fn missed(&mut self) {
        self.0 = None;
    }

    /// For how long it has been looked without interruption.
    fn unbroken(self, now: Timestamp) -> Duration {
        match self.0 {
            Some(span) if now.since(span.last) < LOST_AFTER => now.since(span.since),
            Some(_) | None => Duration::ZERO,
        }
    }

    /// Whether it has looked for so long that what it has not heard is silent.
    pub fn is_sure(self, now: Timestamp) -> bool {
        self.unbroken(now) >= LOST_AFTER
    }

    /// How a process is doing that was last heard of at `heartbeat_at`.
    pub fn judge(self, heartbeat_at: Timestamp, now: Timestamp) -> Liveness {
        let silent = now.since(heartbeat_at);
        if silent >= LOST_AFTER && self.is_sure(now) {
            Liveness::Lost
        } else if silent >= LATE_AFTER {
            Liveness::Late
        } else {
            Liveness::Alive
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp(s * 1000)
    }

    /// Looks every beat over `[from, to]`.
    fn watching(sight: &mut Sight, from: i64, to: i64) {
        for s in (from..=to).step_by(2) {
            sight.saw(at(s));
        }
    }

    #[test]
    fn three_missed_beats_are_a_loss() {
        let mut sight = Sight::default();
        watching(&mut sight, 0, 20);
        for (heard, expected) in [
            (20, Liveness::Alive),
            (17, Liveness::Alive),
            (16, Liveness::Late),
            (15, Liveness::Late),
            (14, Liveness::Lost),
            (0, Liveness::Lost),
        ] {
            assert_eq!(
                sight.judge(at(heard), at(20)),
                expected,
                "heard at {heard} s"
            );
        }
    }

    #[test]
    fn who_has_just_begun_to_look_loses_nobody() {
        let mut sight = Sight::default();
        assert_eq!(sight.judge(at(0), at(100)), Liveness::Late);
        watching(&mut sight, 100, 104);
        assert_eq!(sight.judge(at(0), at(105)), Liveness::Late);
        sight.saw(at(106));
        assert_eq!(sight.judge(at(0), at(106)), Liveness::Lost);
    }

    #[test]
    fn an_outage_makes_nobody_dead() {
        let mut sight = Sight::default();
        watching(&mut sight, 0, 20);
        for _ in 0..15 {
            sight.missed();
        }
        assert_eq!(sight.judge(at(20), at(50)), Liveness::Late, "in the outage");
        watching(&mut sight, 50, 54);
        assert_eq!(sight.judge(at(20), at(54)), Liveness::Late, "just after it");
        watching(&mut sight, 56, 56);
        assert_eq!(
            sight.judge(at(20), at(56)),
            Liveness::Lost,
            "it did not come back"
        );
    }

    #[test]
    fn who_was_frozen_looks_anew() {
        let mut sight = Sight::default();
        watching(&mut sight, 0, 20);
        assert_eq!(sight.judge(at(20), at(50)), Liveness::Late, "no look since");
        sight.saw(at(50));
        assert_eq!(sight.judge(at(20), at(51)), Liveness::Late);
        // A clock that was set back proves nothing either.
        watching(&mut sight, 52, 60);
        sight.saw(at(40));
        assert_eq!(sight.judge(at(20), at(41)), Liveness::Late);
    }

    /// Whatever was looked at when: a loss means silence and an unbroken look of at least its length.
    #[test]
    fn a_loss_is_never_without_its_reasons() {
        let mut seed = 7_u64;
        let mut below = |most: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            i64::try_from((seed >> 33) % most).expect("small")
        };
        let (mut losses, mut sight, mut now, mut begun) = (0, Sight::default(), 0, None);
        for _ in 0..20_000 {
            let before = now;
            now += below(4_000);
            if below(12) == 0 {
                now += below(20_000);
            }
            if below(10) == 0 {
                sight.missed();
                begun = None;
                continue;
            }
            sight.saw(Timestamp(now));
            if begun.is_none() || now - before >= 6_000 {
                begun = Some(now);
            }
            let heard = now - below(12_000);
            let lost = sight.judge(Timestamp(heard), Timestamp(now)) == Liveness::Lost;
            let looked = now - begun.expect("set above");
            assert_eq!(lost, now - heard >= 6_000 && looked >= 6_000, "{looked}");
            losses += u32::from(lost);
        }
        assert!(losses > 100, "{losses} losses prove little");
    }
}
