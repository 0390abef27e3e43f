//! POST /agents/{id}/execute, awaited

use phalanx_tests::{Cluster, Value, fixtures, json};

#[tokio::test]
async fn the_answer_is_the_contracts() {
    let cluster = Cluster::start().await;
    let source = "
def handler(input, context):
    print('hello')
    context.log('noted', n=1)
    context.metric('tokens', 7)
    context.metric('score', 0.5)
    return {'input': input, 'user': context.user_id, 'session': context.session_id, 'request': context.request_id,
            'metadata': context.metadata, 'execution': context.execution_id, 'attempt': context.attempt}
";
    cluster
        .client
        .deploy_source("agent", source, json!({}))
        .await;
    let body = json!({
        "execution_id": "my-own-id",
        "input_data": {
            "parameters": {"b": 1, "a": [1.5, null, true, "Grüße 안녕 👋"]},
            "context": {"user_id": "u", "session_id": "s", "request_id": "r", "metadata": {"k": {"v": 1}}},
        },
        "execution_options": {"timeout": 10, "priority": "high", "retry_config": {"max_retries": 1}},
        "monitoring": {"trace_enabled": true, "custom_metrics": {}},
    });
    let document = cluster.client.execute_with("agent", &body).await.ok();
    assert_eq!(
        (&document["execution_id"], &document["status"]),
        (&json!("my-own-id"), &json!("completed")),
        "{document:#}"
    );
    assert_eq!(
        document["result"]["output"],
        json!({"input": body["input_data"]["parameters"], "user": "u", "session": "s", "request": "r", "metadata": {"k": {"v": 1}},
            "execution": "my-own-id", "attempt": 1})
    );
    let metadata = &document["result"]["metadata"];
    assert_eq!(
        (
            &metadata["tokens_used"],
            &metadata["custom_metrics"]["score"]
        ),
        (&json!(7), &json!(0.5)),
        "{document:#}"
    );
    for name in ["execution_time", "memory_used", "cpu_time"] {
        assert!(metadata[name].is_number(), "{name}: {document:#}");
    }
    for name in ["duration", "queue_time"] {
        assert!(
            document["performance"][name].is_number(),
            "{name}: {document:#}"
        );
    }
    let logs: Vec<_> = document["logs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|line| line["message"].clone())
        .collect();
    assert_eq!(logs, ["hello", "noted"]);
    assert_eq!(document["logs"][1]["context"], json!({"n": 1}));
}

#[tokio::test]
async fn an_id_of_the_callers_is_done_once() {
    let cluster = Cluster::start().await;
    let source = "import os\nfrom pathlib import Path\ndef handler(input):\n    p = Path('/tmp/count')\n    n = int(p.read_text()) + 1 if p.exists() else 1\n    p.write_text(str(n))\n    return n\n";
    let one = json!({"deployment_config": {"auto_scaling": {"max_instances": 1}}});
    cluster.client.deploy_source("count", source, one).await;
    let body = fixtures::with(
        fixtures::call(json!({"a": 1})),
        json!({"execution_id": "once"}),
    );
    let first = cluster.client.execute_with("count", &body).await.ok();
    let again = cluster.client.execute_with("count", &body).await.ok();
    assert_eq!(first["result"]["output"], 1);
    assert_eq!(again, first, "the same document");
    let other = fixtures::with(
        body.clone(),
        json!({"input_data": {"parameters": {"a": 2}}}),
    );
    cluster
        .client
        .execute_with("count", &other)
        .await
        .refused(409, "CONFLICT");
    // Twenty at once are one as well.
    let body = fixtures::with(body, json!({"execution_id": "once-more"}));
    let all =
        futures::future::join_all((0..20).map(|_| cluster.client.execute_with("count", &body)))
            .await;
    let outputs: Vec<Value> = all
        .iter()
        .map(|answer| answer.ok()["result"]["output"].clone())
        .collect();
    assert!(outputs.iter().all(|output| *output == 2), "{outputs:?}");
}

#[tokio::test]
async fn large_inputs_and_outputs_travel() {
    let cluster = Cluster::start().await;
    let changes = json!({"agent_code": {"configuration": {"memory_limit": 1024}}});
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, changes)
        .await;
    for size in [255 * 1024, 257 * 1024, 5 * 1024 * 1024] {
        let input = json!({"text": "x".repeat(size)});
        assert_eq!(
            cluster.client.output("echo", input.clone()).await,
            input,
            "{size}"
        );
        let id = cluster.client.execute_async("echo", input.clone()).await;
        assert_eq!(
            cluster.client.execution_end("echo", &id).await["result"]["output"],
            input,
            "{size}"
        );
    }
}

#[tokio::test]
async fn numbers_and_text_come_back_as_they_were_sent() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    let raw = r#"{"input_data":{"parameters":{"big":123456789012345678901234567890,"small":1e-300,"zero":-0.0,"nested":{"z":1,"a":2},"text":"\u0000\u001b\ud83d\ude00"}}}"#;
    let request = cluster
        .client
        .request(reqwest::Method::POST, "/api/v1/agents/echo/execute");
    let answer = cluster
        .client
        .send(request.header("content-type", "application/json").body(raw))
        .await
        .expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text);
    for part in [
        "123456789012345678901234567890",
        "1e-300",
        "-0.0",
        r#""z":1,"a":2"#,
    ] {
        assert!(
            answer
                .text
                .replace(": ", ":")
                .replace(", ", ",")
                .contains(part),
            "{part}: {}",
            answer.text
        );
    }
    assert_eq!(answer.body()["result"]["output"]["text"], "\u{0}\u{1b}😀");
}

#[tokio::test]
async fn logs_belong_to_their_execution() {
    let cluster = Cluster::start().await;
    let source = "
import asyncio, logging, threading
async def handler(input):
    n = input['n']
    for i in range(5):
        print('print', n)
        logging.getLogger('x').info('log %d', n)
        await asyncio.sleep(0.01)
    await asyncio.to_thread(print, 'thread', n)
    return n
";
    let one = json!({"agent_code": {"configuration": {"concurrent_executions": 50}}, "deployment_config": {"auto_scaling": {"max_instances": 1}}});
    cluster.client.deploy_source("agent", source, one).await;
    let all = futures::future::join_all(
        (0..30).map(|n| cluster.client.execute("agent", json!({"n": n}))),
    )
    .await;
    for (n, document) in all.iter().enumerate() {
        let logs = document["logs"].as_array().expect("a list");
        assert_eq!(logs.len(), 11, "{document:#}");
        let own = logs.iter().all(|line| {
            line["message"]
                .as_str()
                .expect("text")
                .ends_with(&format!(" {n}"))
        });
        assert!(own, "{n}: {document:#}");
    }
}

#[tokio::test]
async fn traces_and_request_ids_are_passed_on() {
    let cluster = Cluster::start().await;
    let source = "def handler(input, context):\n    return [context.request_id, str(getattr(context, 'traceparent', None))]\n";
    cluster
        .client
        .deploy_source("agent", source, json!({}))
        .await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = cluster
        .client
        .request(reqwest::Method::POST, "/api/v1/agents/agent/execute");
    let request = request
        .json(&json!({}))
        .header("x-request-id", "req-of-mine")
        .header("traceparent", trace);
    let answer = cluster.client.send(request).await.expect("an answer");
    assert_eq!(answer.header("x-request-id"), Some("req-of-mine"));
    let output = &answer.ok()["result"]["output"];
    assert_eq!(output[0], "req-of-mine");
    assert!(
        output[1]
            .as_str()
            .is_some_and(|found| found.contains("0af7651916cd43dd8448eb211c80319c")),
        "{output}"
    );
}
