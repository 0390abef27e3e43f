//! Asks monitor, with short deadlines: figures are worth a moment, never a hanging page.

use crate::app::App;
use domain::{
    Error, Result, Timestamp,
    id::{AccountId, AgentId, VersionId},
    metrics::Range,
};
use proto::{
    status::from_status,
    v1::{
        QueryReply, QueryRequest, SummarizeRequest, Summary, SystemReply, SystemRequest,
        monitor_client::MonitorClient,
    },
};
use std::time::Duration;
use tonic::transport::Channel;

/// Beside a document of ours, which is given without figures if they do not come.
const ASIDE: Duration = Duration::from_secs(2);
/// Where figures are what was asked for.
const QUERY: Duration = Duration::from_secs(20);
const MESSAGE_BYTES: usize = 64 * 1024 * 1024;

fn client(app: &App) -> Result<MonitorClient<Channel>> {
    let channel = app.peers.channel(&app.monitor_address)?;
    Ok(MonitorClient::new(channel).max_decoding_message_size(MESSAGE_BYTES))
}

async fn within<T>(
    limit: Duration,
    asked: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(from_status(&status)),
        Err(_) => Err(Error::unavailable("monitor does not answer; try again")),
    }
}

pub async fn query(
    app: &App,
    account: &AccountId,
    agent: &AgentId,
    range: Range,
) -> Result<QueryReply> {
    within(QUERY, client(app)?.query(question(account, agent, range))).await
}

fn question(account: &AccountId, agent: &AgentId, range: Range) -> QueryRequest {
    QueryRequest {
        account: account.to_string(),
        agent_id: agent.to_string(),
        start_ms: range.start.0,
        end_ms: range.end.0,
        granularity: range.granularity.as_str().to_owned(),
    }
}

/// As [`query`], for a document that also stands without it.
pub async fn glance(
    app: &App,
    account: &AccountId,
    agent: &AgentId,
    range: Range,
) -> Option<QueryReply> {
    let mut client = client(app).ok()?;
    said(within(ASIDE, client.query(question(account, agent, range))).await)
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
    let mut client = client(app).ok()?;
    let reply = said(within(ASIDE, client.summarize(request)).await)?;
    Some(reply.summaries)
}

pub async fn system(app: &App, account: &AccountId) -> Result<SystemReply> {
    let request = SystemRequest {
        account: account.to_string(),
    };
    within(ASIDE, client(app)?.system(request)).await
}

fn said<T>(reply: Result<T>) -> Option<T> {
    reply
        .inspect_err(|error| tracing::debug!(error = ?error, "a document goes out without figures"))
        .ok()
}

/// The share of executions that failed; nothing where there were none.
pub fn error_rate(failed: u64, total: u64) -> Option<f64> {
    (total > 0).then(|| failed as f64 / total as f64)
}
