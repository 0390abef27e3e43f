//! Bounds of questions, and how long records are kept.

use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Config {
    /// Executions that one question may read.
    pub most_rows: usize,
    /// Rows read at once.
    pub slice: u32,
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
}

impl Default for Config {
    fn default() -> Self {
        Self {
            most_rows: 2_000_000,
            slice: 20_000,
            probe: Duration::from_secs(1),
            system_cache: Duration::from_secs(1),
            forgotten_after: Duration::from_secs(3600),
            retention: Duration::from_secs(30 * 24 * 3600),
            first_purge_after: Duration::from_secs(60),
            purge_every: Duration::from_secs(3600),
        }
    }
}
