//! What the rows say of an execution: that it lasts, and its one end.

use super::{ROW_WITHIN, Road, Runner, key, note, patiently};
use crate::{call::Attempted, held::Hold};
use domain::{
    Error, Kind, Result, Timestamp,
    execution::{Ending, Outcome},
    waterfall::Waterfall,
};
use proto::convert::{self, Execute};
use std::time::Duration;
use store::executions::{End, New, Recording, Start};

/// Between two looks for a row: about as long as a commit takes.
const ROW_PAUSE: Duration = Duration::from_millis(1);

impl Runner {
    pub(crate) async fn show_running(&self, execute: &Execute, attempt: u32, at: Timestamp) {
        let start = Start {
            key: key(execute),
            attempt,
            at,
            holder: self.holder.clone(),
        };
        // Handed in together, and in this order.
        let (shown, started) =
            tokio::join!(biased; self.show(execute), self.store.start_execution(start));
        if let Err(error) = shown.and(started.map(|_| ())) {
            tracing::warn!(error = ?error, "an execution is not shown as running");
        }
    }

    pub(super) async fn show_waiting(&self, execute: &Execute) {
        if let Err(error) = self.show(execute).await {
            tracing::warn!(error = ?error, "an execution is not shown as waiting");
        }
    }

    /// What has no row yet gets one.
    async fn show(&self, execute: &Execute) -> Result<()> {
        match row_of(execute) {
            Some(new) => self.store.insert_execution(new).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// The one recorded end of an execution, and the outcome that says it.
    pub(super) async fn finish(
        &self,
        execute: &Execute,
        road: &Road,
        hold: &Hold,
        attempted: Attempted,
    ) -> Result<Outcome> {
        let mut road = Road {
            key: road.key.clone(),
            attempts: road.attempts.clone(),
            ..*road
        };
        let error = match &attempted.ending {
            Ending::Failed(failure) => Some(failure.clone()),
            Ending::Completed(_) => None,
        };
        note(&mut road, &attempted, error.clone(), &self.holder);
        let recording = Recording::since(attempted.ended);
        let waterfall = attempted.waterfall.unwrap_or_else(|| {
            let waited = attempted.completed_at.since(execute.accepted_at);
            Waterfall::coarse(waited, Duration::ZERO)
        });
        let waterfall = waterfall.whole_micros();
        let queue_ms = waterfall.queue_time().as_secs_f64() * 1000.0;
        let mut outcome = Outcome {
            status: attempted.ending.status(),
            output: None,
            error,
            attempt: road.attempt,
            accepted_at: execute.accepted_at,
            started_at: attempted.started_at,
            completed_at: attempted.completed_at,
            duration_ms: attempted.duration_ms,
            queue_ms,
            waterfall: Some(waterfall),
            usage: attempted.usage,
            instance_id: attempted.instance_id,
            logs: attempted.lines,
        };
        if let Ending::Completed(output) = attempted.ending {
            outcome.output = Some(output);
        }
        let end = End {
            key: road.key.clone(),
            attempt: road.attempt,
            status: outcome.status,
            due_at: outcome.completed_at,
            started_at: outcome.started_at,
            completed_at: Some(outcome.completed_at),
            attempts: road.attempts,
            instance_id: outcome.instance_id.clone(),
            output: outcome.output.clone(),
            error: outcome.error.clone(),
            duration_ms: outcome.duration_ms,
            queue_ms,
            waterfall: outcome.waterfall,
            recording: Some(recording.clone()),
            usage: outcome.usage.clone(),
        };
        let recorded = self.record(execute, end).await;
        let recorded = recorded.map_err(|error| match error.kind {
            // It was run: nobody may take this for a refusal and run it elsewhere.
            Kind::Unavailable | Kind::Exhausted => {
                let message = "it was run, and its end could not be recorded in time";
                Error::new(Kind::Timeout, message).because(error)
            }
            _ => error,
        })?;
        if recorded.is_none() {
            let record = recording.took();
            outcome.waterfall = Some(Waterfall {
                record,
                ..waterfall
            });
            self.counts.ended(execute.options.mode, &outcome);
        }
        let outcome = recorded.unwrap_or(outcome);
        if self.hub.is_watched(&road.key) {
            self.hub.end(&road.key, convert::outcome(&outcome)?);
        }
        attempted.stopping.await_stopped().await;
        hold.handle.tell_stopped(outcome.status);
        Ok(outcome)
    }

    /// Writes the end. `Some`: another end was there before, and this is it.
    async fn record(&self, execute: &Execute, end: End) -> Result<Option<Outcome>> {
        let mode = execute.options.mode;
        let deadline = tokio::time::Instant::now() + ROW_WITHIN;
        loop {
            let write = async || match row_of(execute) {
                Some(new) => self.store.record_execution(new, end.clone()).await,
                None => self.store.end_execution(end.clone()).await,
            };
            if patiently(write).await? {
                return Ok(None);
            }
            match patiently(|| self.store.execution(&end.key)).await? {
                Some(row) if row.status.is_terminal() => return Ok(Some(recorded(row))),
                Some(row) if row.attempt > end.attempt => {
                    return Err(Error::conflict("a later attempt took over"));
                }
                // The row of a sync call is written beside the run, by another process perhaps: it came just now, or comes.
                Some(_) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(ROW_PAUSE).await;
                }
                None if !mode.is_durable() && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(ROW_PAUSE).await;
                }
                Some(_) => return Err(Error::conflict("the execution's row cannot be ended")),
                None => return Err(Error::unavailable("the execution's row is not there")),
            }
        }
    }
}

/// The row that nobody but its executor writes.
fn row_of(execute: &Execute) -> Option<New> {
    let input = execute.input.as_ref().filter(|_| !execute.has_row)?;
    Some(New {
        key: key(execute),
        version_id: execute.version_id.clone(),
        mode: execute.options.mode,
        priority: execute.options.priority,
        body_digest: None,
        caller: execute.caller.clone(),
        options: execute.options.clone(),
        input: input.clone(),
        accepted_at: execute.accepted_at,
    })
}

fn recorded(row: store::executions::Execution) -> Outcome {
    Outcome {
        status: row.status,
        output: row.output,
        error: row.error,
        attempt: row.attempt,
        accepted_at: row.accepted_at,
        started_at: row.started_at,
        completed_at: row.completed_at.unwrap_or(row.accepted_at),
        duration_ms: row.duration_ms.unwrap_or(0.0),
        queue_ms: row.queue_ms.unwrap_or(0.0),
        waterfall: row.waterfall,
        usage: row.usage,
        instance_id: row.instance_id,
        logs: Vec::new(),
    }
}
