//! Looks at the rows with every beat, so that silence can be judged: by the rule of everybody else, `domain::liveness`.

use domain::liveness::{BEAT, Sight};
use std::sync::{Arc, Mutex, PoisonError};
use store::Store;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Default)]
pub struct Eyes(Arc<Mutex<Sight>>);

impl Eyes {
    pub fn sight(&self) -> Sight {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn run(&self, store: &Store, stop: &CancellationToken) {
        let mut tick = tokio::time::interval(BEAT);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let looked = store.nodes().await;
            let mut sight = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match looked {
                Ok(_) => sight.saw(store.now()),
                Err(_) => sight.missed(),
            }
        }
    }
}
