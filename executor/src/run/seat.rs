//! A place to run in, or why there is none.

use super::{Runner, SHOWN_AFTER};
use crate::{
    held::Handle,
    pool::{Lease, Place, Pool},
};
use domain::{Timestamp, execution::Failure};
use proto::convert::Execute;
use std::{sync::Arc, time::Duration};

/// How often, and how long, a durable execution in hand waits for a place in a full queue.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const FULL_LOOKS: u32 = 600;

pub(super) enum Seat {
    Taken(Lease),
    Cancelled,
    Never(Failure),
    Full,
    /// This executor lets go of the version: the work goes elsewhere, or on after a restart.
    Closed,
}

impl Runner {
    pub(super) async fn seat(
        &self,
        pool: &Arc<Pool>,
        execute: &Execute,
        handle: &Handle,
        patience: Option<Timestamp>,
    ) -> Seat {
        let session = execute.caller.session_id.as_deref();
        let mut promise = match pool.place(execute.options.priority, execute.accepted_at, session) {
            Place::Now(lease) => return Seat::Taken(lease),
            Place::Later(promise) => promise,
            Place::Full => return Seat::Full,
            Place::Never(failure) => return Seat::Never(failure),
            Place::Closed => return Seat::Closed,
        };
        let wait = patience.map_or(Duration::from_secs(86_400), |end| {
            end.since(self.store.now())
        });
        let (late, lasts) = (tokio::time::sleep(wait), tokio::time::sleep(SHOWN_AFTER));
        tokio::pin!(late, lasts);
        let mut shown = execute.has_row;
        loop {
            tokio::select! {
                promised = &mut promise => return match promised {
                    Ok(Ok(lease)) => Seat::Taken(lease),
                    Ok(Err(failure)) => Seat::Never(failure),
                    Err(_) => Seat::Closed,
                },
                () = handle.cancel.cancelled() => return Seat::Cancelled,
                () = &mut late => return Seat::Full,
                () = &mut lasts, if !shown => {
                    shown = true;
                    self.show_waiting(execute).await;
                }
            }
        }
    }

    /// For durable work: a full queue is waited for here, for it says nothing against the execution and each delivery counts.
    pub(super) async fn patient_seat(
        &self,
        pool: &Arc<Pool>,
        execute: &Execute,
        handle: &Handle,
    ) -> Seat {
        for _ in 0..FULL_LOOKS {
            match self.seat(pool, execute, handle, None).await {
                Seat::Full => {}
                other => return other,
            }
            tokio::select! {
                () = handle.cancel.cancelled() => return Seat::Cancelled,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
        Seat::Full
    }
}
