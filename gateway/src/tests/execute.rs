//! POST /agents/{id}/execute, and what reads and cancels executions.

use super::world::{World, echo};
use crate::Config;
use bus::{Priority, Subject, WorkOptions};
use domain::{
    Error, Kind,
    execution::{Failure, FailureCode, FailurePhase, Status},
    id::AccountId,
};
use proto::convert::{Execute, INLINE_BYTES, Reply};
use serde_json::json;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

const EXECUTE: &str = "/api/v1/agents/mine/execute";

#[tokio::test]
async fn sync_answers_with_the_outcome_and_the_row_is_there() {
    let mut world = World::new().await;
    let version = world.serving("mine").await;
    world
        .execute_by(&version, |execute| Some(echo(execute)))
        .await;
    let body = json!({"input_data": {"parameters": {"n": 1}, "context": {"session_id": "s"}}, "execution_options": {"priority": "high"}});
    let answer = world.post(EXECUTE, &body).await;
    assert_eq!(
        (answer.status, &answer.body["status"]),
        (200, &json!("completed")),
        "{answer:?}"
    );
    assert_eq!(answer.body["result"]["output"], json!({"n": 1}));
    let id = answer.body["execution_id"].as_str().expect("an id");
    let read = world
        .get(&format!("/api/v1/agents/mine/executions/{id}"))
        .await;
    assert_eq!(
        (
            &read.body["status"],
            &read.body["priority"],
            &read.body["session_id"],
            &read.body["version"]
        ),
        (
            &json!("completed"),
            &json!("high"),
            &json!("s"),
            &json!("1.0.0")
        )
    );
    let list = world
        .get("/api/v1/agents/mine/executions?session_id=s&status=completed")
        .await;
    assert_eq!(list.body["pagination"]["total"], 1);
    let cancelled = world
        .post(
            &format!("/api/v1/agents/mine/executions/{id}/cancel"),
            &json!({}),
        )
        .await;
    assert_eq!(
        (
            cancelled.status,
            &cancelled.body["already"],
            &cancelled.body["status"]
        ),
        (200, &json!(true), &json!("completed"))
    );
}

#[tokio::test]
async fn a_failing_agent_is_an_outcome() {
    let mut world = World::new().await;
    let version = world.serving("mine").await;
    world
        .execute_by(&version, |execute| {
            let Reply::Outcome(mut outcome) = echo(execute) else {
                return None;
            };
            outcome.status = Status::Failed;
            outcome.output = None;
            outcome.error = Some(Failure::new(
                FailureCode::HandlerRaised,
                FailurePhase::Handler,
                "boom",
            ));
            Some(Reply::Outcome(outcome))
        })
        .await;
    let answer = world.post(EXECUTE, &json!({})).await;
    assert_eq!(
        (answer.status, &answer.body["status"]),
        (200, &json!("failed"))
    );
    assert_eq!(
        (
            &answer.body["result"]["output"],
            &answer.body["result"]["error"]["code"]
        ),
        (&json!(null), &json!("HANDLER_RAISED"))
    );
}

#[tokio::test]
async fn the_callers_id_is_its_idempotency_key() {
    let mut world = World::new().await;
    let version = world.serving("mine").await;
    let runs = Arc::new(AtomicU32::new(0));
    let counted = runs.clone();
    world
        .execute_by(&version, move |execute| {
            counted.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(100));
            Some(echo(execute))
        })
        .await;
    let body = json!({"execution_id": "order-1", "input_data": {"parameters": {"n": 1}}});
    let all = futures::future::join_all((0..4).map(|_| world.post(EXECUTE, &body))).await;
    for answer in &all {
        assert_eq!(
            (answer.status, &answer.body["result"]["output"]),
            (200, &json!({"n": 1})),
            "{answer:?}"
        );
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    let other = json!({"execution_id": "order-1", "input_data": {"parameters": {"n": 2}}});
    let refused = world.post(EXECUTE, &other).await;
    assert_eq!((refused.status, refused.code()), (409, "CONFLICT"));
}

#[tokio::test]
async fn large_inputs_and_outputs_stay_in_the_row() {
    let mut world = World::new().await;
    let version = world.serving("mine").await;
    world
        .execute_by(&version, |execute| {
            assert!(execute.input.is_none());
            let Reply::Outcome(outcome) = echo(execute) else {
                return None;
            };
            let mut travels = outcome.clone();
            travels.output = outcome.output;
            Some(Reply::OutcomeByReference(travels))
        })
        .await;
    let body = json!({"input_data": {"parameters": {"x": "x".repeat(INLINE_BYTES)}}});
    let answer = world.post(EXECUTE, &body).await;
    assert_eq!(
        (answer.status, &answer.body["result"]["output"]),
        (200, &json!("by reference")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn nobody_there_is_503_and_the_same_id_can_be_tried_again() {
    let mut world = World::new().await;
    let version = world.serving("mine").await;
    let body = json!({"execution_id": "e1", "input_data": {"parameters": {"n": 1}}});
    let answer = world.post(EXECUTE, &body).await;
    assert_eq!(
        (answer.status, answer.code(), answer.header("retry-after")),
        (503, "UNAVAILABLE", "1"),
        "{answer:?}"
    );
    let row = world.get("/api/v1/agents/mine/executions/e1").await;
    assert_eq!((row.status, row.code()), (404, "NOT_FOUND"), "{row:?}");
    assert_eq!(world.post(EXECUTE, &json!({})).await.status, 503);
    let list = world.get("/api/v1/agents/mine/executions").await;
    assert_eq!(list.body["pagination"]["total"], 0, "{list:?}");

    world
        .execute_by(&version, |execute| Some(echo(execute)))
        .await;
    let answer = world.post(EXECUTE, &body).await;
    assert_eq!(
        (answer.status, &answer.body["result"]["output"]),
        (200, &json!({"n": 1})),
        "{answer:?}"
    );
    // Another body is another execution: the id is taken now.
    let other = world.post(EXECUTE, &json!({"execution_id": "e1"})).await;
    assert_eq!((other.status, other.code()), (409, "CONFLICT"));
}

/// A stream's caller may have been told of it before it was refused.
#[tokio::test]
async fn a_stream_that_nobody_takes_keeps_its_end() {
    let world = World::new().await;
    world.serving("mine").await;
    let request = world.request("POST", EXECUTE).bearer_auth(&world.key);
    let request = request
        .header("accept", "text/event-stream")
        .json(&json!({"execution_id": "s1"}));
    let answer = world.send(request).await;
    assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"));
    let row = world.get("/api/v1/agents/mine/executions/s1").await;
    assert_eq!(
        (
            &row.body["status"],
            &row.body["result"]["error"]["details"]["phase"]
        ),
        (&json!("failed"), &json!("spawn")),
        "{row:?}"
    );
}

/// A server that had it may have run it: the outcome is unknown, and the row says so to whoever asks again.
#[tokio::test]
async fn what_may_have_been_run_keeps_its_row() {
    let mut world = World::new().await;
    let version = world.serving("mine").await;
    world.execute_by(&version, |_| None).await;
    let body = json!({"execution_id": "e1"});
    let answer = world.post(EXECUTE, &body).await;
    assert_eq!((answer.status, answer.code()), (503, "UNAVAILABLE"));
    let again = world.post(EXECUTE, &body).await;
    assert_eq!(
        (again.status, &again.body["status"]),
        (200, &json!("failed")),
        "{again:?}"
    );
}

/// Who waits on an execution that is refused meanwhile is told to try again, and then it runs once.
#[tokio::test(flavor = "multi_thread")]
async fn callers_of_one_id_that_is_refused_may_all_try_again() {
    let mut world = World::new().await;
    let version = world.serving("mine").await;
    let tries = Arc::new(AtomicU32::new(0));
    let counted = tries.clone();
    world
        .execute_by(&version, move |execute| {
            if counted.fetch_add(1, Ordering::SeqCst) > 0 {
                return Some(echo(execute));
            }
            // The others have found the row by then.
            std::thread::sleep(std::time::Duration::from_millis(200));
            Some(Reply::Refused(Error::new(
                Kind::Exhausted,
                "every place is taken",
            )))
        })
        .await;
    let body = json!({"execution_id": "order-1", "input_data": {"parameters": {"n": 1}}});
    let all = futures::future::join_all((0..4).map(|_| world.post(EXECUTE, &body))).await;
    for answer in &all {
        assert!(
            matches!(
                (answer.status, answer.code()),
                (429, "CAPACITY_EXHAUSTED") | (503, "UNAVAILABLE")
            ),
            "{answer:?}"
        );
        assert_eq!(answer.header("retry-after"), "1", "{answer:?}");
    }
    assert_eq!(tries.load(Ordering::SeqCst), 1);
    let all = futures::future::join_all((0..4).map(|_| world.post(EXECUTE, &body))).await;
    for answer in &all {
        assert_eq!(
            (answer.status, &answer.body["result"]["output"]),
            (200, &json!({"n": 1})),
            "{answer:?}"
        );
    }
    assert_eq!(tries.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn refusals_of_the_executor_keep_their_kind() {
    let mut world = World::new().await;
    let version = world.serving("mine").await;
    world
        .execute_by(&version, |_| {
            Some(Reply::Refused(Error::new(
                Kind::Exhausted,
                "every place is taken",
            )))
        })
        .await;
    let answer = world.post(EXECUTE, &json!({})).await;
    assert_eq!(
        (answer.status, answer.code(), answer.header("retry-after")),
        (429, "CAPACITY_EXHAUSTED", "1")
    );
}

#[tokio::test]
async fn an_agent_that_does_not_answer_says_why() {
    let world = World::new().await;
    assert_eq!(world.post(EXECUTE, &json!({})).await.status, 404);
    world.deploy("mine", "1.0.0").await;
    let answer = world.post(EXECUTE, &json!({})).await;
    assert_eq!(
        (answer.status, answer.code(), answer.header("retry-after")),
        (503, "UNAVAILABLE", "2"),
        "{answer:?}"
    );
}

#[tokio::test]
async fn traffic_moves_when_it_is_told() {
    let mut world = World::new().await;
    let first = world.serving("mine").await;
    world
        .execute_by(&first, |execute| Some(echo(execute)))
        .await;
    assert_eq!(
        world.post(EXECUTE, &json!({})).await.body["version"],
        "1.0.0"
    );
    world.deploy("mine", "2.0.0").await;
    let second = world.route("mine", "2.0.0").await;
    world
        .execute_by(&second, |execute| Some(echo(execute)))
        .await;
    for _ in 0..100 {
        if world.post(EXECUTE, &json!({})).await.body["version"] == "2.0.0" {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("traffic never moved");
}

#[tokio::test]
async fn async_is_a_row_then_a_message() {
    let world = World::with(Config {
        max_open_executions: 2,
        ..Config::default()
    })
    .await;
    let version = world.serving("mine").await;
    let body = json!({"execution_id": "a1", "input_data": {"parameters": {"n": 1}}, "execution_options": {"async": true, "priority": "low"}});
    let answer = world.post(EXECUTE, &body).await;
    assert_eq!(
        (
            answer.status,
            &answer.body["status"],
            &answer.body["callback_url"]
        ),
        (200, &json!("queued"), &json!(null)),
        "{answer:?}"
    );
    let subject = Subject::work(
        AccountId::default_account().as_str(),
        version.as_str(),
        Priority::Low,
    );
    let mut work = world
        .bus
        .work(&subject, WorkOptions::default())
        .await
        .expect("work");
    let delivery = work.next().await.expect("a message");
    let execute = Execute::decode(delivery.message.payload.clone()).expect("an execute");
    assert_eq!(execute.execution_id.as_str(), "a1");
    let read = world
        .get(answer.body["status_url"].as_str().expect("a URL"))
        .await;
    assert_eq!(
        (read.status, &read.body["status"], &read.body["mode"]),
        (200, &json!("queued"), &json!("async"))
    );
    assert_eq!(world.post(EXECUTE, &body).await.body["execution_id"], "a1");

    let cancelled = world
        .post("/api/v1/agents/mine/executions/a1/cancel", &json!({}))
        .await;
    assert_eq!(
        (
            cancelled.status,
            &cancelled.body["status"],
            &cancelled.body["already"]
        ),
        (200, &json!("cancelled"), &json!(false))
    );
    assert_eq!(
        world.get("/api/v1/agents/mine/executions/a1").await.body["result"]["error"]["code"],
        "CANCELLED"
    );
}

#[tokio::test]
async fn a_backlog_has_an_end() {
    let world = World::with(Config {
        max_open_executions: 0,
        ..Config::default()
    })
    .await;
    world.serving("mine").await;
    let body = json!({"execution_id": "a1", "execution_options": {"async": true}});
    let answer = world.post(EXECUTE, &body).await;
    assert_eq!(
        (answer.status, answer.code()),
        (429, "CAPACITY_EXHAUSTED"),
        "{answer:?}"
    );
    let row = world.get("/api/v1/agents/mine/executions/a1").await;
    assert_eq!((row.status, row.code()), (404, "NOT_FOUND"), "{row:?}");
}

#[tokio::test]
async fn a_callback_is_owed_from_the_acceptance_on() {
    let world = World::new().await;
    world.serving("mine").await;
    let body = |url: &str| json!({"execution_id": "c1", "execution_options": {"async": true, "callback_url": url}});
    for url in ["http://example.com/hook", "nonsense", "https://10.0.0.1/"] {
        let answer = world.post(EXECUTE, &body(url)).await;
        assert_eq!(
            (answer.status, answer.faults().len()),
            (400, 1),
            "{answer:?}"
        );
    }
    let url = "https://hooks.example.org/phalanx";
    for again in 0..2 {
        let answer = world.post(EXECUTE, &body(url)).await;
        assert_eq!(
            (answer.status, answer.body["callback_url"].as_str()),
            (200, Some(url)),
            "{again}: {answer:?}"
        );
    }
    let owed = world.store.owed_callbacks(None, 10).await.expect("rows");
    assert!(owed.is_empty(), "it has not ended: {owed:?}");
    let list = world.get("/api/v1/agents/mine/callbacks").await;
    assert_eq!(list.body["pagination"]["total"], 0, "{list:?}");
}

#[tokio::test]
async fn the_agents_own_key_executes_and_reads_it() {
    let mut world = World::new().await;
    let deployed = world.deploy("mine", "1.0.0").await;
    let key = deployed.body["security"]["api_key"]
        .as_str()
        .expect("a key")
        .to_owned();
    let version = world.route("mine", "1.0.0").await;
    world
        .execute_by(&version, |execute| Some(echo(execute)))
        .await;
    let endpoint = deployed.body["api_endpoint"].as_str().expect("a URL");
    let answer = world
        .send(
            world
                .request("POST", endpoint)
                .bearer_auth(&key)
                .json(&json!({})),
        )
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    for path in ["/api/v1/agents/mine", "/api/v1/agents/mine/executions"] {
        assert_eq!(
            world
                .send(world.request("GET", path).bearer_auth(&key))
                .await
                .status,
            200,
            "{path}"
        );
    }
    assert_eq!(
        world
            .send(
                world
                    .request("DELETE", "/api/v1/agents/mine")
                    .bearer_auth(&key)
            )
            .await
            .status,
        403
    );
}

#[tokio::test]
async fn trace_context_and_request_id_reach_the_executor() {
    let mut world = World::new().await;
    let version = world.serving("mine").await;
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    world
        .execute_by(&version, move |execute| {
            sender.send(execute.caller.clone()).ok();
            Some(echo(execute))
        })
        .await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = world
        .request("POST", EXECUTE)
        .bearer_auth(&world.key)
        .header("traceparent", trace)
        .header("tracestate", "a=1")
        .header("tracestate", "b=2")
        .header("x-request-id", "r-1")
        .json(&json!({}));
    world.send(request).await;
    let caller = receiver.recv().await.expect("executed");
    assert_eq!(
        (
            caller.traceparent.map(|parent| parent.to_string()),
            caller.tracestate.as_deref(),
            caller.request_id.as_deref()
        ),
        (Some(trace.to_owned()), Some("a=1,b=2"), Some("r-1"))
    );
}

#[tokio::test]
async fn every_execution_belongs_to_a_trace_that_its_caller_may_refuse() {
    let mut world = World::new().await;
    let version = world.serving("mine").await;
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    world
        .execute_by(&version, move |execute| {
            sender.send(execute.caller.clone()).ok();
            Some(echo(execute))
        })
        .await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let unkept = json!({"monitoring": {"trace_enabled": false}});
    for (sent, body, kept) in [
        (None, json!({}), true),
        (None, unkept.clone(), false),
        (Some(trace), unkept, false),
        (Some("00-zz"), json!({}), true),
    ] {
        let mut request = world.request("POST", EXECUTE).bearer_auth(&world.key);
        if let Some(trace) = sent {
            request = request.header("traceparent", trace);
        }
        world.send(request.json(&body)).await;
        let caller = receiver.recv().await.expect("executed");
        let parent = caller.traceparent.expect("a trace");
        assert_eq!(parent.sampled, kept, "{sent:?} {body}");
        let same = parent.to_string()[..52] == trace[..52];
        assert_eq!(same, sent == Some(trace), "{sent:?} {body}: {parent}");
    }
}
