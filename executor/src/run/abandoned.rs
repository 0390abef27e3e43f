//! Executions whose process is gone: queued again, or ended with that as their reason.

use super::Runner;
use domain::{
    Result, Timestamp,
    execution::{Attempt, Failure, FailureCode, FailurePhase, MOST_LOSSES, Status, Usage},
    waterfall::Waterfall,
};
use proto::convert::Execute;
use std::time::Duration;
use store::executions::End;

pub(super) const TOO_OFTEN: &str = "the process that ran it ended too often";
/// After this time a sweep takes the execution of a dead letter up again.
const DEAD_FOR: Duration = Duration::from_secs(24 * 3600);

impl Runner {
    /// Ends an execution whose process is gone and that will not be run again.
    pub async fn give_up(&self, row: &store::executions::Execution, message: &str) -> Result<()> {
        let now = self.store.now();
        let mut attempts = row.attempts.clone();
        if row.status == Status::Running {
            close_lost(&mut attempts, row.attempt, row.started_at, now);
        }
        let phase = if row.status == Status::Running {
            FailurePhase::Handler
        } else {
            FailurePhase::Spawn
        };
        let waited = row.started_at.unwrap_or(now).since(row.accepted_at);
        let ran = row.started_at.map_or(Duration::ZERO, |at| now.since(at));
        let end = End {
            key: row.key.clone(),
            attempt: row.attempt,
            status: Status::Failed,
            due_at: now,
            started_at: row.started_at,
            completed_at: Some(now),
            attempts,
            instance_id: row.instance_id.clone(),
            output: None,
            error: Some(Failure::new(FailureCode::InstanceCrashed, phase, message)),
            duration_ms: ran.as_secs_f64() * 1000.0,
            queue_ms: waited.as_secs_f64() * 1000.0,
            waterfall: Some(Waterfall::coarse(waited, ran)),
            recording: None,
            usage: Usage::default(),
        };
        self.store.end_execution(end).await.map(|_| ())
    }

    /// Its message is a dead letter: left to whoever redrives it, and not swept before that has had a day.
    pub async fn rest(&self, execute: &Execute) {
        let until = self.store.now() + DEAD_FOR;
        let rested = self
            .store
            .postpone_execution(&super::key(execute), until)
            .await;
        if let Err(error) = rested {
            tracing::warn!(execution.id = %execute.execution_id, error = ?error, "an execution whose message is a dead letter is swept as ever");
        }
    }

    /// The process under a durable execution is gone: queued again, unless that has happened too often. `true`: queued.
    pub async fn lose(&self, row: &store::executions::Execution) -> Result<bool> {
        if row.losses >= MOST_LOSSES {
            self.give_up(row, TOO_OFTEN).await?;
            return Ok(false);
        }
        let mut attempts = row.attempts.clone();
        close_lost(&mut attempts, row.attempt, row.started_at, self.store.now());
        self.store
            .lose_execution(&row.key, row.attempt, &attempts, self.store.now())
            .await
    }
}

/// The record of an attempt that nobody saw end.
pub(super) fn close_lost(
    attempts: &mut Vec<Attempt>,
    attempt: u32,
    started_at: Option<Timestamp>,
    now: Timestamp,
) {
    let lost = Failure::new(
        FailureCode::InstanceCrashed,
        FailurePhase::Handler,
        "the process that ran it is gone",
    );
    attempts.push(Attempt {
        attempt,
        started_at: started_at.unwrap_or(now),
        completed_at: Some(now),
        node_id: None,
        instance_id: None,
        error: Some(lost),
    });
}
