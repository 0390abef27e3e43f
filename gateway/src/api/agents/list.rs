//! GET /agents.

use super::wellbeing::Wellbeing;
use crate::{
    api::Pagination, app::App, door::Who, error::Answer, monitor, monitor::Ends, openapi,
    params::Params, respond,
};
use axum::{extract::State, response::Response};
use domain::{
    Timestamp,
    agent::{Environment, MAX_TAGS, Status},
    health::Health,
};
use proto::v1::Summary;
use serde::Serialize;
use std::collections::HashMap;
use store::agents::{Filter, Listed, Sort};
use utoipa::{IntoParams, ToSchema};

#[derive(Debug, Serialize, ToSchema)]
pub struct AgentList {
    agents: Vec<AgentLine>,
    pagination: Pagination,
}

#[derive(Debug, Serialize, ToSchema)]
struct AgentLine {
    agent_id: String,
    name: String,
    /// The one that answers, else the newest.
    version: String,
    #[schema(schema_with = openapi::agent_status)]
    status: Status,
    #[schema(schema_with = openapi::environment)]
    environment: Environment,
    tags: Vec<String>,
    api_endpoint: String,
    #[schema(schema_with = openapi::time)]
    created_at: Timestamp,
    #[schema(schema_with = openapi::time)]
    last_updated: Timestamp,
    #[schema(schema_with = openapi::health)]
    health_status: Health,
    performance_metrics: PerformanceMetrics,
}

/// Over all its executions; null where there were none, or where monitor does not answer.
#[derive(Debug, Default, Serialize, ToSchema)]
struct PerformanceMetrics {
    avg_response_time: Option<f64>,
    /// Completed, of those that completed, failed or timed out: a cancelled execution counts in the total and in no rate.
    success_rate: Option<f64>,
    total_requests: Option<u64>,
}

#[derive(IntoParams)]
#[expect(dead_code, reason = "the schema of what the handler reads")]
struct ListParams {
    #[param(required = false, schema_with = openapi::environment)]
    environment: Environment,
    #[param(required = false, schema_with = openapi::agent_status)]
    status: Status,
    /// All of those that are given.
    #[param(required = false)]
    tag: Vec<String>,
    #[param(required = false, default = 1, minimum = 1, maximum = 1_000_000)]
    page: u32,
    #[param(required = false, default = 50, minimum = 1, maximum = 200)]
    limit: u32,
    #[param(required = false, schema_with = sorts)]
    sort: String,
    #[param(required = false, schema_with = orders)]
    order: String,
}

fn sorts() -> utoipa::openapi::ObjectBuilder {
    utoipa::openapi::ObjectBuilder::new()
        .schema_type(utoipa::openapi::Type::String)
        .enum_values(Some(["created_at", "name", "last_updated"]))
        .default(Some("created_at".into()))
}

fn orders() -> utoipa::openapi::ObjectBuilder {
    utoipa::openapi::ObjectBuilder::new()
        .schema_type(utoipa::openapi::Type::String)
        .enum_values(Some(["asc", "desc"]))
        .default(Some("desc".into()))
}

/// List agents
///
/// Filters combine with AND, repeated `tag` too.
#[utoipa::path(get, path = "/api/v1/agents", operation_id = "list_agents", tag = "agents", params(ListParams),
    responses((status = 200, body = AgentList)))]
pub async fn list(State(app): State<App>, who: Who, params: Params) -> Answer<Response> {
    let mut tags: Vec<String> = params.many("tag").into_iter().map(str::to_owned).collect();
    if tags.len() > MAX_TAGS {
        params.fault(
            "tag",
            format_args!(
                "is given {} times; allowed is at most {MAX_TAGS} times",
                tags.len()
            ),
        );
    }
    tags.sort_unstable();
    tags.dedup();
    let filter = Filter {
        environment: params.parsed("environment"),
        status: params.parsed("status"),
        tags,
        agent_id: None,
        scope: who
            .key
            .agents
            .as_ref()
            .map(|agents| agents.iter().cloned().collect()),
        environments: who.key.environments.clone(),
    };
    let page = params.page();
    let sort = match params.one("sort") {
        None | Some("created_at") => Sort::CreatedAt,
        Some("name") => Sort::Name,
        Some("last_updated") => Sort::LastUpdated,
        Some(other) => {
            let other = domain::text::quote(other);
            params.fault(
                "sort",
                format_args!("{other} is not allowed; allowed are created_at, name, last_updated"),
            );
            Sort::CreatedAt
        }
    };
    let descending = match params.one("order") {
        None | Some("desc") => true,
        Some("asc") => false,
        Some(other) => {
            params.fault(
                "order",
                format_args!(
                    "{} is not allowed; allowed are asc, desc",
                    domain::text::quote(other)
                ),
            );
            true
        }
    };
    params.check()?;

    let (listed, total) = app
        .store
        .agents(
            &who.key.account,
            &filter,
            (sort, descending),
            page.offset(),
            page.limit,
        )
        .await?;
    let ids = listed
        .iter()
        .map(|one| one.agent.agent_id.to_string())
        .collect();
    let well = Wellbeing::of(&app, &who.key.account).await?;
    let figures = monitor::summaries(&app, &who.key.account, ids, Timestamp(0), None).await;
    let figures: Option<HashMap<String, Summary>> = figures.map(|all| {
        all.into_iter()
            .map(|one| (one.agent_id.clone(), one))
            .collect()
    });
    let agents = listed
        .into_iter()
        .map(|one| line(&app, one, &well, figures.as_ref()))
        .collect();
    Ok(respond::ok(&AgentList {
        agents,
        pagination: Pagination::new(page, total),
    }))
}

fn line(
    app: &App,
    one: Listed,
    well: &Wellbeing,
    figures: Option<&HashMap<String, Summary>>,
) -> AgentLine {
    let id = &one.agent.agent_id;
    let performance_metrics = figures.map_or_else(PerformanceMetrics::default, |figures| {
        match figures.get(id.as_str()) {
            Some(figures) => PerformanceMetrics {
                avg_response_time: figures.avg_ms,
                success_rate: Ends::from(figures).success_rate(),
                total_requests: Some(figures.total),
            },
            None => PerformanceMetrics {
                total_requests: Some(0),
                ..PerformanceMetrics::default()
            },
        }
    });
    AgentLine {
        agent_id: id.to_string(),
        version: one.spec.version.to_string(),
        status: one.status,
        environment: one.agent.environment,
        api_endpoint: app.endpoint_of(id),
        created_at: one.agent.created_at,
        last_updated: one.last_updated,
        health_status: well.health(&one),
        performance_metrics,
        name: one.spec.name,
        tags: one.spec.tags,
    }
}
