//! What is too old is deleted, in slices, so that nobody waits long behind one: executions once they are in their cells, and
//! cells of each span in their own time.

use crate::{
    Config,
    roll::{Roller, millis},
};
use domain::{Result, Timestamp, rollup::Span};
use std::time::Duration;
use store::rollups::Position;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const SLICE: u32 = 1000;
/// Between two slices: others may write.
const PAUSE: Duration = Duration::from_millis(10);
/// What was taken of limits: longer than any month.
const SPENT: Duration = Duration::from_secs(40 * 24 * 3600);
/// Slices of one turn; then what ended meanwhile is rolled up first.
const TURN: u32 = 50;

pub struct Retention {
    config: Config,
    next: Instant,
    gone: u64,
}

impl Retention {
    pub fn new(config: &Config) -> Self {
        Self {
            config: config.clone(),
            next: Instant::now() + config.first_purge_after,
            gone: 0,
        }
    }

    /// Deletes some of what is too old, if it is time. Of the monitor that rolls up.
    pub async fn turn(&mut self, roller: &Roller, stop: &CancellationToken) -> Result<()> {
        if Instant::now() < self.next {
            return Ok(());
        }
        let ended = self.purge(roller, stop).await;
        if matches!(ended, Ok(false)) {
            return Ok(());
        }
        self.next = Instant::now() + self.config.purge_every;
        let rows = std::mem::take(&mut self.gone);
        if rows > 0 {
            tracing::info!(rows, "old records were deleted");
        }
        ended.map(|_| ())
    }

    fn before(&self, roller: &Roller, kept: Duration) -> Timestamp {
        Timestamp(roller.store.now().0.saturating_sub(millis(kept)))
    }

    /// `false`: there is more.
    async fn purge(&mut self, roller: &Roller, stop: &CancellationToken) -> Result<bool> {
        let store = &roller.store;
        let old = self.before(roller, self.config.retention);
        let Some(kept) = self.forget(roller, old, stop).await? else {
            return Ok(true);
        };
        let mut slices = 0;
        macro_rules! all {
            ($slice:expr) => {
                loop {
                    if stop.is_cancelled() || slices >= TURN {
                        return Ok(false);
                    }
                    let rows = $slice.await?;
                    self.gone += rows;
                    if rows < u64::from(SLICE) {
                        break;
                    }
                    slices += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            };
        }
        all!(store.purge_executions(kept.raw_from, SLICE));
        all!(store.purge_cells(Span::Minute, kept.minutes_from, SLICE));
        all!(store.purge_cells(Span::Hour, kept.hours_from, SLICE));
        all!(store.purge_cells(Span::Day, kept.days_from, SLICE));
        all!(store.purge_logs(old, SLICE));
        all!(store.purge_alerts(old, SLICE));
        all!(store.purge_deliveries(old, SLICE));
        all!(store.purge_spent(self.before(roller, SPENT), SLICE));
        self.gone += store.purge_instances(old).await?;
        Ok(true)
    }

    /// Says in the position what is not kept any longer, after everything of it was counted once more. `None`: it is another
    /// monitor's work by now.
    async fn forget(
        &self,
        roller: &Roller,
        old: Timestamp,
        stop: &CancellationToken,
    ) -> Result<Option<Position>> {
        let position = roller.store.rollup_position().await?;
        let old = Span::Minute.start(old.min(position.at));
        if old > position.raw_from {
            roller.look_again(position.raw_from, old, stop).await?;
        }
        let position = roller.store.rollup_position().await?;
        let start = |span: Span, kept| span.start(self.before(roller, kept));
        let after = Position {
            raw_from: position.raw_from.max(old),
            minutes_from: position
                .minutes_from
                .max(start(Span::Minute, self.config.minutes)),
            hours_from: position
                .hours_from
                .max(start(Span::Hour, self.config.hours)),
            days_from: position.days_from.max(start(Span::Day, self.config.days)),
            ..position
        };
        let Some(lease) = &roller.lease else {
            return Ok(None);
        };
        let written = roller
            .store
            .write_cells(lease, &position, &after, &[])
            .await?;
        Ok(written.then_some(after))
    }
}
