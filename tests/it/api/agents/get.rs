//! GET /agents/{id}

use phalanx_tests::{Cluster, Value, fixtures, json};
use std::collections::BTreeMap;

#[tokio::test]
async fn the_details_are_complete() {
    let cluster = Cluster::start().await;
    let changes = json!({
        "agent_metadata": {"name": "Echo", "description": "gives back\nwhat it gets", "tags": ["a", "b"]},
        "agent_code": {"configuration": {"memory_limit": 256, "timeout": 5, "concurrent_executions": 3}},
        "deployment_config": {"auto_scaling": {"min_instances": 1, "max_instances": 2}},
    });
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, changes)
        .await;
    cluster.client.output("echo", json!({})).await;
    let agent = cluster.client.get("/api/v1/agents/echo").await.ok();
    let metadata = &agent["metadata"];
    assert_eq!(
        (&metadata["name"], &metadata["description"]),
        (&json!("Echo"), &json!("gives back\nwhat it gets"))
    );
    assert_eq!(
        (&metadata["version"], &metadata["tags"]),
        (&json!("1.0.0"), &json!(["a", "b"]))
    );
    for name in ["created_by", "created_at", "last_updated"] {
        assert!(metadata[name].is_string(), "{name}: {agent:#}");
    }
    let deployment = &agent["deployment"];
    assert_eq!(
        (&deployment["environment"], &deployment["status"]),
        (&json!("dev"), &json!("active"))
    );
    assert_eq!(
        deployment["configuration"],
        json!({"memory_limit": 256, "timeout": 5, "concurrent_executions": 3, "warm_start": true, "warm_up": null})
    );
    let scaling = &agent["scaling"];
    assert_eq!(
        (
            &scaling["current_instances"],
            &scaling["min_instances"],
            &scaling["max_instances"]
        ),
        (&json!(1), &json!(1), &json!(2))
    );
    let performance = &agent["performance"];
    assert_eq!(performance["total_requests"], 1, "{agent:#}");
    for name in ["uptime", "avg_response_time", "error_rate", "throughput"] {
        assert!(performance.get(name).is_some(), "{name}: {agent:#}");
    }
    for name in ["iam_role", "vpc_id", "security_groups", "encryption_status"] {
        assert!(agent["security"].get(name).is_some(), "{name}: {agent:#}");
    }
}

/// Every field of a deploy with a value that is no default, and where the details and the list of versions show it; nowhere: never.
#[rustfmt::skip]
fn fields() -> Vec<(&'static str, Value, &'static str, &'static str)> {
    vec![
        ("agent_metadata.agent_id", json!("whole"), "agent_id", ""),
        ("agent_metadata.name", json!("Whole"), "metadata.name", "name"),
        ("agent_metadata.version", json!("1.2.3-rc.1"), "metadata.version", "version"),
        ("agent_metadata.description", json!("all of it"), "metadata.description", "description"),
        ("agent_metadata.tags", json!(["a", "b"]), "metadata.tags", "tags"),
        ("agent_code.source_code", json!("ZGVmIG1haW4oaW5wdXQpOgogICAgcmV0dXJuIGlucHV0Cg=="), "", ""),
        ("agent_code.entrypoint", json!("main"), "deployment.entrypoint", "entrypoint"),
        ("agent_code.dependencies.python", json!(["idna<4"]), "deployment.dependencies.python", "dependencies.python"),
        ("agent_code.dependencies.system", json!(["sl=5.02-1"]), "deployment.dependencies.system", "dependencies.system"),
        ("agent_code.configuration.memory_limit", json!(192), "deployment.configuration.memory_limit", "configuration.memory_limit"),
        ("agent_code.configuration.timeout", json!(31), "deployment.configuration.timeout", "configuration.timeout"),
        ("agent_code.configuration.concurrent_executions", json!(7), "deployment.configuration.concurrent_executions", "configuration.concurrent_executions"),
        ("agent_code.configuration.warm_start", json!(false), "deployment.configuration.warm_start", "configuration.warm_start"),
        ("agent_code.configuration.warm_up", json!({"a": [1, null, "b"]}), "deployment.configuration.warm_up", "configuration.warm_up"),
        ("deployment_config.environment", json!("staging"), "deployment.environment", "environment"),
        ("deployment_config.auto_scaling.enabled", json!(false), "scaling.enabled", "auto_scaling.enabled"),
        ("deployment_config.auto_scaling.min_instances", json!(2), "scaling.min_instances", "auto_scaling.min_instances"),
        ("deployment_config.auto_scaling.max_instances", json!(3), "scaling.max_instances", "auto_scaling.max_instances"),
        ("deployment_config.auto_scaling.target_utilization", json!(0.25), "scaling.target_utilization", "auto_scaling.target_utilization"),
        ("deployment_config.security.vpc_config.subnet_ids", json!(["subnet-1"]), "security.subnet_ids", "security.vpc_config.subnet_ids"),
        ("deployment_config.security.vpc_config.security_group_ids", json!(["sg-1", "sg-2"]), "security.security_groups", "security.vpc_config.security_group_ids"),
        ("deployment_config.security.iam_role_arn", json!("arn:aws:iam::1:role/r"), "security.iam_role", "security.iam_role_arn"),
        ("deployment_config.security.isolation", json!("session"), "security.isolation", "security.isolation"),
        ("deployment_config.security.egress.policy", json!("allowlist"), "security.egress.policy", "security.egress.policy"),
        ("deployment_config.security.egress.allow", json!(["*.example.net:8443"]), "security.egress.allow", "security.egress.allow"),
        ("deployment_config.security.environment_variables", json!({"TOKEN": "planted-and-secret"}), "", ""),
        ("monitoring.health_check.enabled", json!(false), "monitoring.health_check.enabled", "monitoring.health_check.enabled"),
        ("monitoring.health_check.path", json!("/alive"), "monitoring.health_check.path", "monitoring.health_check.path"),
        ("monitoring.health_check.interval", json!(17), "monitoring.health_check.interval", "monitoring.health_check.interval"),
        ("monitoring.metrics.custom_metrics", json!(["cost.eur"]), "monitoring.metrics.custom_metrics", "monitoring.metrics.custom_metrics"),
        ("monitoring.metrics.log_level", json!("WARN"), "monitoring.metrics.log_level", "monitoring.metrics.log_level"),
    ]
}

/// By the path of every field that a schema has and that is no object with fields of its own: its schema.
fn leaves(reference: &Value, schema: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
    if let Some(leads) = schema["$ref"].as_str() {
        let there = reference.pointer(leads.trim_start_matches('#'));
        return leaves(reference, there.expect("it leads somewhere"), path, found);
    }
    // What may be left out is the object or null.
    let either = ["allOf", "anyOf", "oneOf"];
    if let Some(all) = either.iter().find_map(|of| schema.get(of)) {
        let object = all.as_array().expect("a list").iter();
        let mut object = object.filter(|one| one["type"] != "null");
        return leaves(reference, object.next().expect("an object"), path, found);
    }
    let Some(properties) = schema["properties"].as_object() else {
        found.insert(path.to_owned(), schema.clone());
        return;
    };
    for (name, property) in properties {
        let below = format!("{path}.{name}");
        leaves(reference, property, below.trim_start_matches('.'), found);
    }
}

fn at<'a>(document: &'a Value, path: &str) -> &'a Value {
    let found = document.pointer(&format!("/{}", path.replace('.', "/")));
    found.unwrap_or_else(|| panic!("no {path}: {document:#}"))
}

#[tokio::test]
async fn everything_that_was_deployed_is_shown() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let fields = fields();

    // A field that is added to a deploy has to be shown as well.
    let reference = client.get("/openapi.json").await.ok();
    let schema = &reference["components"]["schemas"]["DeployRequest"];
    let mut documented = BTreeMap::new();
    leaves(&reference, schema, "", &mut documented);
    let mut known: Vec<&str> = fields.iter().map(|(path, ..)| *path).collect();
    known.sort_unstable();
    assert_eq!(documented.keys().collect::<Vec<_>>(), known);
    for (path, value, ..) in &fields {
        assert_ne!(
            documented[*path].get("default"),
            Some(value),
            "{path} by default"
        );
    }

    let mut body = json!({});
    for (path, value, ..) in &fields {
        let mut place = &mut body;
        for name in path.split('.') {
            place = &mut place[name];
        }
        *place = value.clone();
    }
    // Whether it can be served here is not the question.
    client.deploy(&body).await.ok();
    let agent = client.get("/api/v1/agents/whole").await.ok();
    let versions = client.get("/api/v1/agents/whole/versions").await.ok();
    let version = &versions["versions"][0];
    for (path, value, in_agent, in_version) in &fields {
        for (document, shown) in [(&agent, in_agent), (version, in_version)] {
            if !shown.is_empty() {
                assert_eq!(at(document, shown), value, "{path} in {document:#}");
            }
        }
    }
    for text in [agent.to_string(), versions.to_string()] {
        assert!(
            !text.contains("planted-and-secret") && !text.contains("TOKEN"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn ids_that_no_agent_has() {
    let cluster = Cluster::start().await;
    for id in [
        "nobody",
        "..%2F..%2Fetc%2Fpasswd",
        "%2e%2e",
        "A",
        "a%00b",
        "a%0d%0ab",
        "%F0%9F%A6%80",
        "%FF%FE",
        "x'%20OR%201=1--",
        &"a".repeat(5000),
    ] {
        let answer = cluster.client.get(&format!("/api/v1/agents/{id}")).await;
        assert!(
            matches!(answer.status, 400 | 404),
            "{id}: {} {}",
            answer.status,
            answer.text
        );
        assert!(
            answer.body()["error"]["code"].is_string(),
            "{id}: {}",
            answer.text
        );
        assert!(answer.text.len() < 2000, "the id is not echoed whole");
    }
}
