//! PUT /agents/{id}/versions/{version}

use phalanx_tests::{
    Cluster, Options, fixtures, json,
    rollouts::{source, update},
};

#[tokio::test]
async fn a_new_version_takes_all_but_its_code_from_the_one_before() {
    let options = Options::default().set("PHALANX__DEPLOYER__WATCH_S", "0");
    let cluster = Cluster::start_with(options).await;
    let client = &cluster.client;
    let first =
        "import os\ndef handler(input):\n    return {'v': '1', 'secret': os.environ['SECRET']}\n";
    let security =
        json!({"deployment_config": {"security": {"environment_variables": {"SECRET": "s"}}}});
    client.deploy_source("mine", first, security).await;
    let body = update("rolling", &first.replace("'1'", "'2'"), json!({}));
    let path = client.update("mine", "2.0.0", &body).await;
    let end = client.deployment_status(&path, "deployed").await;
    assert_eq!(end["version"], "2.0.0");
    assert_eq!(end["rollout"]["strategy"], "rolling");
    assert_eq!(end["rollout"]["baseline_version"], "1.0.0");
    assert!(end["rollout"]["switched_at"].is_string(), "{end:#}");
    assert_eq!(
        client.output("mine", json!({})).await,
        json!({"v": "2", "secret": "s"})
    );
    let agent = client.get("/api/v1/agents/mine").await.ok();
    assert_eq!(agent["metadata"]["version"], "2.0.0");
    let all = json!([{"version": "2.0.0", "traffic_percentage": 100.0}]);
    assert_eq!(agent["deployment"]["traffic"], all);
    // Known code again, and none, roll a version out again; other code does not.
    let path = client.update("mine", "1.0.0", &json!({})).await;
    client.deployment_status(&path, "deployed").await;
    assert_eq!(client.output("mine", json!({})).await["v"], "1");
    let path = client.update("mine", "2.0.0", &body).await;
    client.deployment_status(&path, "deployed").await;
    assert_eq!(client.output("mine", json!({})).await["v"], "2");
    let other = update("rolling", "def handler(input): return 3\n", json!({}));
    let url = "/api/v1/agents/mine/versions/2.0.0";
    client.put(url, &other).await.refused(409, "CONFLICT");
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    client
        .deploy_source("mine", fixtures::ECHO, json!({}))
        .await;
    let url = "/api/v1/agents/mine/versions/2.0.0";
    let sent = json!({
        "deployment_strategy": "canary",
        "canary_config": {"traffic_percentage": 100, "duration": -1, "success_criteria": {"error_rate_threshold": 2, "latency_threshold": 0}},
        "rollback_config": {"auto_rollback": "yes", "rollback_triggers": {"error_rate": -1, "timeout_rate": 7, "health_check_failures": 0}},
        "agent_code": {"source_code": "####"}, "more": 1,
    });
    let faults = client.put(url, &sent).await.faults();
    for path in [
        "canary_config.traffic_percentage",
        "canary_config.duration",
        "canary_config.success_criteria.error_rate_threshold",
        "canary_config.success_criteria.latency_threshold",
        "rollback_config.auto_rollback",
        "rollback_config.rollback_triggers.error_rate",
        "rollback_config.rollback_triggers.timeout_rate",
        "rollback_config.rollback_triggers.health_check_failures",
        "agent_code.source_code",
        "agent_code.entrypoint",
        "more",
    ] {
        let named = faults
            .iter()
            .filter(|fault| fault.starts_with(&format!("{path}: ")));
        assert_eq!(named.count(), 1, "{path} in {faults:#?}");
    }
    let canary = json!({"deployment_strategy": "rolling", "canary_config": {}});
    let faults = client.put(url, &canary).await.faults();
    assert!(faults[0].starts_with("canary_config: "), "{faults:?}");
    let bad = "/api/v1/agents/mine/versions/two";
    assert!(client.put(bad, &json!({})).await.faults()[0].starts_with("version: "));
    client.put(url, &json!({})).await.refused(404, "NOT_FOUND");
    let nobody = "/api/v1/agents/nobody/versions/2.0.0";
    client
        .put(nobody, &json!({}))
        .await
        .refused(404, "NOT_FOUND");
}

#[tokio::test]
async fn min_is_over_the_max_of_the_next_while_it_shrinks() {
    let options = Options::default().set("PHALANX__DEPLOYER__WATCH_S", "0");
    let cluster = Cluster::start_with(options).await;
    let client = &cluster.client;
    let scaling = |min: u32, max: u32, version: &str| {
        let scaling = json!({"min_instances": min, "max_instances": max});
        json!({"agent_metadata": {"version": version}, "deployment_config": {"auto_scaling": scaling}})
    };
    client
        .deploy_source("mine", &source("1", "pass"), scaling(3, 4, "1.0.0"))
        .await;
    client
        .deploy_source("mine", &source("2", "pass"), scaling(1, 1, "2.0.0"))
        .await;
    assert_eq!(client.output("mine", json!({})).await["v"], "2");
    let agent = client.get("/api/v1/agents/mine").await.ok();
    assert_eq!(agent["scaling"]["max_instances"], 1);
    // And back: three of the new one before the last caller moves, in steps.
    let path = client.update("mine", "1.0.0", &json!({})).await;
    let end = client.deployment_status(&path, "deployed").await;
    let shift = end["phases"].as_array().expect("a list").iter();
    let logs = shift.filter(|phase| phase["name"] == "shift_traffic");
    let logs: String = logs.map(|phase| phase["logs"].to_string()).collect();
    for step in ["33.3 %", "66.6 %", "100 %"] {
        assert!(logs.contains(step), "{step}: {end:#}");
    }
}
