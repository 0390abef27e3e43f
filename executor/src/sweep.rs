//! Executions that nobody finished: their process died, or their message was lost. The row is the truth.

use crate::{host::Node, run::Runner};
use domain::{
    Result, Timestamp,
    execution::{Mode, Status},
    liveness::Liveness,
};
use proto::convert::Execute;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use store::executions::{Execution, Key};
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(2);
/// A message may be on its way for so long before its row counts as forgotten.
const GRACE: Duration = Duration::from_secs(15);
/// A caller and its bus request may outlast the execution's timeout by so much.
const MARGIN: Duration = Duration::from_secs(60);
/// A node that was lost longer ago has left nothing to be tidied.
const TIDIED_WITHIN: Duration = Duration::from_secs(3600);
/// A row that waits is brought to its lane again at most so often: its message may be lost.
const NUDGE_EVERY: Duration = Duration::from_secs(60);
const FIRST_SLICE: u32 = 50_000;
const SLICE: u32 = 2_000;

/// Rows that say that this process runs them, which it does not: their end could not be written. When each was first seen so.
type Strays = HashMap<(Key, u32), Instant>;

pub async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut first = true;
    let mut strays = Strays::new();
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
        match sweep(&node, before, slice, &mut strays).await {
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

async fn sweep(
    node: &Arc<Node>,
    before: Timestamp,
    slice: u32,
    strays: &mut Strays,
) -> Result<usize> {
    let alive = living_boots(node).await?;
    let rows = node.store.unfinished_executions(before, slice).await?;
    let rows: Vec<Execution> = rows
        .into_iter()
        .filter(|row| node.runner.held.get(&row.key).is_none())
        .collect();
    note_strays(strays, node, &rows);
    let mut found = 0;
    for row in rows {
        let boot = row.boot_id.as_ref();
        let stray = strays.get(&(row.key.clone(), row.attempt));
        let by_living = boot.is_some_and(|boot| alive.contains(boot.as_str()))
            && stray.is_none_or(|since| since.elapsed() < GRACE);
        found += usize::from(go_on(node, &row, by_living).await?);
    }
    Ok(found)
}

fn note_strays(strays: &mut Strays, node: &Node, rows: &[Execution]) {
    let ours = rows
        .iter()
        .filter(|row| row.status == Status::Running && row.boot_id.as_ref() == Some(&node.boot_id));
    let seen: HashSet<(Key, u32)> = ours.map(|row| (row.key.clone(), row.attempt)).collect();
    strays.retain(|stray, _| seen.contains(stray));
    for stray in seen {
        strays.entry(stray).or_insert_with(Instant::now);
    }
}

/// Boots that may still run what they hold: all but earlier ones of known nodes and those of nodes that are lost, whose
/// instances end here too.
async fn living_boots(node: &Node) -> Result<HashSet<String>> {
    let (sight, now) = (node.sight(), node.store.now());
    let mut alive = HashSet::new();
    for other in node.store.nodes().await? {
        if other.id == node.config.node_id || other.judge(sight, now) != Liveness::Lost {
            alive.insert(other.boot_id.to_string());
        } else if now.since(other.heartbeat_at) < TIDIED_WITHIN {
            node.store
                .end_instances_of_lost_node(&other.id, now)
                .await?;
            node.store.end_crash_loops_of_node(&other.id).await?;
        }
    }
    Ok(alive)
}

/// `true`: something was done about it.
async fn go_on(node: &Arc<Node>, row: &Execution, by_living: bool) -> Result<bool> {
    let runner: &Runner = &node.runner;
    match (row.mode, row.status) {
        (_, Status::Completed | Status::Failed | Status::Timeout | Status::Cancelled) => Ok(false),
        // Recorded in a moment by its holder.
        (_, Status::Running) if by_living => Ok(false),
        (Mode::Async, Status::Running) => {
            if runner.lose(row).await? {
                enqueue(node, row, node.store.now()).await?;
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
                // What waits in its lane is the same message, and it is not nudged more often than this.
                let age = node.store.now().since(row.due_at).as_secs();
                let times = i64::try_from(age / NUDGE_EVERY.as_secs()).unwrap_or(0);
                let due_at = Timestamp(row.due_at.0 + times * millis(NUDGE_EVERY));
                enqueue(node, row, due_at).await?;
            } else {
                return Ok(false);
            }
            Ok(true)
        }
        (Mode::Sync | Mode::Stream, Status::Running) => {
            let message = "the process that ran it is gone, or could not record its outcome";
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

async fn enqueue(node: &Node, row: &Execution, due_at: Timestamp) -> Result<()> {
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
        has_row: true,
        sent: None,
    };
    match node.bus.enqueue_execution(&execute, due_at).await {
        // A later sweep finds it again.
        Err(error) if error.kind == domain::Kind::Exhausted => Ok(()),
        other => other,
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
