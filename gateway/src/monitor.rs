//! Asks monitor, with short deadlines: figures are worth a moment, never a hanging page.

use crate::app::App;
use domain::{
    Error, Kind, Result, Timestamp,
    id::{AccountId, AgentId, VersionId},
    metrics::Range,
};
use proto::{
    status::from_status,
    trace::Calls,
    v1::{
        Bucket, QueryReply, QueryRequest, SummarizeRequest, Summary, SystemReply, SystemRequest,
        monitor_client::MonitorClient,
    },
};
use std::time::Duration;
use tonic::{Code, transport::Channel};

/// Beside a document of ours, which is given without figures if they do not come.
const ASIDE: Duration = Duration::from_secs(2);
/// Where figures are what was asked for.
const QUERY: Duration = Duration::from_secs(20);
const MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// Asks the monitors one after the other until one answers, each within `limit`.
async fn ask<T, A>(
    app: &App,
    limit: Duration,
    asking: impl Fn(MonitorClient<Calls<Channel>>) -> A,
) -> Result<T>
where
    A: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    let mut silent = Error::unavailable("no monitor is known; name one in gateway.monitors");
    for address in &app.monitors {
        let channel = app.peers.channel(address)?;
        let client = MonitorClient::new(channel).max_decoding_message_size(MESSAGE_BYTES);
        silent = match tokio::time::timeout(limit, asking(client)).await {
            Ok(Ok(reply)) => return Ok(reply.into_inner()),
            Ok(Err(status)) => match from_status(&status) {
                // A broken connection has no word of its own.
                error if error.kind == Kind::Unavailable || status.code() == Code::Unknown => {
                    Error::unavailable("monitor does not answer; try again").because(error)
                }
                error => return Err(error),
            },
            Err(_) => Error::unavailable("monitor does not answer; try again"),
        };
    }
    Err(silent)
}

pub async fn query(
    app: &App,
    account: &AccountId,
    agent: &AgentId,
    range: Range,
) -> Result<QueryReply> {
    let asked = question(account, agent, range);
    ask(app, QUERY, |mut client| {
        let asked = asked.clone();
        async move { client.query(asked).await }
    })
    .await
}

fn question(account: &AccountId, agent: &AgentId, range: Range) -> QueryRequest {
    QueryRequest {
        account: account.to_string(),
        agent_id: agent.to_string(),
        start_ms: range.start.0,
        end_ms: range.end.0,
        granularity: range.granularity.as_str().to_owned(),
        brief: false,
    }
}

/// As [`query`] without percentiles and custom metrics, and with the last two buckets only, and with totals, for a document that also stands without it.
pub async fn glance(
    app: &App,
    account: &AccountId,
    agent: &AgentId,
    range: Range,
) -> Option<QueryReply> {
    let asked = QueryRequest {
        brief: true,
        ..question(account, agent, range)
    };
    let asking = ask(app, ASIDE, |mut client| {
        let asked = asked.clone();
        async move { client.query(asked).await }
    });
    said(asking.await)
}

/// Totals of these agents, or nothing where monitor does not answer.
pub async fn summaries(
    app: &App,
    account: &AccountId,
    agents: Vec<String>,
    since: Timestamp,
    version: Option<&VersionId>,
) -> Option<Vec<Summary>> {
    if agents.is_empty() {
        return Some(Vec::new());
    }
    let request = SummarizeRequest {
        account: account.to_string(),
        agent_ids: agents,
        since_ms: since.0,
        version_id: version.map(ToString::to_string).unwrap_or_default(),
    };
    let asked = ask(app, ASIDE, |mut client| {
        let request = request.clone();
        async move { client.summarize(request).await }
    });
    let reply = said(asked.await)?;
    Some(reply.summaries)
}

pub async fn system(app: &App, account: &AccountId) -> Result<SystemReply> {
    let request = SystemRequest {
        account: account.to_string(),
    };
    ask(app, ASIDE, |mut client| {
        let request = request.clone();
        async move { client.system(request).await }
    })
    .await
}

fn said<T>(reply: Result<T>) -> Option<T> {
    reply
        .inspect_err(|error| tracing::debug!(error = ?error, "a document goes out without figures"))
        .ok()
}

/// How many ended how. A cancel is its caller's own wish: neither a success nor a failure, in no rate.
#[derive(Debug, Clone, Copy)]
pub struct Ends {
    pub total: u64,
    pub failed: u64,
    pub cancelled: u64,
}

impl Ends {
    /// Failed or out of time, of those that completed, failed or ran out of time; nothing where there were none.
    pub fn error_rate(self) -> Option<f64> {
        let judged = self.total.saturating_sub(self.cancelled);
        (judged > 0).then(|| self.failed.min(judged) as f64 / judged as f64)
    }

    /// The others of those.
    pub fn success_rate(self) -> Option<f64> {
        let judged = self.total.saturating_sub(self.cancelled);
        (judged > 0).then(|| judged.saturating_sub(self.failed) as f64 / judged as f64)
    }
}

impl From<&Summary> for Ends {
    fn from(of: &Summary) -> Self {
        Self {
            total: of.total,
            failed: of.failed,
            cancelled: of.cancelled,
        }
    }
}

impl From<&QueryReply> for Ends {
    fn from(of: &QueryReply) -> Self {
        Self {
            total: of.total,
            failed: of.failed,
            cancelled: of.cancelled,
        }
    }
}

impl From<&Bucket> for Ends {
    fn from(of: &Bucket) -> Self {
        Self {
            total: of.count,
            failed: of.failed,
            cancelled: of.cancelled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_is_in_no_rate() {
        let of = |total, failed, cancelled| {
            let ends = Ends {
                total,
                failed,
                cancelled,
            };
            (ends.success_rate(), ends.error_rate())
        };
        assert_eq!(of(0, 0, 0), (None, None));
        assert_eq!(of(3, 0, 3), (None, None));
        assert_eq!(of(4, 1, 0), (Some(0.75), Some(0.25)));
        assert_eq!(of(8, 1, 4), (Some(0.75), Some(0.25)));
        assert_eq!(of(2, 1, 1), (Some(0.0), Some(1.0)));
    }
}
