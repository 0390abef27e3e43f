//! Requests that are wrong.

use crate::still_serves;
use phalanx_tests::{Answer, Cluster, Value, fixtures, json};
use reqwest::Method;

const DEPLOY: &str = "/api/v1/agents/deploy";
const EXECUTE: &str = "/api/v1/agents/echo/execute";

async fn raw(cluster: &Cluster, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = cluster
        .client
        .request(Method::POST, path)
        .header("content-type", "application/json")
        .body(body);
    cluster.client.send(request).await.expect("an answer")
}

#[tokio::test]
async fn what_is_no_json() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    for path in [DEPLOY, EXECUTE] {
        for body in [
            &b"{"[..],
            b"{\"a\":1,}",
            b"\xff\xfe{}",
            b"{} trailing",
            b"{\"a\":1}{\"b\":2}",
            b"NaN",
            b"{\"a\":01}",
            b"{'a':1}",
            b"{\"a\":\"\xed\xa0\x80\"}",
        ] {
            raw(&cluster, path, body.to_vec()).await.faults();
        }
        for body in ["[]", "\"x\"", "1", "null", "true"] {
            raw(&cluster, path, body).await.faults();
        }
        // Nested beyond reason, in the document and in the parameters.
        let deep = |inner: &str| {
            format!(
                "{{\"input_data\":{{\"{inner}\":{}{}}}}}",
                "[".repeat(100_000),
                "]".repeat(100_000)
            )
        };
        raw(&cluster, path, deep("parameters")).await.faults();
        raw(&cluster, path, deep("other")).await.faults();
    }
    raw(&cluster, DEPLOY, "").await.faults();
    still_serves(&cluster).await;
}

#[tokio::test]
async fn all_faults_at_once() {
    let cluster = Cluster::start().await;
    let body = json!({
        "agent_metadata": {"agent_id": "Not Valid", "version": "one", "tags": ["ok", 5], "owner": "me"},
        "agent_code": {
            "source_code": "%%%", "entrypoint": "a b", "dependencies": {"python": ["-r /etc/passwd"], "system": ["UPPER"]},
            "configuration": {"memory_limit": 1, "timeout": 0, "concurrent_executions": 1001},
        },
        "deployment_config": {
            "environment": "moon", "auto_scaling": {"min_instances": -1, "max_instances": 0, "target_utilization": 2},
            "security": {"environment_variables": {"A B": "x", "N": 5}},
        },
        "monitoring": {"health_check": {"interval": 0}, "metrics": {"log_level": "LOUD"}},
        "extra": 1,
    });
    let faults = cluster.client.deploy(&body).await.faults();
    for path in [
        "agent_metadata.agent_id",
        "agent_metadata.name",
        "agent_metadata.version",
        "agent_metadata.tags[1]",
        "agent_metadata.owner",
        "agent_code.source_code",
        "agent_code.entrypoint",
        "agent_code.dependencies.python[0]",
        "agent_code.dependencies.system[0]",
        "agent_code.configuration.memory_limit",
        "agent_code.configuration.timeout",
        "agent_code.configuration.concurrent_executions",
        "deployment_config.environment",
        "deployment_config.auto_scaling.min_instances",
        "deployment_config.auto_scaling.max_instances",
        "deployment_config.auto_scaling.target_utilization",
        "deployment_config.security.environment_variables.",
        "monitoring.health_check.interval",
        "monitoring.metrics.log_level",
        "extra",
    ] {
        assert!(
            faults.iter().any(|fault| fault.starts_with(path)),
            "{path} is not among {faults:#?}"
        );
    }
    assert!(
        faults.iter().all(|fault| fault.contains(": ")),
        "{faults:#?}"
    );

    let execution = json!({
        "execution_id": "a b", "input_data": {"parameters": 5, "context": {"user_id": 7, "metadata": []}, "x": 1},
        "execution_options": {"timeout": -1, "priority": "urgent", "async": "yes", "callback_url": "http://127.0.0.1/", "retry_config": {"max_retries": 99, "backoff_multiplier": 0}},
        "monitoring": {"trace_enabled": 1, "custom_metrics": {"9": "x"}}, "y": 2,
    });
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    let faults = cluster
        .client
        .execute_with("echo", &execution)
        .await
        .faults();
    for path in [
        "execution_id",
        "input_data.parameters",
        "input_data.context.user_id",
        "input_data.context.metadata",
        "input_data.x",
        "execution_options.timeout",
        "execution_options.priority",
        "execution_options.async",
        "execution_options.callback_url",
        "execution_options.retry_config.max_retries",
        "execution_options.retry_config.backoff_multiplier",
        "monitoring.trace_enabled",
        "monitoring.custom_metrics",
        "y",
    ] {
        assert!(
            faults.iter().any(|fault| fault.starts_with(path)),
            "{path} is not among {faults:#?}"
        );
    }
}

#[tokio::test]
async fn every_field_of_a_deploy_with_every_wrong_type() {
    let cluster = Cluster::start().await;
    let whole = json!({
        "agent_metadata": {"agent_id": "x1", "name": "n", "version": "1.0.0", "description": "d", "tags": ["t"]},
        "agent_code": {
            "source_code": "cGFzcw==", "entrypoint": "handler", "dependencies": {"python": ["six"], "system": ["curl"]},
            "configuration": {"memory_limit": 128, "timeout": 30, "concurrent_executions": 10},
        },
        "deployment_config": {
            "environment": "dev",
            "auto_scaling": {"enabled": true, "min_instances": 1, "max_instances": 2, "target_utilization": 0.7},
            "security": {"vpc_config": {"subnet_ids": ["s"], "security_group_ids": ["g"]}, "iam_role_arn": "arn", "environment_variables": {"A": "b"}},
        },
        "monitoring": {"health_check": {"enabled": true, "path": "/health", "interval": 30}, "metrics": {"custom_metrics": ["m"], "log_level": "INFO"}},
    });
    let mut leaves = Vec::new();
    paths(&whole, &mut String::new(), &mut leaves);
    assert!(leaves.len() > 25, "{leaves:?}");
    for path in leaves {
        let right = whole.pointer(&path).expect("its own path").clone();
        for wrong in [
            json!(5.5),
            json!("\u{0}"),
            json!([[]]),
            json!({"a": {}}),
            json!(false),
            json!(-1),
            json!(1e300),
            json!(18_446_744_073_709_551_615_u64),
        ] {
            if std::mem::discriminant(&wrong) == std::mem::discriminant(&right)
                && (wrong.is_boolean() || wrong.is_object())
            {
                continue;
            }
            let mut body = whole.clone();
            *body.pointer_mut(&path).expect("its own path") = wrong.clone();
            // Two pieces of text take any printable words; a NUL is none.
            let answer = cluster.client.deploy(&body).await;
            assert_eq!(answer.status, 400, "{path} = {wrong}: {}", answer.text);
            let field = path.trim_start_matches('/').replace('/', ".");
            let faults = answer.faults();
            assert!(
                faults.iter().any(|fault| fault.starts_with(&field)),
                "{path} = {wrong}: {faults:?}"
            );
        }
    }
    assert_eq!(
        cluster.client.get("/api/v1/agents").await.ok()["pagination"]["total"],
        0
    );
}

fn paths(value: &Value, path: &mut String, found: &mut Vec<String>) {
    let Some(members) = value.as_object() else {
        return;
    };
    for (name, member) in members {
        let length = path.len();
        path.push('/');
        path.push_str(name);
        found.push(path.clone());
        if name != "environment_variables" {
            paths(member, path, found);
        }
        path.truncate(length);
    }
}

#[tokio::test]
async fn too_much_of_everything() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    let big = |bytes: usize| {
        format!(
            "{{\"input_data\":{{\"parameters\":{{\"a\":\"{}\"}}}}}}",
            "x".repeat(bytes)
        )
    };
    raw(&cluster, EXECUTE, big(100 << 20))
        .await
        .refused(413, "PAYLOAD_TOO_LARGE");
    raw(&cluster, DEPLOY, big(100 << 20))
        .await
        .refused(413, "PAYLOAD_TOO_LARGE");

    let tags: Vec<String> = (0..10_000).map(|n| format!("tag{n}")).collect();
    let faults = cluster
        .client
        .deploy(&fixtures::with(
            fixtures::agent("x1", "x"),
            json!({"agent_metadata": {"tags": tags}}),
        ))
        .await
        .faults();
    assert!(
        faults
            .iter()
            .any(|fault| fault.starts_with("agent_metadata.tags: ") && fault.contains("10000")),
        "{faults:?}"
    );
    let bad: Vec<u32> = (0..10_000).collect();
    let answer = cluster
        .client
        .deploy(&fixtures::with(
            fixtures::agent("x1", "x"),
            json!({"agent_metadata": {"tags": bad}}),
        ))
        .await;
    assert!(
        answer.faults().len() < 100 && answer.text.len() < 20_000,
        "{} bytes",
        answer.text.len()
    );
    let variables: serde_json::Map<String, Value> =
        (0..1000).map(|n| (format!("V{n}"), json!("x"))).collect();
    let body = fixtures::with(
        fixtures::agent("x1", "x"),
        json!({"deployment_config": {"security": {"environment_variables": variables}}}),
    );
    cluster.client.deploy(&body).await.faults();
    let body = fixtures::with(
        fixtures::agent("x1", "x"),
        json!({"agent_metadata": {"x".repeat(1 << 20): 1}}),
    );
    let answer = cluster.client.deploy(&body).await;
    assert!(
        answer.faults().len() == 1 && answer.text.len() < 2000,
        "the name is not echoed whole"
    );
    still_serves(&cluster).await;
}

#[tokio::test]
async fn names_with_tricks() {
    let cluster = Cluster::start().await;
    for id in [
        "",
        "A",
        "1a",
        "a",
        "-a",
        "a_b",
        "a b",
        "a/b",
        "../a",
        "a\n",
        "a\u{0}",
        "ａｂ",
        "agent\u{202e}",
        &"a".repeat(64),
        "deploy/../x",
    ] {
        let faults = cluster
            .client
            .deploy(&fixtures::agent(id, fixtures::ECHO))
            .await
            .faults();
        assert!(
            faults
                .iter()
                .any(|fault| fault.starts_with("agent_metadata.agent_id: ")),
            "{id:?}: {faults:?}"
        );
    }
    for name in [
        "",
        " ",
        "a\nb",
        "a\u{0}b",
        "\u{1b}[31mred",
        "\u{202e}evil",
        &"x".repeat(129),
    ] {
        let body = fixtures::with(
            fixtures::agent("x1", fixtures::ECHO),
            json!({"agent_metadata": {"name": name}}),
        );
        let faults = cluster.client.deploy(&body).await.faults();
        assert!(
            faults
                .iter()
                .any(|fault| fault.starts_with("agent_metadata.name: ")),
            "{name:?}: {faults:?}"
        );
        assert!(
            !faults.join("").contains(['\u{1b}', '\u{202e}', '\u{0}']),
            "{faults:?}"
        );
    }
    for entrypoint in [
        "",
        "a b",
        "../x.py",
        "/etc/passwd",
        "os:system('x')",
        "a:b:c",
        "a;b",
        "a\nb",
        "__import__('os')",
    ] {
        let body = fixtures::with(
            fixtures::agent("x1", fixtures::ECHO),
            json!({"agent_code": {"entrypoint": entrypoint}}),
        );
        cluster.client.deploy(&body).await.faults();
    }
    for requirement in [
        "-r /etc/passwd",
        "--index-url=http://x",
        "x @ file:///etc/passwd",
        "git+https://x/y",
        "./x",
        "x\n-e .",
    ] {
        let body = fixtures::with(
            fixtures::agent("x1", fixtures::ECHO),
            json!({"agent_code": {"dependencies": {"python": [requirement]}}}),
        );
        cluster.client.deploy(&body).await.faults();
    }
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    for id in ["", "a b", "../x", "a/b", "x\u{0}", "x\n", &"x".repeat(129)] {
        let body = fixtures::with(fixtures::call(json!({})), json!({"execution_id": id}));
        cluster.client.execute_with("echo", &body).await.faults();
    }
    // What any script may say is said back as it was.
    let name = "에이전트 «Ωmega» 👩‍🚀";
    let body = json!({"agent_metadata": {"name": name, "description": "первая\nстрока", "tags": ["날씨"]}});
    cluster
        .client
        .deploy_source("wide", fixtures::ECHO, body)
        .await;
    assert_eq!(
        cluster
            .client
            .get("/api/v1/agents?tag=%EB%82%A0%EC%94%A8")
            .await
            .ok()["agents"][0]["name"],
        name
    );
}

#[tokio::test]
async fn numbers_out_of_reach() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    for timeout in ["-1", "0", "28801", "1.5", "99999999999999999999", "-0"] {
        raw(
            &cluster,
            EXECUTE,
            format!("{{\"execution_options\":{{\"timeout\":{timeout}}}}}"),
        )
        .await
        .faults();
    }
    for memory in [
        "-1",
        "63",
        "65537",
        "128.5",
        "1e400",
        "99999999999999999999",
    ] {
        let body = fixtures::agent("x1", fixtures::ECHO).to_string();
        let body = body.replacen(
            "\"agent_code\":{",
            &format!("\"agent_code\":{{\"configuration\":{{\"memory_limit\":{memory}}},"),
            1,
        );
        raw(&cluster, DEPLOY, body).await.faults();
    }
    for (min, max) in [(5, 4), (1001, 2000), (0, 0)] {
        let body = json!({"deployment_config": {"auto_scaling": {"min_instances": min, "max_instances": max}}});
        cluster
            .client
            .deploy(&fixtures::with(fixtures::agent("x1", fixtures::ECHO), body))
            .await
            .faults();
    }
    // The same name twice in one object: readers differ on it, so it is refused.
    raw(
        &cluster,
        EXECUTE,
        "{\"execution_options\":{\"timeout\":1,\"timeout\":2}}",
    )
    .await
    .faults();
}
