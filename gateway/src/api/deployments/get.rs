//! GET /agents/{id}/deployments/{deployment_id}. A deletion's is readable after its agent is gone.

use super::{events, rollout::RolloutDocument};
use crate::{
    app::App,
    door::Who,
    error::Answer,
    monitor,
    monitor::Ends,
    openapi,
    params::{Params, Path},
    respond, sse,
};
use axum::{extract::State, http::HeaderMap, response::Response};
use domain::{
    Timestamp,
    deployment::{Kind, Phase, PhaseRecord, PhaseStatus, Status},
    health::{Health, worst},
    instance::State as InstanceState,
};
use serde::Serialize;
use store::{deployments::Deployment, instances::Instance};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct DeploymentStatus {
    deployment_id: String,
    agent_id: String,
    #[schema(schema_with = openapi::deployment_kind)]
    kind: Kind,
    /// Null for a deletion.
    version: Option<String>,
    #[schema(schema_with = openapi::deployment_status)]
    status: Status,
    /// Percent of phases done.
    progress: u32,
    /// The one that runs, comes next or failed; the last one when all are done.
    #[schema(schema_with = openapi::maybe_phase)]
    current_phase: Option<Phase>,
    /// Why it failed, went back or was superseded.
    reason: Option<String>,
    phases: Vec<PhaseLine>,
    rollout: RolloutDocument,
    health: DeploymentHealth,
    performance: DeploymentPerformance,
    #[schema(schema_with = openapi::time)]
    created_at: Timestamp,
    #[schema(schema_with = openapi::time)]
    updated_at: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
struct PhaseLine {
    #[schema(schema_with = openapi::phase)]
    name: Phase,
    #[schema(schema_with = openapi::phase_status)]
    status: PhaseStatus,
    #[schema(schema_with = openapi::maybe_time)]
    started_at: Option<Timestamp>,
    #[schema(schema_with = openapi::maybe_time)]
    completed_at: Option<Timestamp>,
    logs: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct DeploymentHealth {
    #[schema(schema_with = openapi::health)]
    overall_status: Health,
    checks: Vec<Check>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Check {
    name: &'static str,
    #[schema(schema_with = openapi::health)]
    status: Health,
    #[schema(schema_with = openapi::time)]
    last_check: Timestamp,
    message: String,
}

/// Of this version since this deployment was accepted; null where nothing was measured.
#[derive(Debug, Default, Serialize, ToSchema)]
struct DeploymentPerformance {
    response_time_p95: Option<f64>,
    /// Failed or timed out, of those that completed, failed or timed out: a cancelled execution counts in the total and in no rate.
    error_rate: Option<f64>,
    throughput: Option<f64>,
    /// Of the time that executions ran, the part that a processor worked for them.
    cpu_utilization: Option<f64>,
    /// The largest peak of an execution, as a share of `memory_limit`.
    memory_utilization: Option<f64>,
}

/// Read a deployment
///
/// With `follow=true`, or where events are accepted, as server-sent events until its end: `phase` when one begins and ends, `log` for
/// each line, `rollout` with what has become of it, `lost` with a count of lines that were not kept, and at last `end` with its status.
/// `Last-Event-ID` goes on after that event, on any gateway.
#[utoipa::path(get, path = "/api/v1/agents/{agent_id}/deployments/{deployment_id}", operation_id = "get_deployment", tag = "deployments",
    params(("agent_id" = String, Path), ("deployment_id" = String, Path), ("follow" = Option<bool>, Query),
        ("Last-Event-ID" = Option<u64>, Header, description = "The last event that came, to go on after it")),
    responses((status = 200, content((DeploymentStatus = "application/json"), (sse::ServerSentEvent = "text/event-stream")))))]
pub async fn get(
    State(app): State<App>,
    who: Who,
    Path(path): Path<(String, String)>,
    params: Params,
    headers: HeaderMap,
) -> Answer<Response> {
    let account = &who.key.account;
    let follow = params.flag("follow");
    params.check()?;
    let one = super::found(&app, &who, &path).await?;
    if follow || sse::wanted(&headers) {
        let after = sse::last_event_id(&headers)?;
        return Ok(events::follow(app, one, after));
    }
    let agent_id = one.agent_id.clone();
    let now = app.store.now();
    let version = match &one.version_id {
        Some(id) => app.store.version(account, id).await?,
        None => None,
    };
    let mut checks = vec![road(&one)];
    let mut performance = DeploymentPerformance::default();
    if let (Some(version), false) = (&version, one.state.status == Status::Failed) {
        let instances = app.store.living_instances(account, &agent_id).await?;
        if one.state.status == Status::Deployed {
            checks.push(staffed(
                &instances,
                &version.id,
                version.spec.scaling.min_instances,
                now,
            ));
        }
        performance = measured(&app, &one, now).await;
    }
    let state = &one.state;
    let body = DeploymentStatus {
        deployment_id: one.id.to_string(),
        agent_id: agent_id.to_string(),
        kind: one.kind,
        version: version.map(|version| version.spec.version.to_string()),
        status: state.status,
        progress: state.progress(),
        current_phase: state
            .current()
            .or(state.phases.last())
            .map(|phase| phase.name),
        reason: state.reason.clone(),
        rollout: state.rollout.clone().into(),
        health: DeploymentHealth {
            overall_status: worst(checks.iter().map(|check| check.status)),
            checks,
        },
        performance,
        created_at: one.created_at,
        updated_at: one.updated_at,
        phases: one.state.phases.into_iter().map(line).collect(),
    };
    Ok(respond::ok(&body))
}

fn line(phase: PhaseRecord) -> PhaseLine {
    PhaseLine {
        name: phase.name,
        status: phase.status,
        started_at: phase.started_at,
        completed_at: phase.completed_at,
        logs: phase.logs,
    }
}

/// How far it came.
fn road(one: &Deployment) -> Check {
    let state = &one.state;
    let reason = |otherwise: &str| state.reason.clone().unwrap_or_else(|| otherwise.to_owned());
    let (status, message) = match state.status {
        Status::Deployed => (Health::Healthy, "every phase is completed".to_owned()),
        Status::Deploying => {
            let phase = state
                .current()
                .map_or("the next phase", |phase| phase.name.as_str());
            (Health::Degraded, format!("in progress: {phase}"))
        }
        Status::Failed => (Health::Unhealthy, reason("a phase failed")),
        Status::RolledBack | Status::Superseded => (
            Health::Degraded,
            reason("another deployment took its place"),
        ),
    };
    Check {
        name: "deployment",
        status,
        last_check: one.updated_at,
        message,
    }
}

/// Whether as many instances of the version are there as there shall be at least.
fn staffed(
    instances: &[Instance],
    version: &domain::id::VersionId,
    least: u32,
    now: Timestamp,
) -> Check {
    let of = |state| {
        instances
            .iter()
            .filter(|one| one.version_id == *version && one.state == state)
            .count()
    };
    let (ready, starting) = (of(InstanceState::Ready), of(InstanceState::Starting));
    let status = match ready {
        _ if ready >= least as usize => Health::Healthy,
        0 => Health::Unhealthy,
        _ => Health::Degraded,
    };
    Check {
        name: "instances",
        status,
        last_check: now,
        message: format!("{ready} ready, {starting} starting, {least} at least"),
    }
}

async fn measured(app: &App, one: &Deployment, now: Timestamp) -> DeploymentPerformance {
    let agents = vec![one.agent_id.to_string()];
    let summaries = monitor::summaries(
        app,
        &one.account,
        agents,
        one.created_at,
        one.version_id.as_ref(),
    )
    .await;
    let Some(figures) = summaries.and_then(|mut all| all.pop()) else {
        return DeploymentPerformance::default();
    };
    let seconds = now.since(one.created_at).as_secs_f64().max(1.0);
    DeploymentPerformance {
        response_time_p95: figures.p95_ms,
        error_rate: Ends::from(&figures).error_rate(),
        throughput: Some(figures.total as f64 / seconds),
        cpu_utilization: figures.cpu_share,
        memory_utilization: figures.memory_share,
    }
}
