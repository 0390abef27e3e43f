//! POST /agents/{id}/execute with `Accept: text/event-stream`

use phalanx_tests::{Cluster, Value, fixtures, json, sse::Event};

const COUNT: &str = "
import asyncio
async def handler(input, context):
    for n in range(input['to']):
        print('line', n)
        yield {'n': n}
        context.progress(100 * (n + 1) / input['to'])
        await asyncio.sleep(input.get('pause', 0.01))
";

fn chunks(events: &[Event]) -> Vec<Value> {
    events
        .iter()
        .filter(|event| event.name == "chunk")
        .map(|event| event.data["n"].clone())
        .collect()
}

#[tokio::test]
async fn chunks_logs_progress_and_the_result() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source("count", COUNT, json!({}))
        .await;
    let events = cluster
        .client
        .stream("count", &fixtures::call(json!({"to": 4})), None)
        .await
        .all()
        .await;
    assert_eq!(chunks(&events), [0, 1, 2, 3]);
    assert_eq!(
        events.iter().filter(|event| event.name == "log").count(),
        4,
        "{events:#?}"
    );
    let progress: Vec<_> = events
        .iter()
        .filter(|event| event.name == "progress")
        .map(|event| event.data["progress"].as_f64())
        .collect();
    assert_eq!(progress.last(), Some(&Some(100.0)), "{events:#?}");
    let last = events.last().expect("events");
    assert_eq!(
        (last.name.as_str(), &last.data["status"]),
        ("result", &json!("completed")),
        "{last:#?}"
    );
    assert_eq!(
        last.data["result"]["output"],
        json!([{"n": 0}, {"n": 1}, {"n": 2}, {"n": 3}])
    );
    let ids: Vec<u64> = events
        .iter()
        .filter_map(|event| event.id.as_ref()?.parse().ok())
        .collect();
    assert!(ids.len() == events.len() && ids.is_sorted(), "{ids:?}");
    // The same without streaming: one output.
    assert_eq!(
        cluster.client.output("count", json!({"to": 2})).await,
        json!([{"n": 0}, {"n": 1}])
    );
}

#[tokio::test]
async fn a_broken_stream_goes_on_where_it_broke() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source("count", COUNT, json!({}))
        .await;
    let body = fixtures::with(
        fixtures::call(json!({"to": 30, "pause": 0.02})),
        json!({"execution_id": "resumed"}),
    );
    let mut first = cluster.client.stream("count", &body, None).await;
    let mut events = Vec::new();
    while chunks(&events).len() < 5 {
        let event = first.next().await;
        events.push(event.unwrap_or_else(|| panic!("it ended early: {events:#?}")));
    }
    drop(first);
    let last = events
        .last()
        .and_then(|event| event.id.clone())
        .expect("an id");
    let rest = cluster
        .client
        .stream("count", &body, Some(&last))
        .await
        .all()
        .await;
    events.extend(rest);
    assert_eq!(
        chunks(&events),
        (0..30).map(Value::from).collect::<Vec<_>>(),
        "nothing twice, nothing lost"
    );
    assert_eq!(
        events.last().map(|event| event.name.as_str()),
        Some("result")
    );
    // Long after the end the result is told again.
    let again = cluster
        .client
        .stream("count", &body, None)
        .await
        .all()
        .await;
    assert_eq!(
        again.last().map(|event| event.data["status"].clone()),
        Some(json!("completed")),
        "{again:#?}"
    );
}

#[tokio::test]
async fn a_failure_is_a_result() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source(
            "bad",
            "def handler(input):\n    yield 1\n    raise ValueError('half way')\n",
            json!({}),
        )
        .await;
    let events = cluster
        .client
        .stream("bad", &fixtures::call(json!({})), None)
        .await
        .all()
        .await;
    assert_eq!(events[0].data, 1);
    let last = events.last().expect("events");
    assert_eq!(
        (&last.data["status"], &last.data["result"]["error"]["code"]),
        (&json!("failed"), &json!("HANDLER_RAISED")),
        "{last:#?}"
    );

    // A function that yields nothing has a result alone.
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    let events = cluster
        .client
        .stream("echo", &fixtures::call(json!({"a": 1})), None)
        .await
        .all()
        .await;
    let results: Vec<_> = events
        .iter()
        .filter(|event| event.name == "result")
        .collect();
    assert_eq!(results.len(), 1, "{events:#?}");
    assert_eq!(results[0].data["result"]["output"], json!({"a": 1}));

    let both = fixtures::with(
        fixtures::call(json!({})),
        json!({"execution_options": {"async": true}}),
    );
    let request = cluster
        .client
        .request(reqwest::Method::POST, "/api/v1/agents/echo/execute")
        .json(&both);
    let answer = cluster
        .client
        .send(request.header("accept", "text/event-stream"))
        .await
        .expect("an answer");
    assert!(
        answer.faults()[0].starts_with("execution_options.async: "),
        "{}",
        answer.text
    );
}
