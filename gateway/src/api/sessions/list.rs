//! GET /agents/{id}/sessions.

use crate::{
    api::{
        Pagination,
        agents::{instances::version_names, living},
    },
    app::App,
    door::Who,
    error::Answer,
    openapi,
    params::{Params, Path},
    respond,
};
use axum::{extract::State, response::Response};
use domain::{Timestamp, instance::State as InstanceState, session::LONGEST_LIFE};
use serde::Serialize;
use store::{instances::Instance, sessions::Session};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct SessionList {
    agent_id: String,
    sessions: Vec<SessionLine>,
    pagination: Pagination,
}

#[derive(Debug, Serialize, ToSchema)]
struct SessionLine {
    session_id: String,
    /// Of its last execution.
    version: Option<String>,
    version_id: String,
    executions: u64,
    /// Of those, the ones that wait or run.
    open_executions: u64,
    #[schema(schema_with = openapi::time)]
    first_seen_at: Timestamp,
    #[schema(schema_with = openapi::time)]
    last_seen_at: Timestamp,
    /// The instances that it has to itself: one, with `isolation: session`, until it has been idle or old for too long; else none.
    instances: Vec<SessionInstance>,
}

#[derive(Debug, Serialize, ToSchema)]
struct SessionInstance {
    instance_id: String,
    node_id: String,
    #[schema(schema_with = openapi::instance_state)]
    state: InstanceState,
    pid: Option<i64>,
    #[schema(schema_with = openapi::time)]
    created_at: Timestamp,
}

impl From<&Instance> for SessionInstance {
    fn from(from: &Instance) -> Self {
        Self {
            instance_id: from.id.to_string(),
            node_id: from.node_id.to_string(),
            state: from.state,
            pid: from.pid,
            created_at: from.created_at,
        }
    }
}

/// List an agent's sessions
///
/// Those that were called in the last 8 hours, which is as long as one may live; the last called first.
#[utoipa::path(get, path = "/api/v1/agents/{agent_id}/sessions", operation_id = "list_sessions", tag = "agents",
    params(("agent_id" = String, Path), ("page" = Option<u32>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = SessionList)))]
pub async fn list(
    State(app): State<App>,
    who: Who,
    Path(agent_id): Path<String>,
    params: Params,
) -> Answer<Response> {
    let agent = living(&app, &who, &agent_id).await?;
    let page = params.page();
    params.check()?;
    let (account, id) = (&agent.account, &agent.agent_id);
    let from = Timestamp(app.store.now().0 - LONGEST_LIFE.as_millis() as i64);
    let (sessions, total) = app
        .store
        .sessions(account, id, from, page.offset(), page.limit)
        .await?;
    let instances = app.store.living_instances(account, id).await?;
    let names = version_names(&app, &who, sessions.iter().map(|one| &one.version_id)).await?;
    let line = |one: Session| SessionLine {
        version: names.get(&one.version_id).cloned(),
        version_id: one.version_id.to_string(),
        executions: one.executions,
        open_executions: one.open,
        first_seen_at: one.first_at,
        last_seen_at: one.last_at,
        instances: instances
            .iter()
            .filter(|instance| instance.session_id.as_ref() == Some(&one.session_id))
            .map(SessionInstance::from)
            .collect(),
        session_id: one.session_id,
    };
    Ok(respond::ok(&SessionList {
        agent_id: id.to_string(),
        sessions: sessions.into_iter().map(line).collect(),
        pagination: Pagination::new(page, total),
    }))
}
