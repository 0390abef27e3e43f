//! The spans of one execution, as a collector gets them: joined from the caller's to the one that the handler follows.

use phalanx_tests::{Answer, Cluster, Collector, Options, Shape, collector::Span, json, wait};
use reqwest::Method;
use std::time::Duration;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
const REQUEST: &str = "POST /api/v1/agents/{agent_id}/execute";
const SEES: &str = "\
def handler(input, context):
    if input.get('fails'):
        raise ValueError('as told')
    context.metric('tokens', 7)
    return {'parent': context.traceparent, 'state': context.tracestate}
";

fn told(collector: &Collector) -> Options {
    Options::default()
        .set("PHALANX__TELEMETRY__OTLP_ENDPOINT", &collector.url())
        .set("OTEL_BSP_SCHEDULE_DELAY", "100")
}

async fn observed(collector: &Collector) -> Cluster {
    let cluster = Cluster::embedded(told(collector)).await;
    cluster.client.deploy_source("sees", SEES, json!({})).await;
    cluster
}

async fn execute(cluster: &Cluster, flags: &str, body: phalanx_tests::Value) -> Answer {
    let request = cluster
        .client
        .request(Method::POST, "/api/v1/agents/sees/execute")
        .header("traceparent", format!("00-{TRACE}-{CALLER}-{flags}"))
        .header("tracestate", "vendor=1")
        .json(&body);
    cluster.client.send(request).await.expect("an answer")
}

/// Each span is the parent of the next one.
#[track_caller]
fn chain<'a>(spans: &'a [Span], names: &[&str]) -> Vec<&'a Span> {
    let mut parent = CALLER;
    let mut found = Vec::new();
    for name in names {
        let next = spans
            .iter()
            .find(|span| span.name == *name && span.parent == parent)
            .unwrap_or_else(|| panic!("no {name} under {parent} in {spans:#?}"));
        parent = &next.id;
        found.push(next);
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_execution_is_one_trace_from_its_caller_to_its_handler() {
    let collector = Collector::start().await;
    let mut cluster = observed(&collector).await;
    let answer = execute(&cluster, "01", json!({})).await.ok();
    let names = [REQUEST, "request run", "process run", "invoke_agent sees"];
    let spans = collector.trace(TRACE, &names).await;
    let found = chain(&spans, &names);
    let output = &answer["result"]["output"];
    assert_eq!(output["parent"], format!("00-{TRACE}-{}-01", found[3].id));
    assert_eq!(output["state"], "vendor=1");

    assert_eq!(found[0].service, "phalanx-up");
    assert_eq!(
        found[0].attribute("http.route"),
        "/api/v1/agents/{agent_id}/execute"
    );
    assert_eq!(found[0].attribute("http.response.status_code"), "200");
    assert_eq!(found[1].attribute("messaging.operation.type"), "send");
    assert_eq!(found[2].attribute("messaging.operation.type"), "process");
    let attempt = found[3];
    for (name, value) in [
        ("gen_ai.operation.name", "invoke_agent"),
        ("gen_ai.agent.id", "sees"),
        ("gen_ai.agent.name", "sees"),
        ("gen_ai.usage.total_tokens", "7"),
        ("phalanx.execution.attempt", "1"),
        ("phalanx.execution.status", "completed"),
    ] {
        assert_eq!(attempt.attribute(name), value, "{name}");
    }
    assert_eq!(
        attempt.attribute("phalanx.execution.id"),
        answer["execution_id"].as_str().expect("an id")
    );
    assert!(spans.iter().all(|span| !span.failed), "{spans:#?}");

    // What has not been sent when it leaves is sent then.
    let last = "11111111111111111111111111111111";
    let request = cluster
        .client
        .request(Method::GET, "/api/v1/agents")
        .header("traceparent", format!("00-{last}-{CALLER}-01"));
    cluster.client.send(request).await.expect("an answer").ok();
    assert!(cluster.terminate().success());
    collector.trace(last, &["GET /api/v1/agents"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_nats_it_is_one_trace_through_the_processes() {
    let collector = Collector::start().await;
    let shape = Shape {
        gateways: 1,
        executors: 1,
        ..Shape::SMALL
    };
    let cluster = Cluster::many(shape, told(&collector)).await;
    cluster.client.deploy_source("sees", SEES, json!({})).await;
    let answer = execute(&cluster, "01", json!({})).await.ok();
    let names = [REQUEST, "request run", "process run", "invoke_agent sees"];
    let spans = collector.trace(TRACE, &names).await;
    let found = chain(&spans, &names);
    let output = &answer["result"]["output"];
    assert_eq!(output["parent"], format!("00-{TRACE}-{}-01", found[3].id));
    let services: Vec<&str> = found.iter().map(|span| span.service.as_str()).collect();
    let (gateway, executor) = ("phalanx-gateway", "phalanx-executor");
    assert_eq!(services, [gateway, gateway, executor, executor]);
    assert_eq!(found[1].attribute("messaging.system"), "nats");
    assert_eq!(found[2].attribute("messaging.system"), "nats");

    // A deployment goes from the gateway by NATS to the deployer, and by gRPC to the executor.
    let deployment = wait::until("a deployment", Duration::from_secs(60), || async {
        let spans = collector.spans();
        let of = |name: &str, service: &str| {
            let found = spans
                .iter()
                .find(|span| span.name == name && span.service == service);
            found
                .cloned()
                .ok_or_else(|| format!("no {name} of {service} in {spans:#?}"))
        };
        Ok([
            of("POST /api/v1/agents/deploy", gateway)?,
            of("enqueue deploy", gateway)?,
            of("deploy sees", "phalanx-deployer")?,
            of("phalanx.v1.Executor/Ensure", executor)?,
        ])
    })
    .await;
    assert!(
        deployment
            .iter()
            .all(|span| span.trace == deployment[0].trace),
        "{deployment:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_async_execution_keeps_its_trace_and_every_attempt_is_a_span() {
    let collector = Collector::start().await;
    let cluster = observed(&collector).await;
    let body = json!({
        "input_data": {"parameters": {"fails": true}},
        "execution_options": {"async": true, "retry_config": {"max_retries": 1, "retry_delay": 0}},
    });
    let id = execute(&cluster, "01", body).await.ok()["execution_id"].clone();
    let path = format!(
        "/api/v1/agents/sees/executions/{}",
        id.as_str().expect("an id")
    );
    wait::until("its end", Duration::from_secs(30), || async {
        let document = cluster.client.get(&path).await.ok();
        match document["status"].as_str() {
            Some("failed") => Ok(()),
            _ => Err(document.to_string()),
        }
    })
    .await;
    let names = [REQUEST, "enqueue work", "process work", "invoke_agent sees"];
    let attempts = wait::until("both attempts", Duration::from_secs(30), || async {
        let spans = collector.trace(TRACE, &names).await;
        let attempts: Vec<Span> = spans
            .iter()
            .filter(|span| span.name == names[3])
            .cloned()
            .collect();
        if attempts.len() < 2 {
            return Err(format!("{spans:#?}"));
        }
        chain(&spans, &names);
        Ok(attempts)
    })
    .await;
    let mut numbers: Vec<&str> = attempts
        .iter()
        .map(|span| span.attribute("phalanx.execution.attempt"))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, ["1", "2"]);
    for attempt in &attempts {
        assert!(attempt.failed, "{attempt:#?}");
        assert_eq!(attempt.attribute("error.type"), "ValueError");
        assert_eq!(attempt.attribute("phalanx.execution.status"), "failed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_no_trace_gets_none() {
    let collector = Collector::start().await;
    let mut cluster = observed(&collector).await;
    let refused = json!({"monitoring": {"trace_enabled": false}});
    let output = execute(&cluster, "01", refused).await.ok()["result"]["output"].clone();
    let parent = output["parent"].as_str().expect("a parent");
    assert!(
        parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-00"),
        "{parent}"
    );
    // Its caller's own word counts as well.
    let output = execute(&cluster, "00", json!({})).await.ok()["result"]["output"].clone();
    let parent = output["parent"].as_str().expect("a parent");
    assert!(
        parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-00"),
        "{parent}"
    );
    // Everything has been sent once it has left.
    assert!(cluster.terminate().success());
    let spans = collector.spans();
    let of_it: Vec<&Span> = spans.iter().filter(|span| span.trace == TRACE).collect();
    let names: Vec<&str> = of_it.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(
        names,
        [REQUEST],
        "the request itself was to be kept, nothing of its execution"
    );
    assert!(
        spans
            .iter()
            .all(|span| !span.name.starts_with("invoke_agent"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_one_trace_through_its_phases() {
    let collector = Collector::start().await;
    let cluster = observed(&collector).await;
    let spans = wait::until("a deployment", Duration::from_secs(60), || async {
        let spans = collector.spans();
        match spans.iter().find(|span| span.name == "deploy sees") {
            Some(deployment) => Ok(spans
                .iter()
                .filter(|span| span.trace == deployment.trace)
                .cloned()
                .collect::<Vec<_>>()),
            None => Err(format!("{spans:#?}")),
        }
    })
    .await;
    let root = spans
        .iter()
        .find(|span| span.name == "POST /api/v1/agents/deploy")
        .unwrap_or_else(|| panic!("no request in {spans:#?}"));
    let deployment = spans
        .iter()
        .find(|span| span.name == "deploy sees")
        .expect("found");
    let nudge = spans
        .iter()
        .find(|span| span.id == deployment.parent)
        .expect("its nudge");
    assert_eq!(
        (nudge.name.as_str(), &nudge.parent),
        ("enqueue deploy", &root.id)
    );
    assert_eq!(root.parent, "", "nobody called within a trace");
    assert_eq!(
        deployment.attribute("phalanx.deployment.status"),
        "deployed"
    );
    for phase in [
        "validate",
        "package",
        "provision",
        "health_check",
        "shift_traffic",
        "retire",
    ] {
        let span = spans
            .iter()
            .find(|span| span.name == phase)
            .unwrap_or_else(|| panic!("no {phase} in {spans:#?}"));
        assert_eq!(span.parent, deployment.id, "{phase}");
    }
    // Asked by gRPC: the client's span, and under it the server's.
    let ensures: Vec<&Span> = spans
        .iter()
        .filter(|span| span.name == "phalanx.v1.Executor/Ensure")
        .collect();
    let served = ensures
        .iter()
        .any(|server| ensures.iter().any(|client| client.id == server.parent));
    assert!(served, "{ensures:#?}");
    drop(cluster);
}
