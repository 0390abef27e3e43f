//! Where an execution's time went: eight phases that follow each other, from its acceptance until its end is written.
//!
//! In: what gateway and executor measured, each by its own clock. Out: phases that are never negative and add up to the whole,
//! whatever the clocks said: what is known best is believed first, and the rest is what is left.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The gateway's part, as it travels with the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// From acceptance until the command was handed to the bus.
    pub gateway: Duration,
    /// When that was, in microseconds since the Unix epoch.
    pub at_us: i64,
}

/// What of a wait an instance took to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Start {
    pub spawn: Duration,
    pub import: Duration,
    pub init: Duration,
}

/// What was measured before the handler began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Before {
    pub gateway: Duration,
    /// From acceptance to the handler's start; believed where it is not less than what was measured of it.
    pub all: Duration,
    /// From when a seat was asked for until the handler began.
    pub waited: Duration,
    /// The part of `waited` in which the instance that was given started.
    pub start: Start,
    /// It lay in a lane, or was tried before: what came before `waited` was a wait as well, not a way.
    pub lay: bool,
}

/// In the row and on the wire: microseconds in the order of the fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "[u64; 8]", into = "[u64; 8]")]
pub struct Waterfall {
    pub gateway: Duration,
    pub queue: Duration,
    pub placement: Duration,
    pub spawn: Duration,
    pub import: Duration,
    pub init: Duration,
    pub handler: Duration,
    pub record: Duration,
}

impl Waterfall {
    /// Up to the handler's start.
    pub fn of(before: &Before) -> Self {
        let start = before.start;
        let mut left = before.waited;
        let mut part = |wanted: Duration| {
            let taken = wanted.min(left);
            left -= taken;
            taken
        };
        let (spawn, import, init) = (part(start.spawn), part(start.import), part(start.init));
        let known = before.gateway + before.waited;
        let between = before.all.saturating_sub(known);
        let (queue, placement) = if before.lay {
            (left + between, Duration::ZERO)
        } else {
            (left, between)
        };
        Self {
            gateway: before.gateway,
            queue,
            placement,
            spawn,
            import,
            init,
            ..Self::default()
        }
    }

    /// Where nobody measured more than that.
    pub fn coarse(queue: Duration, handler: Duration) -> Self {
        Self {
            queue,
            handler,
            ..Self::default()
        }
    }

    /// As rows keep it: what is answered and what is read later are the same.
    pub fn whole_micros(self) -> Self {
        <[u64; 8]>::from(self).into()
    }

    /// How the instance started that this waited for from its beginning. What is forked imports nothing, and whatever is spawned imports
    /// at least itself.
    pub fn start(&self) -> Option<How> {
        match (self.spawn.is_zero(), self.import.is_zero()) {
            (_, false) => Some(How::Spawned),
            (false, true) => Some(How::Forked),
            (true, true) => None,
        }
    }

    /// Everything before the handler.
    pub fn queue_time(&self) -> Duration {
        self.gateway + self.queue + self.placement + self.spawn + self.import + self.init
    }

    pub fn total(&self) -> Duration {
        self.queue_time() + self.handler + self.record
    }

    pub fn phases(&self) -> [Duration; 8] {
        [
            self.gateway,
            self.queue,
            self.placement,
            self.spawn,
            self.import,
            self.init,
            self.handler,
            self.record,
        ]
    }
}

crate::words! {
    /// How an instance came to be.
    pub enum How {
        Forked = "forked",
        Spawned = "spawned",
    }
}

impl From<Waterfall> for [u64; 8] {
    fn from(waterfall: Waterfall) -> Self {
        waterfall
            .phases()
            .map(|phase| u64::try_from(phase.as_micros()).unwrap_or(u64::MAX))
    }
}

impl From<[u64; 8]> for Waterfall {
    fn from(phases: [u64; 8]) -> Self {
        let [
            gateway,
            queue,
            placement,
            spawn,
            import,
            init,
            handler,
            record,
        ] = phases.map(Duration::from_micros);
        Self {
            gateway,
            queue,
            placement,
            spawn,
            import,
            init,
            handler,
            record,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span() -> impl Strategy<Value = Duration> {
        prop_oneof![Just(0), 0_u64..2_000, 0_u64..100_000_000].prop_map(Duration::from_micros)
    }

    proptest! {
        #[test]
        fn phases_add_up_to_the_whole(
            gateway in span(), all in span(), waited in span(), spawn in span(), import in span(), init in span(),
            handler in span(), record in span(), lay: bool,
        ) {
            let start = Start { spawn, import, init };
            let before = Before { gateway, all, waited, start, lay };
            let waterfall = Waterfall { handler, record, ..Waterfall::of(&before) };
            // Clocks may disagree; what one process measured by itself is never less than the whole.
            let whole = all.max(gateway + waited);
            prop_assert_eq!(waterfall.queue_time(), whole);
            prop_assert_eq!(waterfall.total(), whole + handler + record);
            let of_start = waterfall.spawn + waterfall.import + waterfall.init;
            prop_assert_eq!(of_start, (spawn + import + init).min(waited));
            prop_assert_eq!(waterfall.phases().iter().sum::<Duration>(), waterfall.total());
            let text = serde_json::to_string(&waterfall).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<Waterfall>(&text).expect("a waterfall"), waterfall);
        }
    }

    #[test]
    fn a_way_is_placement_and_a_lane_is_queue() {
        let ms = Duration::from_millis;
        let start = Start {
            spawn: ms(20),
            import: ms(30),
            init: ms(5),
        };
        let mut before = Before {
            gateway: ms(1),
            all: ms(100),
            waited: ms(60),
            start,
            lay: false,
        };
        let way = Waterfall::of(&before);
        assert_eq!((way.queue, way.placement), (ms(5), ms(39)));
        assert_eq!(way.start(), Some(How::Spawned));
        before.start.import = Duration::ZERO;
        assert_eq!(Waterfall::of(&before).start(), Some(How::Forked));
        before.start = Start::default();
        assert_eq!(Waterfall::of(&before).start(), None);
        (before.start, before.lay) = (start, true);
        let lane = Waterfall::of(&before);
        assert_eq!((lane.queue, lane.placement), (ms(44), ms(0)));
        assert_eq!(
            <[u64; 8]>::from(way),
            [1_000, 5_000, 39_000, 20_000, 30_000, 5_000, 0, 0]
        );
    }
}
