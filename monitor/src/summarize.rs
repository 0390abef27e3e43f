//! Totals of agents, for lists and single documents.

use crate::{
    Config,
    query::{Which, each},
};
use domain::{
    Result, Timestamp,
    id::{AccountId, AgentId, VersionId},
    metrics::percentile,
};
use proto::v1::Summary;
use store::Store;

/// A percentile needs every figure: it is for one version, of not more executions than this.
const MOST_ROWS: usize = 200_000;

pub struct Asked<'a> {
    pub account: &'a AccountId,
    /// Empty: all of the account.
    pub agents: &'a [AgentId],
    pub version: Option<&'a VersionId>,
    pub since: Timestamp,
}

/// One per agent that has ended executions.
pub async fn summarize(config: &Config, store: &Store, asked: Asked<'_>) -> Result<Vec<Summary>> {
    let totals = store
        .totals(asked.account, asked.agents, asked.version, asked.since)
        .await?;
    let mut summaries = Vec::with_capacity(totals.len());
    for total in totals {
        let small = usize::try_from(total.total).is_ok_and(|total| total <= MOST_ROWS);
        let p95_ms = if small && asked.version.is_some() {
            p95(config, store, &asked, &total.agent_id).await?
        } else {
            None
        };
        summaries.push(Summary {
            agent_id: total.agent_id.to_string(),
            total: total.total,
            failed: total.failed,
            cancelled: total.cancelled,
            avg_ms: total.avg_ms,
            p95_ms,
            first_ms: total.first_at.map(|at| at.0),
        });
    }
    Ok(summaries)
}

async fn p95(
    config: &Config,
    store: &Store,
    asked: &Asked<'_>,
    agent: &AgentId,
) -> Result<Option<f64>> {
    let which = Which {
        account: asked.account,
        agent,
        version: asked.version,
        from: asked.since,
        to: Timestamp(store.now().0 + 1),
    };
    let mut durations = Vec::new();
    each(config, store, which, |figure| {
        durations.extend(figure.duration_ms);
    })
    .await?;
    durations.sort_unstable_by(f64::total_cmp);
    Ok(percentile(&durations, 0.95))
}
