//! Figures over time: from the cells of finished time, and from the executions themselves where they are in no cell yet.
//!
//! An execution belongs to the bucket it ended in. `failed` are `failed` and `timeout`; a cancel is its caller's own wish, neither
//! a success nor a failure, and only counts. Latencies are of what ran: an execution that was cancelled while it waited has none. A custom metric is the mean of what the executions of
//! the bucket reported under its name; a bucket where none did lacks it. `uptime_percent` is the share of those buckets in
//! which anything completed or failed where at least one execution completed.

use crate::{
    memory::Limits,
    summarize,
    tail::{self, Recent, Tail},
};
use domain::{
    Error, Result, Timestamp,
    alert::Minute,
    id::{AccountId, AgentId},
    metrics::{Granularity, Range},
    rollup::{Cell, Span},
};
use proto::v1::{Bucket, QueryReply};
use std::collections::BTreeMap;
use store::{
    Store,
    rollups::{Counts, Position, Which},
};

/// Buckets of a brief answer.
const GLANCE: i64 = 2;

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub account: &'a AccountId,
    pub agent: &'a AgentId,
    pub range: Range,
    /// Counts and means only, without percentiles and custom metrics; of the buckets the last [`GLANCE`]; and totals of all time.
    pub brief: bool,
}

pub async fn query(store: &Store, tail: &Tail, asked: Asked<'_>) -> Result<QueryReply> {
    for _ in 0..tail::TRIES {
        let recent = tail.recent().await?;
        let answer = answer(store, &recent, asked).await?;
        if tail.stands(&recent).await? {
            return Ok(answer);
        }
    }
    Err(tail::behind())
}

/// The largest span that every bucket is made of wholly.
fn span(granularity: Granularity) -> Span {
    match granularity {
        Granularity::Minute | Granularity::FiveMinutes => Span::Minute,
        Granularity::Hour => Span::Hour,
        Granularity::Day => Span::Day,
    }
}

async fn answer(store: &Store, recent: &Recent, asked: Asked<'_>) -> Result<QueryReply> {
    let range = asked.range;
    let which = Which {
        account: asked.account,
        agents: std::slice::from_ref(asked.agent),
        version: None,
        span: span(range.granularity),
        from: range.start,
        to: range.end,
    };
    kept(store, &recent.position, &which, range.granularity).await?;
    let mut limits = Limits::default();
    let mut cells: BTreeMap<usize, Minute> = BTreeMap::new();
    let mut into = |at: Timestamp, part: Minute| {
        if let Some(at) = range.index(at) {
            cells.entry(at).or_default().merge(&part);
        }
    };
    if asked.brief {
        for counts in store.counts_of(&which).await? {
            into(counts.start, brief(&counts).into());
        }
    } else {
        for (_, version, start, cell) in store.cells_of(&which).await? {
            let peak = cell.memory_peak_mb;
            let memory = limits.share(store, asked.account, &version, peak).await?;
            into(start, Minute { cell, memory });
        }
    }
    for (version, ended) in recent.of_agent(asked.account, asked.agent) {
        let mut cell = Cell::default();
        cell.add(ended);
        let peak = cell.memory_peak_mb.filter(|_| !asked.brief);
        let memory = limits.share(store, asked.account, version, peak).await?;
        into(ended.completed_at, Minute { cell, memory });
    }
    let mut reply = reply(asked, &cells);
    if asked.brief {
        let ever = summarize::Asked {
            account: asked.account,
            agents: which.agents,
            version: None,
            since: Timestamp(0),
        };
        reply.ever = summarize::summaries(store, recent, &ever).await?.pop();
    }
    Ok(reply)
}

/// An error where what is asked for is not kept any more, and was there.
async fn kept(
    store: &Store,
    position: &Position,
    which: &Which<'_>,
    granularity: Granularity,
) -> Result<()> {
    let (kept_from, coarser) = match which.span {
        Span::Minute => (position.minutes_from, [Span::Hour, Span::Day].as_slice()),
        Span::Hour => (position.hours_from, [Span::Day].as_slice()),
        Span::Day | Span::Ever => return Ok(()),
    };
    if which.from >= kept_from {
        return Ok(());
    }
    for span in coarser {
        let before = Which {
            span: *span,
            from: span.start(which.from),
            to: kept_from.min(which.to),
            ..which.clone()
        };
        if !store.counts_of(&before).await?.is_empty() {
            let allowed = match span {
                Span::Minute | Span::Hour => "1h or 1d",
                Span::Day | Span::Ever => "1d",
            };
            let what = format_args!(
                "{granularity} is kept since {kept_from}; for times before, allowed is {allowed}"
            );
            return Err(Error::fault("granularity", what));
        }
    }
    Ok(())
}

/// As much of a cell as its columns say.
pub fn brief(counts: &Counts) -> Cell {
    let bad = counts.failed + counts.cancelled;
    let mut cell = Cell {
        completed: counts.total.saturating_sub(bad),
        failed: counts.failed,
        cancelled: counts.cancelled,
        first_at: Some(counts.first_at.0),
        ..Cell::default()
    };
    cell.duration.count = counts.ran;
    cell.duration.sum = counts.duration_ms;
    cell
}

fn reply(asked: Asked<'_>, cells: &BTreeMap<usize, Minute>) -> QueryReply {
    let range = asked.range;
    let mut all = Cell::default();
    let (mut busy, mut up) = (0_u32, 0_u32);
    for Minute { cell, .. } in cells.values() {
        all.completed += cell.completed;
        all.failed += cell.bad();
        all.cancelled += cell.cancelled;
        all.duration.count += cell.duration.count;
        all.duration.sum += cell.duration.sum;
        busy += u32::from(cell.judged() > 0);
        up += u32::from(cell.completed > 0);
    }
    let step = range.granularity.millis();
    let (empty, count) = (Minute::default(), range.buckets());
    let first = if asked.brief {
        count - GLANCE.min(count)
    } else {
        0
    };
    QueryReply {
        buckets: (first..count)
            .map(|at| {
                let cell = usize::try_from(at).ok().and_then(|at| cells.get(&at));
                bucket(range.start.0 + at * step, cell.unwrap_or(&empty))
            })
            .collect(),
        total: all.total(),
        failed: all.failed,
        cancelled: all.cancelled,
        avg_ms: all.duration.mean(),
        uptime_percent: (busy > 0).then(|| 100.0 * f64::from(up) / f64::from(busy)),
        ever: None,
    }
}

fn bucket(start_ms: i64, of: &Minute) -> Bucket {
    let cell = &of.cell;
    let custom = cell.custom.iter();
    Bucket {
        start_ms,
        count: cell.total(),
        failed: cell.bad(),
        cancelled: cell.cancelled,
        avg_ms: cell.duration.mean(),
        p50_ms: cell.durations.percentile(0.5),
        p95_ms: cell.durations.percentile(0.95),
        p99_ms: cell.durations.percentile(0.99),
        queue_avg_ms: cell.queue.mean(),
        queue_p95_ms: cell.queues.percentile(0.95),
        cpu_ms: cell.cpu.sum,
        cpu_share: cell.cpu_share(),
        memory_share: of.memory,
        memory_peak_mb: cell.memory_peak_mb,
        tokens: (cell.tokens.count > 0).then_some(cell.tokens.sum),
        custom: custom
            .filter_map(|(name, sum)| Some((name.clone(), sum.mean()?)))
            .collect(),
    }
}
