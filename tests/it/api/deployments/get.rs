//! GET /agents/{id}/deployments/{deployment_id}

use phalanx_tests::{Cluster, fixtures, json};

#[tokio::test]
async fn phases_with_times_and_logs() {
    let cluster = Cluster::start().await;
    let accepted = cluster
        .client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    let deployment = cluster.client.deployment_end(&accepted).await;
    assert_eq!(
        (&deployment["progress"], &deployment["status"]),
        (&json!(100), &json!("deployed")),
        "{deployment:#}"
    );
    let phases = deployment["phases"].as_array().expect("a list");
    let names: Vec<_> = phases
        .iter()
        .map(|phase| phase["name"].as_str().expect("a name"))
        .collect();
    assert_eq!(
        names,
        [
            "validate",
            "package",
            "provision",
            "health_check",
            "shift_traffic",
            "retire"
        ]
    );
    for phase in phases {
        assert_eq!(phase["status"], "completed", "{phase:#}");
        assert!(
            phase["started_at"].is_string()
                && phase["completed_at"].is_string()
                && phase["logs"].is_array(),
            "{phase:#}"
        );
        assert!(
            phase["started_at"].as_str() <= phase["completed_at"].as_str(),
            "{phase:#}"
        );
    }
    assert_eq!(
        deployment["health"]["overall_status"], "healthy",
        "{deployment:#}"
    );
    for name in [
        "response_time_p95",
        "error_rate",
        "throughput",
        "cpu_utilization",
        "memory_utilization",
    ] {
        assert!(
            deployment["performance"].get(name).is_some(),
            "{name}: {deployment:#}"
        );
    }
    for path in [
        "/api/v1/agents/echo/deployments/dep_0",
        "/api/v1/agents/nobody/deployments/x",
    ] {
        cluster.client.get(path).await.refused(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn a_failure_says_what_python_said() {
    let cluster = Cluster::start().await;
    for (id, source, entrypoint, words) in [
        (
            "missing",
            "import no_such_module\ndef handler(i): ...\n",
            "handler",
            "ModuleNotFoundError: No module named 'no_such_module'",
        ),
        (
            "syntax",
            "def handler(:\n    pass\n",
            "handler",
            "SyntaxError",
        ),
        (
            "raises",
            "raise RuntimeError('not today')\n",
            "handler",
            "RuntimeError: not today",
        ),
        ("exits", "import sys\nsys.exit(3)\n", "handler", "3"),
        ("nobody", "def other(i): ...\n", "handler", "other"),
        ("number", "handler = 5\n", "handler", "handler"),
        (
            "arity",
            "def handler(a, b, c, d, e): ...\n",
            "handler",
            "handler",
        ),
        (
            "prose",
            "This is not Python, it is a letter.\n",
            "handler",
            "SyntaxError",
        ),
    ] {
        let body = fixtures::with(
            fixtures::agent(id, source),
            json!({"agent_code": {"entrypoint": entrypoint}}),
        );
        let end = cluster.client.deploy_fails(&body).await;
        let failed = end["phases"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|phase| phase["status"] == "failed");
        let failed = failed.unwrap_or_else(|| panic!("no phase failed: {end:#}"));
        assert!(
            failed["logs"].to_string().contains(words),
            "{id}: {words}: {end:#}"
        );
        // Whoever calls it is told the same.
        let error = cluster
            .client
            .execute_with(id, &fixtures::call(json!({})))
            .await
            .refused(409, "CONFLICT");
        assert!(
            error["details"]["deployment_logs"]
                .to_string()
                .contains(words),
            "{id}: {error:#}"
        );
    }
    assert_eq!(
        cluster
            .client
            .get("/api/v1/agents?status=failed")
            .await
            .ok()["pagination"]["total"],
        8
    );
}

#[tokio::test]
async fn a_failed_version_leaves_the_old_one_in_place() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    let bad = fixtures::with(
        fixtures::agent("echo", "import nowhere\n"),
        json!({"agent_metadata": {"version": "2.0.0"}}),
    );
    cluster.client.deploy_fails(&bad).await;
    assert_eq!(
        cluster.client.output("echo", json!({"a": 1})).await,
        json!({"a": 1})
    );
    // The same again is tried again.
    cluster.client.deploy_fails(&bad).await;
    let list = cluster
        .client
        .get("/api/v1/agents/echo/deployments")
        .await
        .ok();
    assert_eq!(list["pagination"]["total"], 3, "{list:#}");
}
