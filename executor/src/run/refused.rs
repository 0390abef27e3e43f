//! No seat for the caller: what never began was never accepted, so that its id can be tried again.

use super::{Road, Runner};
use crate::{call::Attempted, held::Hold};
use domain::{
    Error, Result, Timestamp,
    execution::{Failure, FailureCode, FailurePhase, Mode, Outcome, Status},
};
use proto::{convert::Execute, v1};

impl Runner {
    /// Tells the caller. What an attempt was made of, or what has a feed already, has its end instead.
    pub(super) async fn refuse(
        &self,
        execute: &Execute,
        road: &Road,
        hold: Hold,
        error: Error,
    ) -> Result<Outcome> {
        if road.attempts.is_empty() && execute.options.mode != Mode::Stream {
            let key = road.key.clone();
            if self.hub.is_watched(&key) {
                self.hub
                    .end(&key, outcome(execute, &error, self.store.now()));
                self.hub.forget(&key);
            }
            // Another executor may take it; if none does, its gateway takes the row back.
            drop(hold);
            return Err(error);
        }
        let unstarted = Attempted::unstarted(failure(&error), self.store.now());
        self.finish(execute, road, &hold, unstarted).await
    }
}

fn failure(error: &Error) -> Failure {
    Failure::new(
        FailureCode::InitFailed,
        FailurePhase::Spawn,
        error.message.clone(),
    )
}

/// What a watcher is told of an execution that could not be run.
pub fn outcome(execute: &Execute, error: &Error, at: Timestamp) -> v1::Outcome {
    v1::Outcome {
        status: Status::Failed.as_str().to_owned(),
        error: serde_json::to_vec(&failure(error))
            .unwrap_or_default()
            .into(),
        accepted_at_ms: execute.accepted_at.0,
        completed_at_ms: at.0,
        usage: bytes::Bytes::from_static(b"{}"),
        ..v1::Outcome::default()
    }
}
