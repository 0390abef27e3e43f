//! Whether an instance that nobody calls works on: declared background work (AgentCore's `HealthyBusy`), or a busy processor.
//! What works is not ended. Our own asking is no work: it is far below what counts.

use super::{Instance, Leaving, Pool, State};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Two looks so far apart tell how busy its processor was between them.
const APART: Duration = Duration::from_secs(1);
/// Of one core.
const BUSY_SHARE: f64 = 0.05;
/// How long an answer may take. A worker answers beside its handlers: who is silent longer is stuck, and not busy.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// What was seen of a seat that is to be let go.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    at: Instant,
    cpu_us: u64,
    asking: bool,
}

impl Pool {
    /// Ends those that are retired and have nothing more to do; looks at the others.
    pub(super) fn let_go(self: &Arc<Self>, state: &mut State) {
        for seat in &mut state.seats {
            let is_due = seat.leaving == Leaving::Retired
                && seat.in_flight == 0
                && seat
                    .look
                    .is_none_or(|look| !look.asking && look.at.elapsed() >= APART);
            if !is_due {
                continue;
            }
            let before = seat.look;
            let now = Look {
                at: Instant::now(),
                cpu_us: seat.instance.cpu_us(),
                asking: before.is_some(),
            };
            seat.look = Some(now);
            if let Some(before) = before {
                let share = now.cpu_us.saturating_sub(before.cpu_us) as f64
                    / before.at.elapsed().as_micros() as f64;
                let (pool, instance) = (Arc::clone(self), Arc::clone(&seat.instance));
                let tasks = &self.common.grounds.tasks;
                tasks.spawn(async move { pool.ask(&instance, share >= BUSY_SHARE).await });
            }
        }
    }

    async fn ask(&self, instance: &Arc<Instance>, computes: bool) {
        let declared = match instance.link.ping(None) {
            Ok(pong) => tokio::time::timeout(ANSWERS_WITHIN, pong)
                .await
                .is_ok_and(|pong| pong.is_ok_and(|pong| pong.busy)),
            Err(_) => false,
        };
        let mut state = self.state();
        let mut seats = state.seats.iter_mut();
        let Some(seat) = seats.find(|seat| Arc::ptr_eq(&seat.instance, instance)) else {
            return;
        };
        // It may have been wanted back meanwhile, or work again.
        if seat.leaving != Leaving::Retired || seat.in_flight > 0 {
            seat.look = None;
        } else if computes || declared {
            seat.look = Some(Look {
                at: Instant::now(),
                cpu_us: instance.cpu_us(),
                asking: false,
            });
        } else {
            self.end(instance);
        }
    }
}
