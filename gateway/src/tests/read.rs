//! What answers without monitor, and with it.

use super::world::World;
use proto::v1::{
    Bucket, Component, NodeLevel, QueryReply, QueryRequest, SamplesReply, SamplesRequest,
    SummarizeReply, SummarizeRequest, Summary, SystemReply, SystemRequest,
    monitor_server::{Monitor, MonitorServer},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, service::Routes};

const METRICS: &str = "/api/v1/agents/mine/metrics?start_time=2026-01-01T00:00:00Z&end_time=2026-01-01T00:10:00Z&granularity=5m";

#[tokio::test]
async fn without_monitor_what_is_not_known_is_null() {
    let world = World::new().await;
    world.deploy("mine", "1.0.0").await;
    let read = world.get("/api/v1/agents/mine").await;
    assert_eq!(
        read.body["performance"],
        json!({"uptime": null, "total_requests": null, "avg_response_time": null, "error_rate": null, "throughput": null})
    );
    let metrics = world.get(METRICS).await;
    assert_eq!(
        (metrics.status, metrics.code()),
        (503, "UNAVAILABLE"),
        "{metrics:?}"
    );
    let health = world.get("/api/v1/system/health").await;
    assert_eq!(
        (health.status, &health.body["overall_status"]),
        (200, &json!("unhealthy")),
        "{health:?}"
    );
    assert_eq!(
        (
            &health.body["components"]["monitoring"]["status"],
            &health.body["components"]["database"]["status"]
        ),
        (&json!("unhealthy"), &json!("healthy"))
    );
}

struct Fake;

fn total_of(agent_id: String) -> Summary {
    Summary {
        agent_id,
        total: 5,
        failed: 1,
        cancelled: 1,
        avg_ms: Some(2.0),
        ..Summary::default()
    }
}

#[tonic::async_trait]
impl Monitor for Fake {
    async fn query(&self, request: Request<QueryRequest>) -> Result<Response<QueryReply>, Status> {
        let asked = request.into_inner();
        let buckets = vec![
            Bucket {
                start_ms: asked.start_ms,
                count: 2,
                failed: 1,
                avg_ms: Some(3.0),
                ..Bucket::default()
            },
            Bucket {
                start_ms: asked.start_ms + 300_000,
                ..Bucket::default()
            },
        ];
        Ok(Response::new(QueryReply {
            buckets,
            total: 3,
            failed: 1,
            cancelled: 1,
            avg_ms: Some(3.0),
            uptime_percent: Some(99.5),
            ever: Some(total_of(asked.agent_id)),
        }))
    }

    async fn summarize(
        &self,
        request: Request<SummarizeRequest>,
    ) -> Result<Response<SummarizeReply>, Status> {
        Ok(Response::new(SummarizeReply {
            summaries: request
                .into_inner()
                .agent_ids
                .into_iter()
                .map(total_of)
                .collect(),
        }))
    }

    /// No gateway asks for them.
    async fn samples(&self, _: Request<SamplesRequest>) -> Result<Response<SamplesReply>, Status> {
        Err(Status::unimplemented("samples"))
    }

    async fn system(&self, _: Request<SystemRequest>) -> Result<Response<SystemReply>, Status> {
        let component = |name: &str, status: &str| Component {
            name: name.into(),
            status: status.into(),
            response_ms: Some(1.0),
            checked_at_ms: 1,
            message: String::new(),
        };
        Ok(Response::new(SystemReply {
            components: vec![
                component("executor", "degraded"),
                component("database", "healthy"),
                component("monitor", "healthy"),
            ],
            total_agents: 3,
            nodes: vec![NodeLevel {
                node_id: "node_1".into(),
                isolation: "none".into(),
                system_packages: "overlay".into(),
            }],
            ..SystemReply::default()
        }))
    }
}

#[tokio::test]
async fn with_monitor_its_figures_are_shown() {
    let mut world = World::new().await;
    let door = world.peers.open("monitor").await.expect("a door");
    world.tasks.spawn(async move {
        let routes = Routes::new(MonitorServer::new(Fake));
        door.serve(routes, &[], CancellationToken::new())
            .await
            .expect("served");
    });
    world.deploy("mine", "1.0.0").await;
    let list = world.get("/api/v1/agents").await;
    assert_eq!(
        list.body["agents"][0]["performance_metrics"],
        json!({"avg_response_time": 2.0, "success_rate": 0.75, "total_requests": 5})
    );
    let read = world.get("/api/v1/agents/mine").await;
    assert_eq!(
        (
            &read.body["performance"]["error_rate"],
            &read.body["performance"]["uptime"]
        ),
        (&json!(0.25), &json!(99.5))
    );
    let metrics = world.get(METRICS).await;
    assert_eq!(
        metrics.body["metrics"]["execution_count"],
        json!([{"timestamp": "2026-01-01T00:00:00.000Z", "value": 2}, {"timestamp": "2026-01-01T00:05:00.000Z", "value": 0}])
    );
    assert_eq!(metrics.body["summary"]["success_rate"], 0.5);
    let health = world.get("/api/v1/system/health").await;
    assert_eq!(
        (
            &health.body["overall_status"],
            &health.body["components"]["executor"]["status"]
        ),
        (&json!("degraded"), &json!("degraded")),
        "{health:?}"
    );
    assert_eq!(
        health.body["nodes"],
        json!([{"node_id": "node_1", "isolation": "none", "system_packages": "overlay"}])
    );
    assert_eq!(health.body["capacity"]["total_agents"], 3);
}

#[tokio::test]
async fn a_bad_question_names_every_fault() {
    let world = World::new().await;
    world.deploy("mine", "1.0.0").await;
    let bad = world
        .get("/api/v1/agents/mine/metrics?start_time=yesterday&granularity=2m&metrics=ok,1x&zzz=1")
        .await;
    assert_eq!((bad.status, bad.faults().len()), (400, 5), "{bad:?}");
    let reversed = world.get("/api/v1/agents/mine/metrics?start_time=2026-01-02T00:00:00Z&end_time=2026-01-01T00:00:00Z").await;
    assert_eq!(reversed.status, 400);
    assert_eq!(world.get("/api/v1/agents/unknown/metrics?start_time=2026-01-01T00:00:00Z&end_time=2026-01-02T00:00:00Z").await.status, 404);
}
