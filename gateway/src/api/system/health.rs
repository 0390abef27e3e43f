//! GET /system/health: what monitor probed, and where monitor is silent, what can be probed from here.

use crate::{app::App, door::Who, error::Answer, monitor, openapi, respond};
use axum::{extract::State, response::Response};
use domain::{
    Timestamp,
    health::{Health, worst},
};
use proto::v1::{Component, SystemReply};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct SystemHealth {
    /// The worst of all components.
    #[schema(schema_with = openapi::health)]
    overall_status: Health,
    #[schema(schema_with = openapi::time)]
    timestamp: Timestamp,
    components: Components,
    capacity: Capacity,
    /// The executors, and by what each confines its agents.
    nodes: Vec<NodeLine>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Components {
    agentcore_service: ServiceHealth,
    database: DatabaseHealth,
    monitoring: MonitoringHealth,
    /// Every part by its own name.
    #[serde(flatten)]
    parts: BTreeMap<String, PartHealth>,
}

/// The gateways, deployers, executors and the bus together.
#[derive(Debug, Serialize, ToSchema)]
struct ServiceHealth {
    #[schema(schema_with = openapi::health)]
    status: Health,
    response_time: Option<f64>,
    #[schema(schema_with = openapi::time)]
    last_check: Timestamp,
}

#[derive(Debug, Serialize, ToSchema)]
struct DatabaseHealth {
    #[schema(schema_with = openapi::health)]
    status: Health,
    connection_count: u32,
    /// One round trip in milliseconds; null where there was none.
    query_performance: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct MonitoringHealth {
    #[schema(schema_with = openapi::health)]
    status: Health,
    metrics_lag: Option<f64>,
    log_ingestion_rate: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct PartHealth {
    #[schema(schema_with = openapi::health)]
    status: Health,
    response_time: Option<f64>,
    #[schema(schema_with = openapi::time)]
    last_check: Timestamp,
    message: String,
}

/// Null where monitor does not answer.
#[derive(Debug, Default, Serialize, ToSchema)]
struct Capacity {
    total_agents: Option<u64>,
    active_agents: Option<u64>,
    total_executions_per_minute: Option<u64>,
    /// Agents of which a version crashes at every start; null where the database does not answer.
    crash_looping_agents: Option<usize>,
    resource_utilization: Utilization,
}

#[derive(Debug, Default, Serialize, ToSchema)]
struct Utilization {
    cpu: Option<f64>,
    memory: Option<f64>,
    network: Option<f64>,
}

#[derive(Debug, Serialize, ToSchema)]
struct NodeLine {
    node_id: String,
    isolation: String,
    /// `overlay`, or `none` and why versions with `dependencies.system` cannot run there.
    system_packages: String,
}

const DATABASE: &str = "database";
const MONITORING: &str = "monitor";
/// Parts that answer slower than this are counted as dead.
const PROBE: Duration = Duration::from_secs(2);

/// Read the installation's health
#[utoipa::path(get, path = "/api/v1/system/health", operation_id = "system_health", tag = "system",
    responses((status = 200, body = SystemHealth)))]
pub async fn health(State(app): State<App>, who: Who) -> Answer<Response> {
    who.key.reaches_all()?;
    let now = app.store.now();
    let (loops, said, database, bus) = tokio::join!(
        tokio::time::timeout(PROBE, app.store.crash_loops(&who.key.account, None)),
        monitor::system(&app, &who.key.account),
        probe(app.store.ping()),
        probe(async {
            app.bus
                .ping()
                .await
                .map(|_| ())
                .map_err(domain::Error::from)
        }),
    );
    let said = said
        .inspect_err(|error| tracing::warn!(error = ?error, "monitor is silent"))
        .ok();
    let mut parts = parts(said.as_ref());
    merge(&mut parts, DATABASE, database, now);
    merge(&mut parts, "bus", bus, now);
    let nodes = match &said {
        Some(said) => said
            .nodes
            .iter()
            .map(|node| NodeLine {
                node_id: node.node_id.clone(),
                isolation: node.isolation.clone(),
                system_packages: node.system_packages.clone(),
            })
            .collect(),
        None => Vec::new(),
    };
    let loops = loops.ok().and_then(Result::ok).map(|loops| {
        let agents: BTreeSet<_> = loops.iter().map(|one| &one.agent_id).collect();
        agents.len()
    });
    Ok(respond::ok(&document(
        &app,
        said.as_ref(),
        parts,
        (nodes, loops),
        now,
    )))
}

/// How long it took, or why it failed.
async fn probe(asked: impl Future<Output = domain::Result<()>>) -> Result<f64, String> {
    let begun = Instant::now();
    match tokio::time::timeout(PROBE, asked).await {
        Ok(Ok(())) => Ok(begun.elapsed().as_secs_f64() * 1000.0),
        Ok(Err(error)) => Err(error.message),
        Err(_) => Err(format!("no answer within {} s", PROBE.as_secs())),
    }
}

fn parts(said: Option<&SystemReply>) -> BTreeMap<String, PartHealth> {
    let part = |component: &Component| {
        let health = PartHealth {
            // A word of a newer monitor is no reason to call a part well.
            status: component.status.parse().unwrap_or(Health::Degraded),
            response_time: component.response_ms,
            last_check: Timestamp(component.checked_at_ms),
            message: component.message.clone(),
        };
        (component.name.clone(), health)
    };
    said.into_iter()
        .flat_map(|said| &said.components)
        .map(part)
        .collect()
}

/// Our own probe counts where it is worse, or the only one.
fn merge(
    parts: &mut BTreeMap<String, PartHealth>,
    name: &str,
    probed: Result<f64, String>,
    now: Timestamp,
) {
    let own = PartHealth {
        status: if probed.is_ok() {
            Health::Healthy
        } else {
            Health::Unhealthy
        },
        response_time: probed.as_ref().ok().copied(),
        last_check: now,
        message: probed.err().unwrap_or_default(),
    };
    if parts
        .get(name)
        .is_none_or(|known| known.status < own.status)
    {
        parts.insert(name.to_owned(), own);
    }
}

fn document(
    app: &App,
    said: Option<&SystemReply>,
    mut parts: BTreeMap<String, PartHealth>,
    (nodes, loops): (Vec<NodeLine>, Option<usize>),
    now: Timestamp,
) -> SystemHealth {
    let database = parts.remove(DATABASE);
    let monitor = parts.remove(MONITORING);
    for taken in ["agentcore_service", "monitoring"] {
        parts.remove(taken);
    }
    let own = said.and_then(|said| said.database_ms);
    let database = DatabaseHealth {
        status: database
            .as_ref()
            .map_or(Health::Unhealthy, |part| part.status),
        connection_count: app.store.connections(),
        query_performance: database.and_then(|part| part.response_time).or(own),
    };
    let silent = if said.is_some() {
        Health::Healthy
    } else {
        Health::Unhealthy
    };
    let monitoring = MonitoringHealth {
        status: monitor.map_or(silent, |part| part.status.max(silent)),
        metrics_lag: said.and_then(|said| said.metrics_lag_s),
        log_ingestion_rate: said.and_then(|said| said.logs_per_s),
    };
    let service = ServiceHealth {
        status: worst(parts.values().map(|part| part.status)),
        response_time: parts
            .values()
            .filter_map(|part| part.response_time)
            .fold(None, |most, one| {
                Some(most.map_or(one, |most: f64| most.max(one)))
            }),
        last_check: parts
            .values()
            .map(|part| part.last_check)
            .min()
            .unwrap_or(now),
    };
    let mut capacity = said.map_or_else(Capacity::default, |said| Capacity {
        total_agents: Some(said.total_agents),
        active_agents: Some(said.active_agents),
        total_executions_per_minute: Some(said.executions_last_minute),
        resource_utilization: Utilization {
            cpu: said.cpu,
            memory: said.memory,
            network: said.network,
        },
        crash_looping_agents: None,
    });
    capacity.crash_looping_agents = loops;
    SystemHealth {
        overall_status: worst([service.status, database.status, monitoring.status]),
        timestamp: now,
        components: Components {
            agentcore_service: service,
            database,
            monitoring,
            parts,
        },
        capacity,
        nodes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_probe_counts_where_it_is_worse() {
        let mut known = BTreeMap::new();
        merge(&mut known, "bus", Ok(1.0), Timestamp(1));
        assert_eq!(known["bus"].status, Health::Healthy);
        merge(&mut known, "bus", Err("gone".to_owned()), Timestamp(2));
        assert_eq!(
            (known["bus"].status, known["bus"].message.as_str()),
            (Health::Unhealthy, "gone")
        );
        merge(&mut known, "bus", Ok(1.0), Timestamp(3));
        assert_eq!(known["bus"].status, Health::Unhealthy);
    }
}
