//! What became of executions of a version, counted from the rows, for whoever judges it.

use crate::Config;
use domain::{
    Result, Timestamp,
    execution::Status,
    id::{AccountId, AgentId, VersionId},
    verdict::Sample,
};
use proto::{
    convert::{sample, word},
    v1::{SamplesReply, SamplesRequest},
};
use std::collections::BTreeMap;
use store::{Store, rollouts::Window};

/// One slice a question: whoever asks goes on from `upto_ms`.
pub async fn samples(
    config: &Config,
    store: &Store,
    asked: SamplesRequest,
) -> Result<SamplesReply> {
    let account: AccountId = word(&asked.account)?;
    let agent: AgentId = word(&asked.agent_id)?;
    let mut counted: BTreeMap<String, Sample> = BTreeMap::new();
    for id in &asked.version_ids {
        let id: VersionId = word(id)?;
        counted.insert(id.to_string(), Sample::default());
    }
    let window = Window {
        since: Timestamp(asked.since_ms),
        from: Timestamp(asked.from_ms),
        to: Timestamp(asked.to_ms),
    };
    let mut rows = store
        .samples(&account, &agent, window, config.slice)
        .await?;
    let mut upto = window.to;
    // The last millisecond of a full slice may go on: it is counted with the next one, unless it is all there is.
    if let Some(last) = rows.last().filter(|_| rows.len() >= config.slice as usize) {
        let last = last.completed_at;
        let sure = rows.partition_point(|row| row.completed_at < last);
        if sure == 0 {
            upto = Timestamp(last.0 + 1);
        } else {
            rows.truncate(sure);
            upto = last;
        }
    }
    for row in &rows {
        let Some(sample) = counted.get_mut(&row.version_id) else {
            continue;
        };
        match row.status {
            Status::Completed => {
                sample.ended += 1;
                if let Some(ms) = row.duration_ms {
                    sample.latency.add(ms);
                }
            }
            Status::Failed => {
                sample.ended += 1;
                sample.failed += 1;
            }
            Status::Timeout => {
                sample.ended += 1;
                sample.timeouts += 1;
            }
            Status::Cancelled | Status::Queued | Status::Running => {}
        }
    }
    Ok(SamplesReply {
        samples: counted.iter().map(|(id, one)| sample(id, one)).collect(),
        upto_ms: upto.0,
    })
}
