//! Bounds of questions, and how long records are kept.

use crate::roll::Look;
use domain::webhook::Openness;
use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Config {
    /// Executions in no cell yet that one question may read.
    pub most_rows: usize,
    /// Executions rolled up in one transaction.
    pub slice: u32,
    pub roll_every: Duration,
    /// An execution that ended so long ago is expected to be visible.
    pub settle: Duration,
    /// How minutes are counted once more, for those that were not.
    pub looks: Vec<Look>,
    /// How long cells of a minute, an hour and a day are kept.
    pub minutes: Duration,
    pub hours: Duration,
    pub days: Duration,
    /// How long one probe of a component may take.
    pub probe: Duration,
    /// For how long an answer about the whole system is given again.
    pub system_cache: Duration,
    /// Since its last sign of life: then an executor is no part of the system any more, its host was taken away.
    pub forgotten_after: Duration,
    /// Executions, log lines and instances that ended longer ago are deleted.
    pub retention: Duration,
    pub first_purge_after: Duration,
    pub purge_every: Duration,
    pub judge_every: Duration,
    /// Where webhooks may go beyond the public internet.
    pub webhooks: Openness,
    /// Bodies of webhooks on their way have at most so many bytes together; a larger one goes alone.
    pub webhook_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            most_rows: 200_000,
            slice: 5_000,
            roll_every: Duration::from_secs(2),
            settle: Duration::from_secs(3),
            looks: [(90, 6), (3600, 300), (25 * 3600, 3 * 3600)]
                .map(|(back, every)| Look {
                    back: Duration::from_secs(back),
                    every: Duration::from_secs(every),
                })
                .into(),
            minutes: Duration::from_secs(35 * 24 * 3600),
            hours: Duration::from_secs(400 * 24 * 3600),
            days: Duration::from_secs(3650 * 24 * 3600),
            probe: Duration::from_secs(1),
            system_cache: Duration::from_secs(1),
            forgotten_after: Duration::from_secs(3600),
            retention: Duration::from_secs(30 * 24 * 3600),
            first_purge_after: Duration::from_secs(60),
            purge_every: Duration::from_secs(3600),
            judge_every: Duration::from_secs(5),
            webhooks: Openness::default(),
            webhook_bytes: 64 << 20,
        }
    }
}
