//! Server-sent events of executions and logs.

use super::world::{World, echo, end};
use domain::{
    Timestamp,
    execution::Status as ExecutionStatus,
    id::{BootId, NodeId},
    log::{Level, Line},
};
use futures::Stream;
use proto::{
    convert::{self, Execute, Reply},
    v1::{
        EndSessionReply, EndSessionRequest, EnsureReply, EnsureRequest, InspectReply,
        InspectRequest, PackageEvent, PackageRequest, WatchEvent, WatchRequest,
        executor_server::{Executor, ExecutorServer},
        watch_event::Event,
    },
};
use serde_json::json;
use std::{
    pin::Pin,
    sync::{Arc, Mutex},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, service::Routes};

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Tells two chunks, a line and the result of whatever was executed last.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Option<Execute>>>);

impl Fake {
    fn events(&self) -> Vec<WatchEvent> {
        let execute = self.0.lock().expect("one").clone().expect("executed");
        let Reply::Outcome(outcome) = echo(&execute) else {
            return Vec::new();
        };
        let line = Line {
            timestamp: Timestamp(1),
            level: Level::Info,
            message: "said".into(),
            context: None,
        };
        let all = [
            Event::Chunk("{\"n\":\n1}".into()),
            Event::Log(convert::log_line(&line)),
            Event::Progress(50.0),
            Event::Result(convert::outcome(&outcome).expect("a message")),
        ];
        (1..)
            .zip(all)
            .map(|(seq, event)| WatchEvent {
                seq,
                place: 0,
                execution_id: execute.execution_id.to_string(),
                event: Some(event),
            })
            .collect()
    }
}

#[tonic::async_trait]
impl Executor for Fake {
    type PackageStream = Events<PackageEvent>;
    type WatchStream = Events<WatchEvent>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let after = request.into_inner().after;
        let events = self
            .events()
            .into_iter()
            .filter(move |event| event.seq > after)
            .map(Ok);
        Ok(Response::new(Box::pin(futures::stream::iter(events))))
    }

    async fn package(
        &self,
        _: Request<PackageRequest>,
    ) -> Result<Response<Self::PackageStream>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    async fn ensure(&self, _: Request<EnsureRequest>) -> Result<Response<EnsureReply>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    async fn end_session(
        &self,
        _: Request<EndSessionRequest>,
    ) -> Result<Response<EndSessionReply>, Status> {
        Err(Status::unimplemented("a fake"))
    }

    async fn inspect(&self, _: Request<InspectRequest>) -> Result<Response<InspectReply>, Status> {
        Err(Status::unimplemented("a fake"))
    }
}

async fn world_with(fake: &Fake) -> World {
    let mut world = World::new().await;
    let version = world.serving("mine").await;
    let door = world.peers.open("executor").await.expect("a door");
    let address = door.address().to_owned();
    let served = fake.clone();
    world.tasks.spawn(async move {
        let routes = Routes::new(ExecutorServer::new(served));
        door.serve(routes, &[], CancellationToken::new())
            .await
            .expect("served");
    });
    let noted = fake.0.clone();
    world
        .execute_by(&version, move |execute| {
            noted.lock().expect("one").replace(execute.clone());
            Some(Reply::Accepted {
                node_address: address.clone(),
            })
        })
        .await;
    world
}

fn ask(world: &World) -> reqwest::RequestBuilder {
    let request = world
        .request("POST", "/api/v1/agents/mine/execute")
        .bearer_auth(&world.key);
    request
        .header("accept", "text/event-stream")
        .json(&json!({"execution_id": "s1", "input_data": {"parameters": {"n": 1}}}))
}

#[tokio::test]
async fn events_come_with_ids_and_end_with_the_result() {
    let fake = Fake::default();
    let world = world_with(&fake).await;
    let answer = world.send(ask(&world)).await;
    assert_eq!(
        (
            answer.status,
            answer.header("content-type"),
            answer.header("x-execution-id")
        ),
        (200, "text/event-stream", "s1")
    );
    let text = answer.body.as_str().expect("events");
    assert!(
        text.starts_with(
            "id: 1\nevent: chunk\ndata: {\"n\":\ndata: 1}\n\nid: 2\nevent: log\ndata: {"
        ),
        "{text}"
    );
    assert!(text.contains("id: 3\nevent: progress\ndata: {\"progress\":50.0}\n\nid: 4\nevent: result\ndata: {\"execution_id\":\"s1\""), "{text}");
}

#[tokio::test]
async fn a_reader_that_comes_back_goes_on_after_its_last_event() {
    let fake = Fake::default();
    let world = world_with(&fake).await;
    world.send(ask(&world)).await;
    let execute = fake.0.lock().expect("one").clone().expect("executed");
    let node = store::nodes::Node {
        id: NodeId::from_uuid(uuid::Uuid::from_u128(1)),
        boot_id: BootId::from_uuid(uuid::Uuid::from_u128(1)),
        address: "memory:executor".into(),
        capacity: Default::default(),
        started_at: Timestamp(1),
        heartbeat_at: Timestamp(1),
    };
    world.store.beat(&node).await.expect("rows");
    let Reply::Outcome(outcome) = echo(&execute) else {
        panic!("no outcome")
    };
    let key = end(&execute, &outcome).key;
    let holder = store::executions::Holder {
        node_id: node.id,
        boot_id: node.boot_id,
    };
    let start = store::executions::Start {
        key,
        attempt: 1,
        at: Timestamp(1),
        holder,
    };
    assert!(world.store.start_execution(start).await.expect("rows"));
    let again = world.send(ask(&world).header("last-event-id", "2")).await;
    let text = again.body.as_str().expect("events");
    assert!(text.starts_with("id: 3\nevent: progress"), "{text}");
    let refused = world.send(ask(&world).header("last-event-id", "x")).await;
    assert_eq!(refused.status, 400);
}

#[tokio::test]
async fn where_the_executor_has_forgotten_the_row_tells_the_result() {
    let fake = Fake::default();
    let world = world_with(&fake).await;
    world.send(ask(&world)).await;
    let execute = fake.0.lock().expect("one").clone().expect("executed");
    let Reply::Outcome(outcome) = echo(&execute) else {
        panic!("no outcome")
    };
    assert_eq!(outcome.status, ExecutionStatus::Completed);
    assert!(
        world
            .store
            .end_execution(end(&execute, &outcome))
            .await
            .expect("rows")
    );
    let again = world.send(ask(&world).header("last-event-id", "1")).await;
    let text = again.body.as_str().expect("events");
    assert!(
        text.starts_with("event: result\ndata: {\"execution_id\":\"s1\",\"status\":\"completed\""),
        "{text}"
    );
    let logs = world
        .get("/api/v1/agents/mine/executions/s1/logs?follow=true")
        .await;
    assert_eq!(logs.body, "event: end\ndata: {}\n\n");
}

#[tokio::test]
async fn kept_lines_are_read_by_execution_and_by_agent() {
    let fake = Fake::default();
    let world = world_with(&fake).await;
    world.send(ask(&world)).await;
    let execute = fake.0.lock().expect("one").clone().expect("executed");
    let Reply::Outcome(outcome) = echo(&execute) else {
        panic!("no outcome")
    };
    let entry = |seq: i64| store::logs::Entry {
        account: execute.account.clone(),
        agent_id: execute.agent_id.clone(),
        execution_id: Some(execute.execution_id.clone()),
        seq,
        line: Line {
            timestamp: Timestamp(seq),
            level: Level::Info,
            message: format!("line {seq}"),
            context: None,
        },
    };
    world
        .store
        .append_logs((0..3).map(entry).collect())
        .await
        .expect("rows");
    assert!(
        world
            .store
            .end_execution(end(&execute, &outcome))
            .await
            .expect("rows")
    );
    let all = world.get("/api/v1/agents/mine/executions/s1/logs").await;
    assert_eq!(
        all.body["logs"].as_array().map(Vec::len),
        Some(3),
        "{all:?}"
    );
    let rest = world
        .request("GET", "/api/v1/agents/mine/executions/s1/logs?follow=true")
        .bearer_auth(&world.key)
        .header("last-event-id", "1");
    let text = world.send(rest).await.body;
    let text = text.as_str().expect("events");
    assert!(
        text.starts_with("id: 2\nevent: log") && text.ends_with("event: end\ndata: {}\n\n"),
        "{text}"
    );
    let of_agent = world.get("/api/v1/agents/mine/logs?limit=2").await;
    assert_eq!(
        (
            &of_agent.body["logs"][1]["message"],
            &of_agent.body["logs"][0]["execution_id"]
        ),
        (&json!("line 2"), &json!("s1")),
        "{of_agent:?}"
    );
}
