//! Totals of agents, for lists and single documents: what is in their cells of all time, and what is in none yet. A question
//! since some moment is answered from the executions of its first minute, then from the largest cells that fit.

use crate::{
    memory::Limits,
    query::brief,
    tail::{self, Recent, Tail},
};
use domain::{
    Result, Timestamp,
    id::{AccountId, AgentId, VersionId},
    rollup::{Cell, Span},
};
use proto::v1::Summary;
use std::collections::BTreeMap;
use store::{Store, rollups::Which};

/// Executions that end in one minute and are read for a question since its middle.
const FIRST_MINUTE: u32 = 500_000;

pub struct Asked<'a> {
    pub account: &'a AccountId,
    /// Empty: all of the account.
    pub agents: &'a [AgentId],
    pub version: Option<&'a VersionId>,
    pub since: Timestamp,
}

impl Asked<'_> {
    fn is_of(&self, agent: &AgentId, version: &VersionId) -> bool {
        (self.agents.is_empty() || self.agents.contains(agent))
            && self.version.is_none_or(|only| only == version)
    }
}

/// One per agent that has ended executions; the percentile and shares where a version is named.
pub async fn summarize(store: &Store, tail: &Tail, asked: Asked<'_>) -> Result<Vec<Summary>> {
    for _ in 0..tail::TRIES {
        let recent = tail.recent().await?;
        let summaries = summaries(store, &recent, &asked).await?;
        if tail.stands(&recent).await? {
            return Ok(summaries);
        }
    }
    Err(tail::behind())
}

/// As [`summarize`], beside what else is answered from the same moment.
pub async fn summaries(store: &Store, recent: &Recent, asked: &Asked<'_>) -> Result<Vec<Summary>> {
    let cells = totals(store, recent, asked).await?;
    let mut limits = Limits::default();
    let mut summaries = Vec::with_capacity(cells.len());
    for (agent, cell) in cells {
        if cell.total() == 0 {
            continue;
        }
        let memory_share = match asked.version {
            Some(version) => {
                let peak = cell.memory_peak_mb;
                limits.share(store, asked.account, version, peak).await?
            }
            None => None,
        };
        summaries.push(Summary {
            agent_id: agent.to_string(),
            total: cell.total(),
            failed: cell.bad(),
            cancelled: cell.cancelled,
            avg_ms: cell.duration.mean(),
            p95_ms: asked.version.and_then(|_| cell.durations.percentile(0.95)),
            first_ms: cell.first_at,
            cpu_share: asked.version.and_then(|_| cell.cpu_share()),
            memory_share,
        });
    }
    Ok(summaries)
}

async fn totals(
    store: &Store,
    recent: &Recent,
    asked: &Asked<'_>,
) -> Result<BTreeMap<AgentId, Cell>> {
    let mut cells: BTreeMap<AgentId, Cell> = BTreeMap::new();
    let which = |span, from, to| Which {
        account: asked.account,
        agents: asked.agents,
        version: asked.version,
        span,
        from,
        to,
    };
    let mut wholes = Vec::new();
    if asked.since.0 <= 0 {
        wholes.push(which(Span::Ever, Timestamp(0), Timestamp(1)));
    } else {
        let minute = after(Span::Minute, asked.since);
        let hour = after(Span::Hour, minute);
        let day = after(Span::Day, hour);
        let end = minute.min(recent.position.at);
        if asked.since < end {
            let first = store.ended(asked.since, end, FIRST_MINUTE).await?;
            for (of, ended) in first {
                if &of.account == asked.account && asked.is_of(&of.agent_id, &of.version_id) {
                    cells.entry(of.agent_id).or_default().add(&ended);
                }
            }
        }
        wholes.push(which(Span::Minute, minute, hour));
        wholes.push(which(Span::Hour, hour, day));
        wholes.push(which(Span::Day, day, Timestamp(i64::MAX)));
    }
    for which in wholes {
        // Sketches are read only where their percentile is told.
        if asked.version.is_some() {
            for (agent, _, _, cell) in store.cells_of(&which).await? {
                cells.entry(agent).or_default().merge(&cell);
            }
        } else {
            for counts in store.counts_of(&which).await? {
                let agent = counts.agent_id.clone();
                cells.entry(agent).or_default().merge(&brief(&counts));
            }
        }
    }
    for (agent, all) in recent.of_account(asked.account) {
        for (version, ended) in all {
            if ended.completed_at >= asked.since && asked.is_of(agent, version) {
                cells.entry(agent.clone()).or_default().add(ended);
            }
        }
    }
    Ok(cells)
}

/// Where the first of a span's cells begins that is wholly at `at` or later.
fn after(span: Span, at: Timestamp) -> Timestamp {
    let start = span.start(at);
    match span.millis() {
        Some(step) if start < at => Timestamp(start.0 + step),
        _ => start,
    }
}
