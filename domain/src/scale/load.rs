//! How many executions there were at once, on average over two windows. No allocation, and no loop but over slots that passed.

use std::time::Duration;

const SLOTS: usize = 60;
/// The panic window is so much shorter than the stable one: 6 s of 60 s.
pub const PANIC_PART: u32 = 10;

#[derive(Debug)]
pub struct Load {
    /// Executions times microseconds, a slot each; the one in use comes on top of a whole window.
    areas: [u64; SLOTS + 1],
    /// The most at once in each.
    peaks: [u32; SLOTS + 1],
    current: usize,
    slot_us: u64,
    /// Until when the slot in use lasts, and until when it has been filled.
    edge_us: u64,
    at_us: u64,
    demand: u32,
}

impl Load {
    pub fn new(window: Duration) -> Self {
        let slot_us = (micros(window) / SLOTS as u64).max(1);
        Self {
            areas: [0; SLOTS + 1],
            peaks: [0; SLOTS + 1],
            current: 0,
            slot_us,
            edge_us: slot_us,
            at_us: 0,
            demand: 0,
        }
    }

    /// From `at` on it is so many. A time that was passed already changes nothing before it.
    pub fn note(&mut self, demand: u32, at: Duration) {
        let at = micros(at);
        if at.saturating_sub(self.at_us) > self.slot_us * self.areas.len() as u64 {
            self.areas.fill(u64::from(self.demand) * self.slot_us);
            self.areas[self.current] = 0;
            self.peaks.fill(self.demand);
            (self.at_us, self.edge_us) = (at, at + self.slot_us);
        }
        while self.at_us < at {
            let until = at.min(self.edge_us);
            self.areas[self.current] += u64::from(self.demand) * (until - self.at_us);
            self.at_us = until;
            if until == self.edge_us {
                self.current = (self.current + 1) % self.areas.len();
                self.areas[self.current] = 0;
                self.peaks[self.current] = self.demand;
                self.edge_us += self.slot_us;
            }
        }
        self.demand = demand;
        self.peaks[self.current] = self.peaks[self.current].max(demand);
    }

    /// The most at once in the stable window.
    pub fn peak(&self) -> u32 {
        self.peaks.iter().copied().max().unwrap_or(0)
    }

    /// Over the stable window.
    pub fn average(&self) -> f64 {
        self.over(SLOTS)
    }

    /// Over the panic window.
    pub fn recent(&self) -> f64 {
        self.over(SLOTS / PANIC_PART as usize)
    }

    fn over(&self, slots: usize) -> f64 {
        let length = self.areas.len();
        let area: u64 = (0..=slots)
            .map(|back| self.areas[(self.current + length - back) % length])
            .sum();
        let current = self.slot_us - (self.edge_us - self.at_us);
        area as f64 / (slots as u64 * self.slot_us + current) as f64
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: f64) -> Duration {
        Duration::from_secs_f64(s)
    }

    #[test]
    fn averages_of_what_was() {
        let mut load = Load::new(Duration::from_secs(60));
        load.note(12, at(0.0));
        load.note(0, at(3.0));
        load.note(0, at(6.0));
        assert!((load.recent() - 6.0).abs() < 0.01, "{}", load.recent());
        assert!((load.average() - 0.6).abs() < 0.01, "{}", load.average());
        load.note(0, at(13.0));
        assert!(load.recent() == 0.0 && load.average() > 0.0);
        load.note(0, at(66.0));
        assert!(load.average() == 0.0, "{}", load.average());
    }

    #[test]
    fn long_silence_and_times_that_passed() {
        let mut load = Load::new(Duration::from_secs(60));
        load.note(5, at(1.0));
        load.note(5, at(100_000.0));
        assert!((load.average() - 5.0).abs() < 1e-9 && (load.recent() - 5.0).abs() < 1e-9);
        load.note(0, at(3.0));
        load.note(0, at(100_061.5));
        assert!(load.average() == 0.0, "{}", load.average());
    }

    /// Beside a sum over every moment, whatever was noted when.
    #[test]
    fn as_a_replay_says() {
        let mut seed = 3_u64;
        let mut below = |most: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % most
        };
        let (mut load, mut now, mut said) = (Load::new(Duration::from_secs(6)), 0_u64, Vec::new());
        for _ in 0..3000 {
            let demand = u32::try_from(below(50)).expect("small");
            load.note(demand, Duration::from_micros(now));
            said.push((now, demand));
            now += below(200_000);
            load.note(demand, Duration::from_micros(now));
            let since = now - now % 100_000;
            for (slots, got) in [(60, load.average()), (6, load.recent())] {
                let Some(from) = since.checked_sub(slots * 100_000) else {
                    continue;
                };
                let area: u64 = said
                    .iter()
                    .enumerate()
                    .rev()
                    .map_while(|(n, (begun, demand))| {
                        let end = said.get(n + 1).map_or(now, |(end, _)| *end);
                        (end > from).then(|| (end - (*begun).max(from)) * u64::from(*demand))
                    })
                    .sum();
                let expected = area as f64 / (now - from) as f64;
                assert!(
                    (got - expected).abs() < 1e-6,
                    "{got} beside {expected} at {now}"
                );
            }
        }
    }
}
