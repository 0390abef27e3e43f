//! Rolls ended executions up into cells, in one monitor at a time.
//!
//! What ended long enough ago is read in the order of its end and added to the cells of its minute, hour and day, with the
//! position in the same transaction. What became visible later than that is found by counting: a minute that holds more
//! executions than its cells have is counted anew, and what is over is added everywhere. Nothing is ever taken away: an
//! execution that has ended does not change. So a crash, a lease that was lost and a clock that jumps cost time, no execution.

use crate::Config;
use domain::{
    Result, Timestamp,
    rollup::{Cell, Ended, Span},
};
use std::{collections::HashMap, time::Duration};
use store::{
    Store,
    leases::{Lease, ROLLER},
    rollups::{Key, Of, Position},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// A roller that is gone is followed within this. Renewed with every round.
pub(crate) const TTL: Duration = Duration::from_secs(10);
/// Giving the lease back must not hold up the leaving.
const RELEASED_WITHIN: Duration = Duration::from_secs(2);
/// The position is written at least so often, though nothing ended.
const MOVED_EVERY: Duration = Duration::from_secs(30);
/// Rounds of the same slice that somebody else's write made void.
const TRIES: u32 = 3;

/// Of one monitor; holds the lease, or does not.
pub struct Roller {
    config: Config,
    pub(crate) store: Store,
    holder: String,
    pub(crate) lease: Option<Lease>,
    looks: Vec<(Look, Option<Instant>)>,
    moved: Instant,
}

/// How far back minutes are counted once more, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    pub back: Duration,
    pub every: Duration,
}

impl Roller {
    pub fn new(config: &Config, store: &Store) -> Self {
        Self {
            config: config.clone(),
            store: store.clone(),
            holder: format!("monitor_{}", uuid::Uuid::now_v7().as_simple()),
            lease: None,
            looks: config.looks.iter().map(|look| (*look, None)).collect(),
            moved: Instant::now(),
        }
    }

    /// Whether this is the monitor that rolls up, by now.
    pub async fn hold(&mut self) -> Result<bool> {
        if let Some(lease) = &self.lease
            && self.store.renew(lease, TTL).await?
        {
            return Ok(true);
        }
        self.lease = self.store.acquire(ROLLER, &self.holder, TTL).await?;
        Ok(self.lease.is_some())
    }

    pub async fn release(&mut self) {
        if let Some(lease) = self.lease.take() {
            let released = self.store.release(&lease);
            tokio::time::timeout(RELEASED_WITHIN, released).await.ok();
        }
    }

    /// Everything that there is to count by now. `false`: it is another monitor's work.
    pub async fn round(&mut self, stop: &CancellationToken) -> Result<bool> {
        if !self.hold().await? {
            return Ok(false);
        }
        while self.advance().await? {
            if stop.is_cancelled() || !self.hold().await? {
                return Ok(false);
            }
        }
        let now = Instant::now();
        for at in 0..self.looks.len() {
            let (look, last) = self.looks[at];
            if last.is_none_or(|last| now.duration_since(last) >= look.every) {
                let position = self.store.rollup_position().await?;
                let end = Timestamp(position.at.0.min(self.settled().0));
                let from = Timestamp(end.0.saturating_sub(millis(look.back)));
                self.look_again(from, position.at, stop).await?;
                self.looks[at].1 = Some(now);
            }
        }
        Ok(true)
    }

    /// What ended before is expected to be visible.
    fn settled(&self) -> Timestamp {
        let settle = millis(self.config.settle);
        Timestamp(self.store.now().0.saturating_sub(settle))
    }

    /// Counts one slice. `true`: there is more.
    async fn advance(&mut self) -> Result<bool> {
        for _ in 0..TRIES {
            let position = self.store.rollup_position().await?;
            let to = self.settled();
            // A clock that was set back: what ends now is found by counting.
            if to <= position.at {
                return Ok(false);
            }
            let (rows, upto) = self.slice(position.at, to).await?;
            let more = upto < to;
            if rows.is_empty() && self.moved.elapsed() < MOVED_EVERY && position.at.0 > 0 {
                return Ok(more);
            }
            let mut minutes: HashMap<(Of, Timestamp), Cell> = HashMap::new();
            for (of, ended) in &rows {
                let start = Span::Minute.start(ended.completed_at);
                minutes.entry((of.clone(), start)).or_default().add(ended);
            }
            let after = Position {
                at: upto,
                ..position
            };
            if self.add(&position, &after, minutes).await? {
                self.moved = Instant::now();
                return Ok(more);
            }
            if !self.hold().await? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// At most a slice of what ended in `[from, to)`, and up to when that is all.
    async fn slice(&self, from: Timestamp, to: Timestamp) -> Result<(Vec<(Of, Ended)>, Timestamp)> {
        let mut most = self.config.slice;
        loop {
            let mut rows = self.store.ended(from, to, most).await?;
            if rows.len() < most as usize {
                return Ok((rows, to));
            }
            // The last millisecond may go on: it is read again, whole.
            let last = rows.last().map_or(from, |(_, ended)| ended.completed_at);
            let sure = rows.partition_point(|(_, ended)| ended.completed_at < last);
            if sure > 0 {
                rows.truncate(sure);
                return Ok((rows, last));
            }
            most = most.saturating_mul(2);
        }
    }

    /// Adds these to the cells of all spans.
    async fn add(
        &self,
        before: &Position,
        after: &Position,
        minutes: HashMap<(Of, Timestamp), Cell>,
    ) -> Result<bool> {
        let Some(lease) = &self.lease else {
            return Ok(false);
        };
        let mut added: HashMap<Key, Cell> = HashMap::new();
        for ((of, start), cell) in minutes {
            for span in Span::ALL {
                let key = Key {
                    of: of.clone(),
                    span: *span,
                    start: span.start(start),
                };
                added.entry(key).or_default().merge(&cell);
            }
        }
        let keys: Vec<Key> = added.keys().cloned().collect();
        for (key, cell) in self.store.cells(&keys).await? {
            added.entry(key).or_default().merge(&cell);
        }
        let cells: Vec<(Key, Cell)> = added.into_iter().collect();
        self.store.write_cells(lease, before, after, &cells).await
    }

    /// Counts the minutes of `[from, to)`, and what is not in their cells yet into them. `to` is at most the position.
    pub(crate) async fn look_again(
        &self,
        from: Timestamp,
        to: Timestamp,
        stop: &CancellationToken,
    ) -> Result<()> {
        let raw_from = self.store.rollup_position().await?.raw_from;
        let from = Span::Minute.start(from.max(raw_from));
        if from >= to {
            return Ok(());
        }
        let there = self.store.ended_per_minute(from, to).await?;
        let counted = self.store.rolled_per_minute(from, to).await?;
        for (minute, count) in there {
            let known = counted.get(&minute).copied().unwrap_or(0);
            if count > known && !stop.is_cancelled() {
                tracing::debug!(minute = %minute, late = count - known, "executions became visible late and are counted now");
                self.count_again(minute).await?;
            }
        }
        Ok(())
    }

    async fn count_again(&self, minute: Timestamp) -> Result<()> {
        for _ in 0..TRIES {
            let position = self.store.rollup_position().await?;
            let end = Timestamp((minute.0 + 60_000).min(position.at.0));
            let mut all: HashMap<Of, Cell> = HashMap::new();
            let mut from = minute;
            while from < end {
                let (rows, upto) = self.slice(from, end).await?;
                for (of, ended) in &rows {
                    all.entry(of.clone()).or_default().add(ended);
                }
                from = upto;
            }
            let counted = self.store.minute_cells(minute).await?;
            let late = all.into_iter().filter_map(|(of, cell)| {
                let part = counted.get(&of).cloned().unwrap_or_default();
                (cell.total() > part.total()).then(|| ((of, minute), cell.minus(&part)))
            });
            if self.add(&position, &position, late.collect()).await? {
                return Ok(());
            }
        }
        Ok(())
    }
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
