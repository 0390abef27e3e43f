//! DELETE /agents/{id}/sessions/{sid}: answers once nothing of it runs any more.

use crate::{
    api::{
        agents::living,
        executions::{cancel, found, watch},
    },
    app::App,
    door::Who,
    error::Answer,
    params::Path,
    respond,
};
use axum::{extract::State, response::Response};
use domain::{Error, Result, execution::Status};
use futures::StreamExt;
use proto::{
    status::from_status,
    v1::{EndSessionReply, EndSessionRequest, executor_client::ExecutorClient},
};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// Until an executor has seen the processes gone.
const ENDING: Duration = Duration::from_secs(30);
/// Executions that are stopped at the same time.
const AT_ONCE: usize = 16;

#[derive(Debug, Serialize, ToSchema)]
pub struct EndedSession {
    agent_id: String,
    session_id: String,
    /// Those that waited or ran, and are cancelled now.
    cancelled_executions: Vec<String>,
    /// The instances that it had to itself.
    instances: Vec<EndedInstance>,
}

/// An instance that was ended, as its executor saw it afterwards.
#[derive(Debug, Serialize, ToSchema)]
struct EndedInstance {
    instance_id: String,
    node_id: String,
    /// Of its first process, on its node.
    pid: i64,
    /// Nothing of it is left.
    gone: bool,
    /// Counted in its control group, or below its first process, after it was ended.
    processes_left: u32,
}

/// End a session
///
/// Cancels what it runs and ends its own instances; answers when their processes have been seen gone. The session may be used
/// again: it then begins anew.
#[utoipa::path(delete, path = "/api/v1/agents/{agent_id}/sessions/{session_id}", operation_id = "end_session", tag = "agents",
    params(("agent_id" = String, Path), ("session_id" = String, Path)), responses((status = 200, body = EndedSession)))]
pub async fn end(
    State(app): State<App>,
    who: Who,
    Path((agent_id, session_id)): Path<(String, String)>,
) -> Answer<Response> {
    let agent = living(&app, &who, &agent_id).await?;
    let (account, id) = (&agent.account, &agent.agent_id);
    if !app.store.session_is_known(account, id, &session_id).await? {
        return Err(Error::not_found(format!("session {session_id}")).into());
    }
    // Executions first: what is cancelled is told so, and not that its instance is gone.
    let open = app
        .store
        .open_executions_of_session(account, id, &session_id)
        .await?;
    let stopped = futures::stream::iter(open)
        .map(|execution| {
            let (app, who, agent_id) = (&app, &who, &agent_id);
            async move {
                let row = found(app, who, agent_id, &execution).await?;
                let status = cancel::stop(app, &row).await?;
                Ok((status == Status::Cancelled).then_some(execution))
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect::<Vec<Answer<Option<String>>>>()
        .await;
    let mut cancelled = Vec::new();
    for one in stopped {
        cancelled.extend(one?);
    }
    cancelled.sort_unstable();
    let request = EndSessionRequest {
        account: account.to_string(),
        agent_id: id.to_string(),
        session_id: session_id.clone(),
    };
    let addresses = watch::addresses(&app).await?;
    let asked = addresses
        .iter()
        .map(|address| ask(&app, address, request.clone()));
    let mut instances = Vec::new();
    for reply in futures::future::join_all(asked).await {
        let ended = |one: proto::v1::EndedInstance| EndedInstance {
            instance_id: one.instance_id,
            node_id: one.node_id,
            pid: one.pid,
            gone: one.processes_left == 0,
            processes_left: one.processes_left,
        };
        instances.extend(reply?.instances.into_iter().map(ended));
    }
    Ok(respond::ok(&EndedSession {
        agent_id: id.to_string(),
        session_id,
        cancelled_executions: cancelled,
        instances,
    }))
}

async fn ask(app: &App, address: &str, request: EndSessionRequest) -> Result<EndSessionReply> {
    let mut client = ExecutorClient::new(app.peers.channel(address)?);
    match tokio::time::timeout(ENDING, client.end_session(request)).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(from_status(&status)),
        Err(_) => Err(Error::unavailable("an executor does not answer; try again")),
    }
}
