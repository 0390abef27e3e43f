//! Looks at the rows with every beat, so that silence can be judged: by the rule of everybody else, `domain::liveness`. Executors
//! beat rows of their own; of deployers one holds a lease, and who takes it over when that one is gone is as alive.

use domain::{
    Result, Timestamp,
    liveness::{BEAT, LATE_AFTER, Liveness, Sight},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::{Store, leases::KEEPER};
use tokio_util::sync::CancellationToken;

#[derive(Clone, Default)]
pub struct Eyes(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    sight: Sight,
    /// When a deployer was seen to hold the lease.
    kept_at: Timestamp,
}

impl Eyes {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn sight(&self) -> Sight {
        self.seen().sight
    }

    /// How the deployers are doing, of whom one holds the lease now or does not. A lease that has run out is silence already:
    /// what is left to wait for is that another takes it, which each tries with every beat.
    pub fn deployers(&self, held: bool, now: Timestamp) -> Liveness {
        let seen = self.seen();
        if held {
            Liveness::Alive
        } else if now.since(seen.kept_at) >= LATE_AFTER && seen.sight.is_sure(now) {
            Liveness::Lost
        } else {
            Liveness::Late
        }
    }

    pub async fn run(&self, store: &Store, stop: &CancellationToken) {
        let mut tick = tokio::time::interval(BEAT);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let looked = look(store).await;
            let (mut seen, now) = (self.seen(), store.now());
            match looked {
                Ok(held) => {
                    seen.sight.saw(now);
                    if held {
                        seen.kept_at = now;
                    }
                }
                Err(_) => seen.sight.missed(),
            }
        }
    }
}

/// Whether a deployer holds the lease, where all rows can be read.
async fn look(store: &Store) -> Result<bool> {
    store.nodes().await?;
    store.is_leased(KEEPER).await
}
