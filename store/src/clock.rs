//! One clock for all processes of a cluster: the database's. Hosts' clocks may be apart, and what one process writes another
//! compares; so each measures how far its own clock is from the database's, and adds that. In one process over SQLite its own
//! clock is the only one.

use domain::Timestamp;
use sqlx::PgPool;
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const MEASURE_EVERY: Duration = Duration::from_secs(5);
/// An answer that took longer says too little about when it was given.
const QUICK: Duration = Duration::from_millis(500);
/// What is worth a line in the log.
const APART_MS: i64 = 1_000;

/// The database's time within a statement. The engines have no word for it in common.
pub(crate) const PG_NOW: &str = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";
pub(crate) const LITE_NOW: &str = "CAST(unixepoch('subsec') * 1000 AS BIGINT)";

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    ahead_ms: Arc<AtomicI64>,
}

impl Clock {
    pub fn now(&self) -> Timestamp {
        Timestamp(local_ms().saturating_add(self.ahead_ms.load(Ordering::Relaxed)))
    }

    /// The same, finer: for spans between processes.
    pub(crate) fn now_us(&self) -> i64 {
        let ahead_us = self.ahead_ms.load(Ordering::Relaxed).saturating_mul(1000);
        local_us().saturating_add(ahead_us)
    }

    /// Measures once. `Err`: the database did not answer.
    pub(crate) async fn measure(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {PG_NOW}"));
        let (asked, begun) = (local_ms(), Instant::now());
        let (theirs,): (i64,) = sqlx::query_as(sql).fetch_one(pool).await?;
        let took = begun.elapsed();
        if took <= QUICK {
            let half = i64::try_from(took.as_millis() / 2).unwrap_or(0);
            let ahead = theirs - asked - half;
            let before = self.ahead_ms.swap(ahead, Ordering::Relaxed);
            if (ahead - before).abs() >= APART_MS {
                tracing::warn!(
                    ahead_ms = ahead,
                    "this host's clock and the database's are apart; the database's counts"
                );
            }
        }
        Ok(())
    }

    /// Goes on measuring: a host's clock may be set.
    pub(crate) async fn keep(self, pool: PgPool) {
        loop {
            tokio::time::sleep(MEASURE_EVERY).await;
            if let Err(error) = self.measure(&pool).await {
                tracing::debug!(error = ?error, "the database's clock could not be read");
            }
        }
    }
}

fn local_ms() -> i64 {
    local_us() / 1000
}

/// The one look at this host's clock.
fn local_us() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
