//! What an instance says outside of any call, and what is said about it: lines of the agent's log.

use super::Grounds;
use crate::{confine::egress::Refusal, version::Version};
use domain::log::{Level, Line};
use std::sync::{Arc, Mutex, PoisonError};
use store::{Clock, logs::Entry};
use tokio::sync::mpsc;

/// What is kept of what an instance says while it starts, for whoever asks why it did not.
const KEPT_LINES: usize = 200;

/// Connections that the proxy refused are lines of the instance.
pub async fn tell_refusals(
    mut refused: mpsc::Receiver<Refusal>,
    lines: impl Fn(Vec<Line>),
    clock: Clock,
) {
    while let Some(refusal) = refused.recv().await {
        let message = format!(
            "connection to {}:{} refused: {}",
            refusal.host, refusal.port, refusal.reason
        );
        lines(vec![Line {
            timestamp: clock.now(),
            level: Level::Warn,
            message,
            context: None,
        }]);
    }
}

/// Keeps what an instance says outside of any call: for its start, for the agent's log, for whoever watches.
pub fn instance_lines(
    version: &Arc<Version>,
    grounds: &Grounds,
    said: Arc<Mutex<Vec<Line>>>,
) -> impl Fn(Vec<Line>) + use<> {
    let (version, grounds) = (Arc::clone(version), grounds.clone());
    let budget = std::sync::atomic::AtomicI64::new(i64::from(grounds.logs.bytes));
    move |mut lines| {
        let now = grounds.store.now();
        lines.iter_mut().for_each(|line| line.heard(now));
        let bytes: usize = lines.iter().map(Line::bytes).sum();
        if budget.fetch_sub(
            i64::try_from(bytes).unwrap_or(i64::MAX),
            std::sync::atomic::Ordering::Relaxed,
        ) < 0
        {
            return;
        }
        let mut kept = said.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEPT_LINES.saturating_sub(kept.len());
        kept.extend(lines.iter().take(room).cloned());
        drop(kept);
        grounds
            .hub
            .log(&version.account, &version.spec.agent_id, None, &lines);
        let store = grounds.store.clone();
        let entry = |(seq, line): (usize, Line)| Entry {
            account: version.account.clone(),
            agent_id: version.spec.agent_id.clone(),
            execution_id: None,
            seq: i64::try_from(seq).unwrap_or(0),
            line,
        };
        let entries: Vec<Entry> = lines.into_iter().enumerate().map(entry).collect();
        grounds.tasks.spawn(async move {
            if let Err(error) = store.append_logs(entries).await {
                tracing::warn!(error = ?error, "log lines of an instance were not kept");
            }
        });
    }
}
