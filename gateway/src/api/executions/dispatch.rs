//! A sync or streamed execution goes to one of the executors that host its version: to one with a free seat if there is one, to
//! the next where one cannot take it. What was taken is waited for until its end, or until its executor is known to be gone;
//! then another one tries it, if the caller's retries allow that.

use crate::{app::App, hosts::Target};
use domain::{
    Error, Kind, Result,
    execution::{Failure, FailureCode, FailurePhase},
    id::NodeId,
    waterfall::Sent,
};
use proto::convert::{Execute, Reply};
use std::{sync::Arc, time::Duration};
use store::executions::Key;
use tokio::time::Instant;

/// A bus that is away for longer is not waited for.
const AWAY: Duration = Duration::from_secs(5);

/// What is sent, and where it may go.
pub struct Way {
    pub execute: Execute,
    pub hosts: Arc<[NodeId]>,
    pub chance: u64,
    pub deadline: Duration,
    /// When it was accepted.
    pub begun: std::time::Instant,
}

impl Way {
    /// The gateway's part ends here; what follows is others'.
    pub fn sets_out(&mut self, app: &App) {
        self.execute.sent.get_or_insert_with(|| Sent {
            gateway: self.begun.elapsed(),
            at_us: app.store.now_us(),
        });
    }
}

/// What came of it.
pub enum Dispatched {
    /// The executor's answer, or none in time.
    Replied(Result<Reply>),
    /// Nobody took it: nothing of it was done, and nothing will be.
    Untaken(Error),
    /// The executor that took it is gone. How far it came is not known.
    Lost(Error),
    /// The answer went another way, when the bus broke: the row has the outcome, or will have it.
    Recorded,
}

/// What came of asking one executor.
enum Asked {
    Settled(Dispatched),
    /// Another one may take it.
    Next(Error),
    /// The bus broke meanwhile: the request may have been lost, or the answer.
    Broken,
}

pub async fn dispatch(app: &App, way: &mut Way) -> Dispatched {
    let until = Instant::now() + way.deadline;
    way.sets_out(app);
    loop {
        let sent = round(app, way, until).await;
        let Dispatched::Lost(error) = sent else {
            return sent;
        };
        way.execute.losses += 1;
        let failure = Failure::new(
            FailureCode::InstanceCrashed,
            FailurePhase::Handler,
            error.message.clone(),
        );
        let options = &way.execute.options;
        match options.again_after(&failure, way.execute.losses) {
            Some(wait) if options.retry_explicit && Instant::now() + wait < until => {
                tokio::time::sleep(wait).await;
                if let Err(error) = lose(app, &way.execute).await {
                    return Dispatched::Lost(error);
                }
            }
            _ => return Dispatched::Lost(error),
        }
    }
}

/// Asks the executors one after the other; where none of them could be asked, those that host it now.
async fn round(app: &App, way: &mut Way, until: Instant) -> Dispatched {
    let mut anew = false;
    loop {
        let mut why = nobody();
        for target in app
            .hosts
            .order(&way.execute.version_id, &way.hosts, way.chance)
        {
            match ask_through(app, way, &target, until).await {
                Ok(sent) => return sent,
                Err(error) => why = error,
            }
        }
        // Everybody is full: that is no matter of who hosts it.
        if anew || why.kind == Kind::Exhausted {
            return Dispatched::Untaken(why);
        }
        anew = true;
        let agent = (&way.execute.account, &way.execute.agent_id);
        let version = &way.execute.version_id;
        match app.agents.hosts_anew(&app.store, agent, version).await {
            Ok(found) if !found.is_empty() => way.hosts = found,
            Ok(_) => return Dispatched::Untaken(why),
            Err(error) => return Dispatched::Untaken(error),
        }
    }
}

/// Asks one executor, again when the bus broke meanwhile; `Err`: it did not take it.
async fn ask_through(
    app: &App,
    way: &mut Way,
    target: &Target,
    until: Instant,
) -> Result<Dispatched> {
    let mut asked_before = false;
    loop {
        match ask(app, &way.execute, target, until).await {
            Asked::Settled(Dispatched::Replied(Ok(Reply::Refused(error))))
                if asked_before && error.kind == Kind::Conflict =>
            {
                return Ok(Dispatched::Recorded);
            }
            Asked::Settled(sent) => return Ok(sent),
            Asked::Next(error) if asked_before && has_begun(app, &way.execute).await => {
                tracing::debug!(error = ?error, "an executor that has it does not take it again");
                return Ok(Dispatched::Recorded);
            }
            Asked::Next(error) => return Err(error),
            Asked::Broken => {
                // From now on an executor looks at the row first: it, or another, may have it already.
                asked_before = true;
                way.execute.losses = way.execute.losses.max(1);
                let stands = tokio::time::timeout(AWAY, async { app.bus.link().stands().await });
                if stands.await.is_err() {
                    return if has_begun(app, &way.execute).await {
                        Ok(Dispatched::Recorded)
                    } else {
                        Err(away())
                    };
                }
            }
        }
    }
}

/// Whether its row says that somebody runs or ran it.
async fn has_begun(app: &App, execute: &Execute) -> bool {
    let row = app.store.execution(&key(execute)).await.ok().flatten();
    row.is_some_and(|row| row.attempt > 0 || row.status.is_terminal())
}

pub fn key(execute: &Execute) -> Key {
    Key {
        account: execute.account.clone(),
        agent_id: execute.agent_id.clone(),
        id: execute.execution_id.clone(),
    }
}

async fn ask(app: &App, execute: &Execute, target: &Target, until: Instant) -> Asked {
    let left = until.saturating_duration_since(Instant::now());
    let mut link = app.bus.link();
    if !link.is_up() {
        return Asked::Broken;
    }
    let reply = tokio::select! {
        biased;
        reply = app.bus.execute(execute, &target.node, left) => reply,
        () = target.is_gone() => {
            let message = format!("executor {} was lost while it had this execution; try again", target.node);
            return Asked::Settled(Dispatched::Lost(Error::unavailable(message)));
        }
        () = link.broken() => return Asked::Broken,
    };
    match reply {
        Err(error) if bus::typed::untaken(&error) => Asked::Next(error),
        Ok(Reply::Refused(error))
            if matches!(
                error.kind,
                Kind::Exhausted | Kind::Unavailable | Kind::NotFound
            ) =>
        {
            Asked::Next(error)
        }
        reply => Asked::Settled(Dispatched::Replied(reply)),
    }
}

/// The row forgets who ran it, so that another may.
async fn lose(app: &App, execute: &Execute) -> Result<()> {
    let key = key(execute);
    let Some(row) = app.store.execution(&key).await? else {
        return if execute.has_row {
            Err(Error::unavailable("the execution has no row; try again"))
        } else {
            Ok(())
        };
    };
    app.store
        .lose_execution(&key, row.attempt, &row.attempts, app.store.now())
        .await?;
    Ok(())
}

fn away() -> Error {
    Error::unavailable("the bus is not available; try again")
}

fn nobody() -> Error {
    Error::unavailable("no executor hosts this version right now; try again")
}
