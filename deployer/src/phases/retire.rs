//! What shall not run any more: other versions finish what they have, then nothing of them is left. A deletion ends here.

use super::{Job, Pace, shift_traffic::tell, take_down::let_go};
use crate::nodes;
use domain::{Result, envelope};
use proto::v1::{AgentChanged, KeysChanged, event::Event};
use std::time::Duration;
use store::envelopes::{Placed, Wanted};
use tokio::time::Instant;

/// Over the longest timeout of what may be running: for its end to be written.
const GRACE: Duration = Duration::from_secs(5);

pub async fn run(job: &Job) -> Result<()> {
    let row = &job.deployment;
    let store = &job.deps.store;
    let placed = store
        .envelopes_of_agent(&row.account, &row.incarnation)
        .await?;
    let others: Vec<Placed> = placed
        .into_iter()
        .filter(|placed| Some(&placed.envelope.version_id) != row.version_id.as_ref())
        .collect();
    for placed in &others {
        begin(job, placed).await?;
    }
    let heard_by = Instant::now() + job.config.settle;
    let deadline = Instant::now() + bound(job, &others).await?;
    for placed in &others {
        if drained(job, placed, heard_by, deadline).await? == Drained::Overtaken {
            return Ok(());
        }
        let_go(job, placed).await?;
        job.notes.say(format!(
            "version {} left executor {}",
            placed.envelope.version_id, placed.node_id
        ));
    }
    if job.is_delete() {
        delete(job).await?;
    }
    Ok(())
}

/// Takes no new work from now on.
pub async fn begin(job: &Job, placed: &Placed) -> Result<()> {
    let version = &placed.envelope.version_id;
    let mut generation = placed.envelope.generation;
    if placed.envelope.state != envelope::State::Retiring {
        let wanted = Wanted::ending(version, envelope::State::Retiring);
        generation = job.place(&placed.account, &placed.node_id, &wanted).await?;
    }
    if let Some(node) = nodes::alive(job.means(), &placed.node_id).await?
        && let Err(error) =
            nodes::ensure(job.means(), &node, &placed.account, version, generation).await
    {
        job.notes.say(error.to_string());
    }
    Ok(())
}

/// The longest that anything of these versions may still run.
pub async fn bound(job: &Job, others: &[Placed]) -> Result<Duration> {
    let mut longest = Duration::ZERO;
    for placed in others {
        let store = &job.deps.store;
        let version = store
            .version(&placed.account, &placed.envelope.version_id)
            .await?;
        if let Some(version) = version {
            longest = longest.max(version.spec.configuration.timeout());
        }
    }
    Ok((longest + GRACE).min(job.config.retire))
}

#[derive(PartialEq, Eq)]
pub enum Drained {
    Empty,
    /// A newer deployment waits and retires what is left: it need not wait for the same executions.
    Overtaken,
}

pub async fn drained(
    job: &Job,
    placed: &Placed,
    heard_by: Instant,
    deadline: Instant,
) -> Result<Drained> {
    let mut pace = Pace::new();
    let mut silent = None;
    loop {
        let Some(node) = nodes::alive(job.means(), &placed.node_id).await? else {
            return Ok(Drained::Empty);
        };
        let version = &placed.envelope.version_id;
        let look = nodes::inspect(job.means(), &node, &placed.account, version).await;
        let left = match look {
            Ok(look) => {
                silent = None;
                look.in_flight + look.waiting
            }
            Err(error) if error.kind == domain::Kind::NotFound => 0,
            // It lives and does not answer: its row says what it shall do.
            Err(error) => {
                let since = *silent.get_or_insert_with(Instant::now);
                if since.elapsed() >= job.config.dead_after {
                    job.notes.say(format!("{error}; it is not waited for"));
                    return Ok(Drained::Empty);
                }
                1
            }
        };
        if left == 0 && Instant::now() >= heard_by {
            return Ok(Drained::Empty);
        }
        if left > 0
            && !job.is_delete()
            && let Some(newer) = job.notes.newer()
        {
            job.notes.say(format!(
                "{left} executions of {version} still run; deployment {newer} retires it"
            ));
            return Ok(Drained::Overtaken);
        }
        if left > 0 && Instant::now() >= deadline {
            job.notes.say(format!(
                "{left} executions of {version} ran past their time and are stopped"
            ));
            return Ok(Drained::Empty);
        }
        pace.wait().await;
    }
}

async fn delete(job: &Job) -> Result<()> {
    let row = &job.deployment;
    let store = &job.deps.store;
    let at = store.now();
    let (account, agent_id) = (row.account.to_string(), row.agent_id.to_string());
    // A second deletion must not touch a new agent of the same id.
    let living = store.agent(&row.account, &row.agent_id).await?;
    if living.is_some_and(|living| living.incarnation == row.incarnation) {
        store
            .revoke_agent_keys(&row.account, &row.agent_id, at)
            .await?;
        store.mark_agent_deleted(&row.incarnation, at).await?;
    }
    tell(
        job,
        Event::AgentChanged(AgentChanged {
            account: account.clone(),
            agent_id,
        }),
    )
    .await;
    tell(job, Event::KeysChanged(KeysChanged { account })).await;
    job.notes.say("the agent is deleted");
    Ok(())
}
