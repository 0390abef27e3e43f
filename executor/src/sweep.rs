//! Executions that nobody finished: their process died, or their message was lost. The row is the truth.

use crate::{host::Node, run::Runner};
use domain::{
    Result, Timestamp,
    execution::{Mode, Status},
};
use proto::convert::Execute;
use std::{collections::HashSet, sync::Arc, time::Duration};
use store::executions::Execution;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(2);
/// A message may be on its way for so long before its row counts as forgotten.
const GRACE: Duration = Duration::from_secs(15);
/// A caller and its bus request may outlast the execution's timeout by so much.
const MARGIN: Duration = Duration::from_secs(60);
/// A node that has been silent for so long is gone.
const SILENT: Duration = Duration::from_secs(10);
const FIRST_SLICE: u32 = 50_000;
const SLICE: u32 = 2_000;

pub async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut first = true;
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        // What an earlier run of the only process held needs no grace.
        let (before, slice) = if first && node.config.alone {
            (node.started_at, FIRST_SLICE)
        } else {
            (Timestamp(node.store.now().0 - millis(GRACE)), SLICE)
        };
        match sweep(&node, before, slice).await {
            Ok(found) => {
                if found > 0 {
                    tracing::info!("went on with {found} executions that nobody had finished");
                }
                first = false;
            }
            Err(error) => {
                tracing::warn!(error = ?error, "unfinished executions were not looked for");
            }
        }
    }
}

async fn sweep(node: &Arc<Node>, before: Timestamp, slice: u32) -> Result<usize> {
    let rows = node.store.unfinished_executions(before, slice).await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let silent = silent_boots(node).await?;
    let mut found = 0;
    for row in rows {
        if node.runner.held.get(&row.key).is_some() {
            continue;
        }
        found += usize::from(go_on(node, &row, &silent).await?);
    }
    Ok(found)
}

/// Boots that are certainly gone: earlier ones of known nodes, and those of nodes that are silent.
async fn silent_boots(node: &Node) -> Result<HashSet<String>> {
    let at = node.store.now();
    let nodes = node.store.nodes().await?;
    let alive = nodes
        .into_iter()
        .filter(|other| other.id == node.config.node_id || at.since(other.heartbeat_at) < SILENT);
    Ok(alive.map(|other| other.boot_id.to_string()).collect())
}

/// `true`: something was done about it.
async fn go_on(node: &Arc<Node>, row: &Execution, alive: &HashSet<String>) -> Result<bool> {
    let runner: &Runner = &node.runner;
    let by_living = row
        .boot_id
        .as_ref()
        .is_some_and(|boot| alive.contains(boot.as_str()));
    let unrecorded = is_unrecorded(node, row).await?;
    match (row.mode, row.status) {
        (_, Status::Completed | Status::Failed | Status::Timeout | Status::Cancelled) => Ok(false),
        // Recorded in a moment by its holder.
        (_, Status::Running) if by_living && !unrecorded => Ok(false),
        (Mode::Async, Status::Running) => {
            if runner.lose(row).await? {
                enqueue(node, row).await?;
            }
            Ok(true)
        }
        (Mode::Async, Status::Queued) => {
            if node
                .store
                .envelopes_of_version(&row.key.account, &row.version_id)
                .await?
                .is_empty()
            {
                runner
                    .give_up(row, "its version is no longer running anywhere")
                    .await?;
            } else if node.pool(&row.version_id).is_some() {
                enqueue(node, row).await?;
            } else {
                return Ok(false);
            }
            Ok(true)
        }
        (Mode::Sync | Mode::Stream, Status::Running) => {
            let message = if unrecorded {
                "its outcome could not be recorded"
            } else {
                "the process that ran it is gone"
            };
            runner.give_up(row, message).await?;
            Ok(true)
        }
        (Mode::Sync | Mode::Stream, Status::Queued) => {
            let abandoned = if node.config.alone {
                node.started_at > row.accepted_at
            } else {
                node.store.now() > row.accepted_at + row.options.timeout() + MARGIN
            };
            if abandoned {
                runner
                    .give_up(row, "the process that accepted it is gone")
                    .await?;
            }
            Ok(abandoned)
        }
    }
}

/// It ran here, nobody holds it any more, and still it has no end: that could not be written. Whoever held it when the row
/// was read has written its end by now.
async fn is_unrecorded(node: &Node, row: &Execution) -> Result<bool> {
    let ours = row.boot_id.as_ref() == Some(&node.runner.holder.boot_id);
    if !ours || row.status != Status::Running {
        return Ok(false);
    }
    let still = node
        .store
        .execution(&row.key)
        .await?
        .is_some_and(|now| now.status == Status::Running && now.attempt == row.attempt);
    Ok(still && node.runner.held.get(&row.key).is_none())
}

async fn enqueue(node: &Node, row: &Execution) -> Result<()> {
    let execute = Execute {
        account: row.key.account.clone(),
        agent_id: row.key.agent_id.clone(),
        version_id: row.version_id.clone(),
        execution_id: row.key.id.clone(),
        options: row.options.clone(),
        caller: row.caller.clone(),
        input: None,
        accepted_at: row.accepted_at,
        losses: row.losses,
    };
    match node.bus.enqueue_execution(&execute, node.store.now()).await {
        // A later sweep finds it again.
        Err(error) if error.kind == domain::Kind::Exhausted => Ok(()),
        other => other,
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
