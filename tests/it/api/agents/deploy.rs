//! POST /agents/deploy

use phalanx_tests::{Cluster, Value, fixtures, json};
use std::sync::atomic::{AtomicBool, Ordering};

#[tokio::test]
async fn the_answer_is_the_contracts() {
    let cluster = Cluster::start().await;
    let answer = cluster
        .client
        .deploy(&fixtures::agent("echo", fixtures::ECHO))
        .await
        .ok();
    for name in [
        "deployment_id",
        "agent_id",
        "status",
        "api_endpoint",
        "deployment_info",
        "monitoring",
        "security",
    ] {
        assert!(!answer[name].is_null(), "{name}: {answer:#}");
    }
    let deployment = answer["deployment_id"].as_str().expect("an id");
    assert!(deployment.starts_with("dep_"), "{deployment}");
    assert_eq!(answer["status"], "deploying");
    assert!(
        answer["security"]["api_key"]
            .as_str()
            .expect("a key")
            .starts_with("akc_")
    );
    for name in [
        "region",
        "runtime_environment",
        "created_at",
        "estimated_completion",
    ] {
        assert!(
            answer["deployment_info"][name].is_string(),
            "{name}: {answer:#}"
        );
    }
    cluster.client.deployment_end(&answer).await;
    // The endpoint is callable as it stands, with the agent's own key.
    let agent = cluster
        .client
        .with_key(answer["security"]["api_key"].as_str().expect("a key"));
    let endpoint = answer["api_endpoint"].as_str().expect("a URL");
    let executed = agent
        .post(endpoint, &fixtures::call(json!({"a": 1})))
        .await
        .ok();
    assert_eq!(executed["result"]["output"], json!({"a": 1}));
}

#[tokio::test]
async fn the_same_again_is_the_same_deployment_and_other_content_is_a_conflict() {
    let cluster = Cluster::start().await;
    let body = fixtures::agent("echo", fixtures::ECHO);
    let first = cluster.client.deployed(&body).await;
    let again = cluster.client.deploy(&body).await.ok();
    assert_eq!(again["deployment_id"], first["deployment_id"]);
    assert_eq!(again["status"], "deployed");
    assert_eq!(
        (
            &again["security"]["api_key"],
            &again["security"]["webhook_secret"]
        ),
        (&Value::Null, &Value::Null)
    );

    let other = fixtures::agent("echo", "def handler(input):\n    return 2\n");
    let error = cluster.client.deploy(&other).await.refused(409, "CONFLICT");
    assert!(
        error["message"].as_str().expect("text").contains("1.0.0"),
        "{error}"
    );
    // Whatever differs is other content.
    let memory = fixtures::with(
        body,
        json!({"agent_code": {"configuration": {"memory_limit": 256}}}),
    );
    cluster
        .client
        .deploy(&memory)
        .await
        .refused(409, "CONFLICT");

    let next = fixtures::with(other, json!({"agent_metadata": {"version": "1.1.0"}}));
    let second = cluster.client.deployed(&next).await;
    assert_ne!(second["deployment_id"], first["deployment_id"]);
    assert!(
        second["security"]["api_key"].is_null(),
        "only the first deploy shows a key: {second:#}"
    );
    assert_eq!(cluster.client.output("echo", json!({})).await, 2);
}

#[tokio::test]
async fn a_rollout_loses_no_request() {
    let cluster = Cluster::start().await;
    let source = |n: u32| {
        format!(
            "import asyncio\nasync def handler(input):\n    await asyncio.sleep(0.05)\n    return {n}\n"
        )
    };
    cluster
        .client
        .deploy_source("agent", &source(1), json!({}))
        .await;
    let client = cluster.client.clone();
    let stop = AtomicBool::new(false);
    let callers = (0..8).map(|_| async {
        let mut seen = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            seen.push(
                client
                    .output("agent", json!({}))
                    .await
                    .as_u64()
                    .expect("a number"),
            );
        }
        seen
    });
    let rollout = async {
        for version in 2..=4u32 {
            let body = fixtures::with(
                fixtures::agent("agent", &source(version)),
                json!({"agent_metadata": {"version": format!("{version}.0.0")}}),
            );
            client.deployed(&body).await;
        }
        // Each caller sees the last version before it stops.
        assert_eq!(client.output("agent", json!({})).await, 4);
        stop.store(true, Ordering::Relaxed);
    };
    let (seen, ()) = tokio::join!(futures::future::join_all(callers), rollout);
    for seen in seen {
        assert!(
            seen.is_sorted(),
            "a caller was sent back to an older version: {seen:?}"
        );
        assert!(
            seen.len() > 2 && *seen.last().expect("calls") >= 3,
            "{seen:?}"
        );
    }
}

#[tokio::test]
async fn two_at_once() {
    let cluster = Cluster::start().await;
    let (one, two) = (
        fixtures::agent("one", fixtures::ECHO),
        fixtures::agent("two", fixtures::ECHO),
    );
    tokio::join!(cluster.client.deployed(&one), cluster.client.deployed(&two));
    // The same agent, the same version, twelve times at once: one deployment.
    let same = fixtures::agent("same", fixtures::ECHO);
    let answers = futures::future::join_all((0..12).map(|_| cluster.client.deploy(&same))).await;
    let answers: Vec<Value> = answers.iter().map(phalanx_tests::Answer::ok).collect();
    assert!(
        answers
            .iter()
            .all(|answer| answer["deployment_id"] == answers[0]["deployment_id"]),
        "{answers:#?}"
    );
    let keys = answers
        .iter()
        .filter(|answer| answer["security"]["api_key"].is_string())
        .count();
    assert_eq!(keys, 1, "the key is shown once");
    cluster.client.deployment_end(&answers[0]).await;
}

#[tokio::test]
async fn variables_reach_the_agent_and_nobody_else() {
    let cluster = Cluster::start().await;
    let source = "import os\ndef handler(input):\n    return os.environ.get('TOKEN')\n";
    let secret = "s3cr3t-7f3e";
    let changes =
        json!({"deployment_config": {"security": {"environment_variables": {"TOKEN": secret}}}});
    cluster.client.deploy_source("agent", source, changes).await;
    assert_eq!(cluster.client.output("agent", json!({})).await, secret);
    for path in [
        "/api/v1/agents/agent",
        "/api/v1/agents/agent/versions",
        "/api/v1/agents/agent/deployments",
        "/api/v1/audit",
    ] {
        assert!(
            !cluster.client.get(path).await.text.contains(secret),
            "{path}"
        );
    }
    assert!(!cluster.log().contains(secret));
    for file in ["phalanx.db", "phalanx.db-wal"] {
        let bytes = std::fs::read(cluster.data_dir().join(file)).unwrap_or_default();
        // The output of the execution above is kept; the sealed variable must not be found in a row of the version.
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains(&format!("\"TOKEN\":\"{secret}\"")), "{file}");
    }
}
