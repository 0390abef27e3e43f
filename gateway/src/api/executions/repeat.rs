//! An execution id that is known already: the same body is the same execution, another body is a conflict. What is refused
//! while it is asked for again was never accepted, and can be tried again.

use super::{
    background,
    dispatch::key,
    document::{ExecutionResult, outcome},
    execute::wait_for,
    status_url, stream, version_name,
};
use crate::{app::App, error::Answer, respond};
use axum::response::Response;
use domain::{Error, Kind, execution::Mode, log::Line};
use proto::convert::Execute;
use std::time::Duration;
use store::executions::{Execution, Key};
use tokio::time::Instant;

/// Between two looks at the row, growing from the first to the last.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const LAST_LOOK: Duration = Duration::from_secs(1);
/// An executor that has an execution shows it within this time.
const COMES_WITHIN: Duration = Duration::from_secs(5);
/// Lines of one execution that are shown.
pub const MOST_LINES: u32 = 5000;

pub async fn repeat(
    app: &App,
    key: Key,
    digest: &str,
    mode: Mode,
    after: Option<u64>,
) -> Answer<Response> {
    let row = look(app, &key).await?;
    if row.body_digest.as_deref() != Some(digest) {
        let message = format!(
            "execution {} is known with another body; choose another execution_id",
            key.id
        );
        return Err(Error::conflict(message).into());
    }
    match mode {
        Mode::Async => Ok(background::answer(
            app,
            &key,
            row.status,
            row.completed_at
                .unwrap_or(row.accepted_at + row.options.timeout()),
            row.options.callback_url.clone(),
        )),
        Mode::Stream => stream::resume(app, row, after).await,
        Mode::Sync => {
            let row = Looks::new(wait_for(&row.options))
                .until_ended(app, &key)
                .await?;
            ended(app, row).await
        }
    }
}

/// The outcome as its row has it, or will have it.
pub async fn recorded(app: &App, execute: &Execute, limit: Duration) -> Answer<Response> {
    let mut looks = Looks::new(limit);
    if !execute.has_row {
        looks.absent_until = Instant::now() + COMES_WITHIN;
    }
    let row = looks.until_ended(app, &key(execute)).await?;
    ended(app, row).await
}

async fn ended(app: &App, row: Execution) -> Answer<Response> {
    let key = row.key.clone();
    let version = version_name(app, &key.account, &row.version_id).await?;
    let logs = lines(app, &key).await?;
    let outcome = outcome(row, logs);
    Ok(respond::ok(&ExecutionResult::of(
        key.id.as_str(),
        version.as_deref(),
        &outcome,
    )))
}

/// The kept log lines of an execution.
pub async fn lines(app: &App, key: &Key) -> Answer<Vec<Line>> {
    let kept = app.store.execution_logs(key, -1, MOST_LINES).await?;
    Ok(kept.into_iter().map(|kept| kept.line).collect())
}

async fn look(app: &App, key: &Key) -> Answer<Execution> {
    let row = app.store.execution(key).await?;
    Ok(row.ok_or_else(|| refused(key))?)
}

fn refused(key: &Key) -> Error {
    let message = format!("execution {} was refused meanwhile; try again", key.id);
    Error::unavailable(message)
}

/// Looks at a row again and again, less and less often.
pub struct Looks {
    pause: Duration,
    until: Instant,
    /// Its executor has not written it yet.
    absent_until: Instant,
}

impl Looks {
    pub fn new(limit: Duration) -> Self {
        Self {
            pause: FIRST_LOOK,
            until: Instant::now() + limit,
            absent_until: Instant::now(),
        }
    }

    /// The row with its outcome. Safe to cancel and to call again.
    pub async fn until_ended(&mut self, app: &App, key: &Key) -> Answer<Execution> {
        loop {
            match app.store.execution(key).await? {
                Some(row) if row.status.is_terminal() => return Ok(row),
                Some(_) => {}
                None if Instant::now() < self.absent_until => {}
                None => return Err(refused(key).into()),
            }
            if Instant::now() >= self.until {
                let message = format!(
                    "execution {} has no outcome yet; read it at {}",
                    key.id,
                    status_url(app, key)
                );
                return Err(Error::new(Kind::Timeout, message).into());
            }
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 3 / 2).min(LAST_LOOK);
        }
    }
}
