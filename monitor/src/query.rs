//! Figures over time: exact, from the executions that ended in each bucket.
//!
//! An execution belongs to the bucket it ended in. `failed` are `failed` and `timeout`; a cancel is its caller's own wish, neither
//! a success nor a failure, and only counts. Latencies are of what ran: an execution that was cancelled while it waited has none. A custom metric is the mean of what the executions of
//! the bucket reported under its name; a bucket where none did lacks it. `uptime_percent` is the share of those buckets in
//! which anything completed or failed where at least one execution completed.

use crate::Config;
use domain::{
    Error, Result, Timestamp,
    execution::Status,
    id::{AccountId, AgentId, VersionId},
    metrics::{Range, percentile},
};
use proto::v1::{Bucket, QueryReply};
use std::collections::{BTreeMap, HashMap};
use store::{Store, figures::Figure};

/// Names of custom metrics that one bucket holds; those over it are left out, in no particular order.
const MOST_NAMES: usize = 200;

pub async fn query(
    config: &Config,
    store: &Store,
    (account, agent): (&AccountId, &AgentId),
    range: Range,
) -> Result<QueryReply> {
    let mut fold = Fold::new(range);
    let which = Which {
        account,
        agent,
        version: None,
        from: range.start,
        to: range.end,
    };
    each(config, store, which, |figure| fold.add(figure)).await?;
    Ok(fold.end())
}

/// Ended executions, by their end in `[from, to)`.
pub struct Which<'a> {
    pub account: &'a AccountId,
    pub agent: &'a AgentId,
    pub version: Option<&'a VersionId>,
    pub from: Timestamp,
    pub to: Timestamp,
}

/// Every figure in order, in slices, so that a long range is never in memory whole.
pub async fn each(
    config: &Config,
    store: &Store,
    which: Which<'_>,
    mut see: impl FnMut(&Figure),
) -> Result<()> {
    let (mut from, mut slice, mut seen) = (which.from, config.slice, 0);
    loop {
        let rows = store
            .figures(
                which.account,
                which.agent,
                which.version,
                from,
                which.to,
                slice,
            )
            .await?;
        let whole = rows.len() < slice as usize;
        let last = rows.last().map_or(from, |row| row.completed_at);
        // The last millisecond may go on in the next slice: it is read there, whole.
        let sure = if whole {
            rows.len()
        } else {
            rows.partition_point(|row| row.completed_at < last)
        };
        rows[..sure].iter().for_each(&mut see);
        seen += sure;
        if seen > config.most_rows {
            return Err(Error::fault(
                "start_time",
                format_args!(
                    "reaches over more than {} executions; ask for a shorter time",
                    config.most_rows
                ),
            ));
        }
        if whole {
            return Ok(());
        }
        if sure == 0 {
            slice = slice.saturating_mul(2);
        }
        from = last;
    }
}

/// What has been seen of a range, in order.
struct Fold {
    range: Range,
    buckets: Vec<Bucket>,
    open: Open,
    total: Sum,
    failed: u64,
    cancelled: u64,
}

/// The bucket that figures still come to.
#[derive(Default)]
struct Open {
    at: usize,
    count: u64,
    failed: u64,
    cancelled: u64,
    durations: Vec<f64>,
    custom: HashMap<String, Sum>,
}

#[derive(Default)]
struct Sum {
    count: u64,
    ran: u64,
    sum: f64,
}

impl Sum {
    fn mean(&self) -> Option<f64> {
        (self.ran > 0).then(|| self.sum / self.ran as f64)
    }

    fn add(&mut self, figure: Option<f64>) {
        self.count += 1;
        if let Some(figure) = figure {
            self.ran += 1;
            self.sum += figure;
        }
    }
}

impl Fold {
    fn new(range: Range) -> Self {
        let step = range.granularity.millis();
        let buckets = (0..range.buckets())
            .map(|at| Bucket {
                start_ms: range.start.0 + at * step,
                ..Bucket::default()
            })
            .collect();
        Self {
            range,
            buckets,
            open: Open::default(),
            total: Sum::default(),
            failed: 0,
            cancelled: 0,
        }
    }

    fn add(&mut self, figure: &Figure) {
        let Some(at) = self.range.index(figure.completed_at) else {
            return;
        };
        if at != self.open.at {
            self.close();
            self.open.at = at;
        }
        let failed = u64::from(matches!(figure.status, Status::Failed | Status::Timeout));
        let cancelled = u64::from(figure.status == Status::Cancelled);
        self.total.add(figure.duration_ms);
        self.failed += failed;
        self.cancelled += cancelled;
        let open = &mut self.open;
        open.count += 1;
        open.failed += failed;
        open.cancelled += cancelled;
        open.durations.extend(figure.duration_ms);
        let reported = figure.metrics.as_deref();
        let reported: BTreeMap<String, f64> = reported
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default();
        for (name, value) in reported {
            if open.custom.len() < MOST_NAMES || open.custom.contains_key(&name) {
                open.custom.entry(name).or_default().add(Some(value));
            }
        }
    }

    fn close(&mut self) {
        let mut open = std::mem::take(&mut self.open);
        let Some(bucket) = self.buckets.get_mut(open.at) else {
            return;
        };
        open.durations.sort_unstable_by(f64::total_cmp);
        let durations = &open.durations;
        bucket.count = open.count;
        bucket.failed = open.failed;
        bucket.cancelled = open.cancelled;
        bucket.avg_ms = mean(durations);
        bucket.p50_ms = percentile(durations, 0.5);
        bucket.p95_ms = percentile(durations, 0.95);
        bucket.p99_ms = percentile(durations, 0.99);
        bucket.custom = open
            .custom
            .into_iter()
            .filter_map(|(name, sum)| Some((name, sum.mean()?)))
            .collect();
    }

    fn end(mut self) -> QueryReply {
        self.close();
        let judged = |bucket: &&Bucket| bucket.count.saturating_sub(bucket.cancelled);
        let busy = self.buckets.iter().filter(|bucket| judged(bucket) > 0);
        let up = busy.clone().filter(|bucket| bucket.failed < judged(bucket));
        let (busy, up) = (busy.count(), up.count());
        QueryReply {
            total: self.total.count,
            failed: self.failed,
            cancelled: self.cancelled,
            avg_ms: self.total.mean(),
            uptime_percent: (busy > 0).then(|| 100.0 * up as f64 / busy as f64),
            buckets: self.buckets,
        }
    }
}

fn mean(figures: &[f64]) -> Option<f64> {
    (!figures.is_empty()).then(|| figures.iter().sum::<f64>() / figures.len() as f64)
}
