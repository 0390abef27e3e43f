//! The order of waiting work: high before normal before low, and whoever waits long enough moves up.

use crate::{Timestamp, execution::Priority};
use std::{collections::VecDeque, time::Duration};

/// After each of these, waiting work counts as one priority higher: low overtakes fresh high work after twice as long.
pub const AGEING: Duration = Duration::from_secs(10);

/// A bounded queue in three lanes, each first in, first out.
#[derive(Debug)]
pub struct Queue<T> {
    lanes: [VecDeque<(Timestamp, T)>; 3],
    bound: usize,
}

impl<T> Queue<T> {
    pub fn new(bound: usize) -> Self {
        Self {
            lanes: [VecDeque::new(), VecDeque::new(), VecDeque::new()],
            bound,
        }
    }

    pub fn len(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(VecDeque::is_empty)
    }

    /// Gives the item back when every place is taken.
    pub fn push(&mut self, item: T, priority: Priority, since: Timestamp) -> Result<(), T> {
        if self.len() >= self.bound {
            return Err(item);
        }
        self.lanes[lane(priority)].push_back((since, item));
        Ok(())
    }

    /// The next by priority and age.
    pub fn pop(&mut self, now: Timestamp) -> Option<T> {
        let rank = |lane: usize, since: Timestamp| {
            (
                lane as f64 + now.since(since).as_secs_f64() / AGEING.as_secs_f64(),
                lane,
            )
        };
        let best = (0..3)
            .filter_map(|lane| {
                self.lanes[lane]
                    .front()
                    .map(|(since, _)| (rank(lane, *since), lane))
            })
            .max_by(|(one, _), (other, _)| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)))?;
        self.lanes[best.1].pop_front().map(|(_, item)| item)
    }

    /// Takes out what `gone` names, as a cancelled or expired wait.
    pub fn remove(&mut self, mut gone: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut out = Vec::new();
        for lane in &mut self.lanes {
            let (keep, drop): (Vec<_>, Vec<_>) = lane.drain(..).partition(|(_, item)| !gone(item));
            lane.extend(keep);
            out.extend(drop.into_iter().map(|(_, item)| item));
        }
        out
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.lanes.iter().flatten().map(|(_, item)| item)
    }

    pub fn oldest(&self) -> Option<Timestamp> {
        self.lanes
            .iter()
            .filter_map(|lane| lane.front().map(|(since, _)| *since))
            .min()
    }
}

fn lane(priority: Priority) -> usize {
    match priority {
        Priority::Low => 0,
        Priority::Normal => 1,
        Priority::High => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn high_first_and_low_never_starves() {
        let mut queue = Queue::new(100);
        queue
            .push("low", Priority::Low, Timestamp(0))
            .expect("room");
        queue
            .push("normal", Priority::Normal, Timestamp(1))
            .expect("room");
        queue
            .push("high", Priority::High, Timestamp(2))
            .expect("room");
        assert_eq!(queue.pop(Timestamp(3)), Some("high"));
        // Fresh high work keeps coming; the low one still gets its turn after two ageing steps.
        for second in 0..60 {
            let now = Timestamp(second * 1000);
            queue.push("high", Priority::High, now).expect("room");
            match queue.pop(now).expect("not empty") {
                "low" => {
                    assert!((20..=23).contains(&second), "after {second} s");
                    return;
                }
                "normal" => assert!((10..=11).contains(&second), "after {second} s"),
                _ => {}
            }
        }
        panic!("low work starved");
    }

    #[test]
    fn bounded_and_fair_within_a_lane() {
        let mut queue = Queue::new(2);
        queue.push(1, Priority::Normal, Timestamp(0)).expect("room");
        queue.push(2, Priority::Normal, Timestamp(0)).expect("room");
        assert_eq!(queue.push(3, Priority::High, Timestamp(0)), Err(3));
        assert_eq!(queue.remove(|item| *item == 1), [1]);
        assert_eq!(
            (queue.pop(Timestamp(0)), queue.pop(Timestamp(0))),
            (Some(2), None)
        );
    }
}
