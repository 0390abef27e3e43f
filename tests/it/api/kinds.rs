//! Every kind of entry point through the front door, with the examples as they are and the real packages from the index.

use phalanx_tests::{Client, Cluster, Options, Value, fixtures, json, program::example};

async fn deploy(client: &Client, id: &str, source: &str, entrypoint: &str, python: Value) {
    let changes = json!({
        "agent_code": {"entrypoint": entrypoint, "dependencies": {"python": python}, "configuration": {"memory_limit": 512}},
    });
    client.deploy_source(id, source, changes).await;
}

#[tokio::test]
async fn functions_of_every_sort() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let source = "
import asyncio

def nothing():
    return 'nothing'

def one(input):
    return input['a']

def two(input, context):
    return [input['a'], context.attempt]

async def later(input):
    await asyncio.sleep(0.01)
    return input['a']

def items(input):
    yield 1
    yield 2

async def later_items(input):
    yield 'a'
    await asyncio.sleep(0.01)
    yield 'b'

class Thing:
    def method(self, input):
        return ['method', input['a']]

    async def later(self, input, context):
        return ['later', input['a']]

thing = Thing()
";
    for (id, entrypoint, wanted) in [
        ("nothing", "nothing", json!("nothing")),
        ("one", "one", json!(5)),
        ("two", "two", json!([5, 1])),
        ("later", "later", json!(5)),
        ("items", "items", json!([1, 2])),
        ("later-items", "later_items", json!(["a", "b"])),
        ("method", "agent:thing.method", json!(["method", 5])),
        ("async-method", "agent:thing.later", json!(["later", 5])),
    ] {
        deploy(client, id, source, entrypoint, json!([])).await;
        assert_eq!(client.output(id, json!({"a": 5})).await, wanted, "{id}");
    }
}

#[tokio::test]
async fn a_zip_of_packages_and_data() {
    let cluster = Cluster::start().await;
    let zip = fixtures::zipped(&[
        ("main.py", b"from app.core import answer\ndef handler(input):\n    return answer(input)\n"),
        ("app/__init__.py", b""),
        ("app/core.py", b"from pathlib import Path\nhere = Path(__file__).parent\ndef answer(input):\n    return (here / 'data' / 'word.txt').read_text()\n"),
        ("app/data/word.txt", "안녕".as_bytes()),
    ]);
    let body = fixtures::agent_of("zipped", &zip);
    cluster.client.deployed(&body).await;
    assert_eq!(cluster.client.output("zipped", json!({})).await, "안녕");
    let dotted = fixtures::with(
        fixtures::agent_of("dotted", &zip),
        json!({"agent_code": {"entrypoint": "app.core:answer"}}),
    );
    cluster.client.deployed(&dotted).await;
    assert_eq!(cluster.client.output("dotted", json!({})).await, "안녕");
}

#[tokio::test]
async fn examples_that_need_nothing() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    deploy(client, "echo", &example("echo.py"), "handler", json!([])).await;
    assert_eq!(
        client.output("echo", json!({"a": 1})).await["echo"],
        json!({"a": 1})
    );
    deploy(
        client,
        "streaming",
        &example("streaming.py"),
        "stream",
        json!([]),
    )
    .await;
    let document = client.execute("streaming", json!({"text": "a b c"})).await;
    assert_eq!(
        document["result"]["output"].as_array().map(Vec::len),
        Some(3),
        "{document:#}"
    );
    assert_eq!(
        document["result"]["metadata"]["tokens_used"], 3,
        "{document:#}"
    );
}

#[tokio::test]
async fn agno_agent_team_and_workflow() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let agent = example("agno_agent.py");
    // One environment for all three: they ask for the same.
    deploy(client, "agent", &agent, "agent", json!(["agno"])).await;
    let document = client
        .execute("agent", json!({"message": "Hello there"}))
        .await;
    assert!(
        document["result"]["output"]
            .to_string()
            .contains("Hello there"),
        "{document:#}"
    );
    assert!(
        document["result"]["metadata"]["tokens_used"]
            .as_u64()
            .is_some_and(|tokens| tokens > 0),
        "{document:#}"
    );
    let events = client
        .stream(
            "agent",
            &fixtures::call(json!({"message": "one two"})),
            None,
        )
        .await
        .all()
        .await;
    assert!(
        events.iter().filter(|event| event.name == "chunk").count() >= 2,
        "{events:#?}"
    );
    assert_eq!(
        events.last().map(|event| event.data["status"].clone()),
        Some(json!("completed"))
    );

    deploy(
        client,
        "team",
        &example("agno_team.py"),
        "team",
        json!(["agno"]),
    )
    .await;
    let document = client.execute("team", json!({"message": "Hi"})).await;
    assert_eq!(document["status"], "completed", "{document:#}");

    let workflow = format!(
        "{agent}\nfrom agno.workflow import Workflow, Step\nworkflow = Workflow(name='w', steps=[Step(name='ask', agent=agent)])\n"
    );
    deploy(client, "workflow", &workflow, "workflow", json!(["agno"])).await;
    let document = client
        .execute("workflow", json!({"message": "Step by step"}))
        .await;
    assert!(
        document["result"]["output"]
            .to_string()
            .contains("Step by step"),
        "{document:#}"
    );

    // An agent whose model fails has failed, whatever Agno returns.
    let broken = agent.replace(
        "return self.response(self.answer(messages))",
        "raise RuntimeError('the model is away')",
    );
    assert_ne!(
        broken, agent,
        "the example has changed: this test must, too"
    );
    deploy(client, "broken", &broken, "agent", json!(["agno"])).await;
    let document = client.execute("broken", json!({"message": "Hello"})).await;
    assert_eq!(
        (&document["status"], &document["result"]["error"]["code"]),
        (&json!("failed"), &json!("HANDLER_RAISED")),
        "{document:#}"
    );
    assert!(
        document["result"]["error"]["message"]
            .to_string()
            .contains("the model is away"),
        "{document:#}"
    );
}

#[tokio::test]
async fn bedrock_agentcore_and_fastapi_files_as_they_stand() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    deploy(
        client,
        "bedrock",
        &example("bedrock_agentcore_app.py"),
        "bedrock_agentcore_app.py",
        json!(["bedrock-agentcore"]),
    )
    .await;
    let body = json!({"input_data": {"parameters": {"prompt": "Hi"}, "context": {"session_id": "a-session-of-mine"}}});
    let document = client.execute_with("bedrock", &body).await.ok();
    assert_eq!(
        document["result"]["output"],
        json!({"result": "You said: Hi", "session_id": "a-session-of-mine"}),
        "{document:#}"
    );

    deploy(
        client,
        "fastapi",
        &example("fastapi_app.py"),
        "fastapi_app.py",
        json!(["fastapi"]),
    )
    .await;
    assert_eq!(
        client.output("fastapi", json!({"name": "Bo"})).await,
        json!({"message": "Hello, Bo"})
    );
    deploy(
        client,
        "named",
        &example("fastapi_app.py"),
        "fastapi_app:app",
        json!(["fastapi"]),
    )
    .await;
    assert_eq!(
        client.output("named", json!({"name": "Bo"})).await,
        json!({"message": "Hello, Bo"})
    );
    // What the application itself refuses is a failure, not an output.
    let error = client
        .failure("fastapi", json!({"name": {"not": "text"}}))
        .await;
    assert!(error.to_string().contains("422"), "{error:#}");
}

/// Somebody asked for it: then an agent is a plain process of the host's, and works all the same.
#[tokio::test]
async fn a_host_that_confines_nothing_runs_agents() {
    let options = Options::default().set("PHALANX__EXECUTOR__ISOLATION", "none");
    let cluster = Cluster::start_with(options).await;
    let client = &cluster.client;
    let source = "import os\ndef handler(input):\n    return [input, os.path.isdir('/agent')]\n";
    client.deploy_source("plain", source, json!({})).await;
    let output = client.output("plain", json!({"a": 1})).await;
    assert_eq!(output, json!([{"a": 1}, false]));
    let health = client.get("/api/v1/system/health").await.ok();
    assert!(
        health["nodes"][0]["isolation"]
            .as_str()
            .is_some_and(|level| level.contains("none")),
        "{health:#}"
    );
}
