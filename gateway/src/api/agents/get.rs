//! GET /agents/{id}.

use super::{
    deployed::{DeployedConfiguration, DeployedEgress, DeployedMonitoring, DeployedPackages},
    wellbeing::Wellbeing,
};
use crate::{
    app::App,
    door::{Who, reach},
    error::Answer,
    monitor,
    monitor::Ends,
    openapi,
    params::Path,
    respond,
};
use axum::{extract::State, response::Response};
use domain::{
    Error, Timestamp,
    agent::{Environment, Isolation, Status},
    health::Health,
    instance::State as InstanceState,
    metrics::{Granularity, Range},
    traffic::Route,
};
use proto::v1::QueryReply;
use serde::Serialize;
use store::{
    agents::{Filter, Listed, Sort},
    instances::ScalingEvent,
};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct AgentDetails {
    agent_id: String,
    metadata: Metadata,
    deployment: DeploymentDetails,
    performance: Performance,
    scaling: ScalingDetails,
    security: SecurityDetails,
    monitoring: DeployedMonitoring,
}

#[derive(Debug, Serialize, ToSchema)]
struct Metadata {
    name: String,
    description: String,
    version: String,
    tags: Vec<String>,
    /// The id of the key that made it.
    created_by: String,
    #[schema(schema_with = openapi::time)]
    created_at: Timestamp,
    #[schema(schema_with = openapi::time)]
    last_updated: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
struct DeploymentDetails {
    #[schema(schema_with = openapi::environment)]
    environment: Environment,
    region: String,
    api_endpoint: String,
    #[schema(schema_with = openapi::agent_status)]
    status: Status,
    /// Degraded: it serves, by fewer instances than it should, by some that are not well, or not everywhere.
    #[schema(schema_with = openapi::health)]
    health_status: Health,
    entrypoint: String,
    dependencies: DeployedPackages,
    configuration: DeployedConfiguration,
    /// Who answers: several versions while callers move from one to the next.
    traffic: Vec<Share>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Share {
    version: String,
    /// Of the callers, 0 to 100.
    traffic_percentage: f64,
}

/// Null where nothing was measured, or where monitor does not answer.
#[derive(Debug, Serialize, ToSchema)]
struct Performance {
    /// Percent of the last 24 hours.
    uptime: Option<f64>,
    total_requests: Option<u64>,
    avg_response_time: Option<f64>,
    /// Failed or timed out, of those that completed, failed or timed out: a cancelled execution counts in the total and in no rate.
    error_rate: Option<f64>,
    /// Requests a second over the last 5 to 10 minutes.
    throughput: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ScalingDetails {
    current_instances: usize,
    enabled: bool,
    min_instances: u32,
    max_instances: u32,
    target_utilization: f64,
    /// The newest, newest first.
    scaling_events: Vec<ScalingLine>,
}

#[derive(Debug, Serialize, ToSchema)]
struct ScalingLine {
    #[schema(schema_with = openapi::time)]
    timestamp: Timestamp,
    action: &'static str,
    reason: String,
    from_instances: u32,
    to_instances: u32,
}

#[derive(Debug, Serialize, ToSchema)]
struct SecurityDetails {
    iam_role: Option<String>,
    vpc_id: Option<String>,
    subnet_ids: Vec<String>,
    security_groups: Vec<String>,
    #[schema(schema_with = openapi::isolation)]
    isolation: Isolation,
    egress: DeployedEgress,
    /// Of what is kept in secret: environment variables and the webhook secret.
    encryption_status: &'static str,
}

/// Read an agent
#[utoipa::path(get, path = "/api/v1/agents/{agent_id}", operation_id = "get_agent", tag = "agents",
    params(("agent_id" = String, Path)), responses((status = 200, body = AgentDetails)))]
pub async fn get(
    State(app): State<App>,
    who: Who,
    Path(agent_id): Path<String>,
) -> Answer<Response> {
    let id = &reach(&app, &who, &agent_id).await?;
    let account = &who.key.account;
    let filter = Filter {
        agent_id: Some(id.clone()),
        ..Filter::default()
    };
    let now = app.store.now();
    let day = Range::new(Timestamp(now.0 - 86_400_000), now, Granularity::FiveMinutes)?;
    let (listed, instances, loops, events, day) = tokio::join!(
        app.store
            .agents(account, &filter, (Sort::CreatedAt, true), 0, 1),
        app.store.living_instances(account, id),
        app.store.crash_loops(account, Some(id)),
        app.store.scaling_events(account, id, 50),
        monitor::glance(&app, account, id, day),
    );
    let one = listed?
        .0
        .pop()
        .ok_or_else(|| Error::not_found(format!("agent {id}")))?;
    let runs = |state| matches!(state, InstanceState::Starting | InstanceState::Ready);
    let instances = instances?;
    let current = instances
        .iter()
        .filter(|instance| runs(instance.state))
        .count();
    let performance = performance(day.as_ref(), now);
    let health = Wellbeing::of_agent(id, &instances, &loops?).health(&one);
    Ok(respond::ok(&details(
        &app,
        (one, health),
        current,
        events?,
        performance,
    )))
}

fn details(
    app: &App,
    (one, health): (Listed, Health),
    current_instances: usize,
    events: Vec<ScalingEvent>,
    performance: Performance,
) -> AgentDetails {
    let (spec, agent) = (one.spec, one.agent);
    let (dependencies, configuration) = ((&spec).into(), (&spec).into());
    let (egress, monitoring) = ((&spec).into(), (&spec).into());
    let line = |event: ScalingEvent| ScalingLine {
        timestamp: event.at,
        action: event.action(),
        from_instances: event.from_instances,
        to_instances: event.to_instances,
        reason: event.reason,
    };
    AgentDetails {
        agent_id: agent.agent_id.to_string(),
        metadata: Metadata {
            name: spec.name,
            description: spec.description,
            version: spec.version.to_string(),
            tags: spec.tags,
            created_by: agent.created_by,
            created_at: agent.created_at,
            last_updated: one.last_updated,
        },
        deployment: DeploymentDetails {
            environment: agent.environment,
            region: app.config.region.clone(),
            api_endpoint: app.endpoint_of(&agent.agent_id),
            status: one.status,
            health_status: health,
            entrypoint: spec.entrypoint.into(),
            dependencies,
            configuration,
            traffic: one.traffic.routes.iter().map(share).collect(),
        },
        performance,
        scaling: ScalingDetails {
            current_instances,
            enabled: spec.scaling.enabled,
            min_instances: spec.scaling.min_instances,
            max_instances: spec.scaling.max_instances,
            target_utilization: spec.scaling.target_utilization,
            scaling_events: events.into_iter().map(line).collect(),
        },
        monitoring,
        security: SecurityDetails {
            egress,
            isolation: spec.isolation,
            iam_role: spec.placement.iam_role_arn,
            vpc_id: None,
            subnet_ids: spec.placement.subnet_ids,
            security_groups: spec.placement.security_group_ids,
            encryption_status: "encrypted",
        },
    }
}

fn share(route: &Route) -> Share {
    Share {
        version: route.version.to_string(),
        traffic_percentage: f64::from(route.weight) / 10.0,
    }
}

/// `day` is nothing where monitor is silent; an agent that has never run has no totals.
fn performance(day: Option<&QueryReply>, now: Timestamp) -> Performance {
    let ran = day.and_then(|day| day.ever.as_ref());
    let recent = day.and_then(|day| {
        let newest = &day.buckets[day.buckets.len().checked_sub(2)?..];
        let seconds = (now.0 - newest.first()?.start_ms).max(1) as f64 / 1000.0;
        Some(newest.iter().map(|bucket| bucket.count).sum::<u64>() as f64 / seconds)
    });
    Performance {
        uptime: day.and_then(|day| day.uptime_percent),
        total_requests: day.map(|_| ran.map_or(0, |ran| ran.total)),
        avg_response_time: ran.and_then(|ran| ran.avg_ms),
        error_rate: ran.and_then(|ran| Ends::from(ran).error_rate()),
        throughput: recent,
    }
}
