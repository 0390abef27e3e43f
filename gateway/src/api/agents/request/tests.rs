use super::*;
use serde_json::json;

fn good() -> Value {
    json!({
        "agent_metadata": {"agent_id": "mine", "name": "Mine", "version": "1.0.0"},
        "agent_code": {"source_code": "ZGVmIGhhbmRsZXIoKTogcGFzcwo=", "entrypoint": "handler"},
        "deployment_config": {"environment": "dev"}
    })
}

fn faults_of(sent: &Value) -> Vec<String> {
    match read(sent.to_string().as_bytes(), Limits::default()) {
        Ok(_) => Vec::new(),
        Err(error) => error.faults,
    }
}

#[test]
fn the_least_gets_the_defaults() {
    let wanted = read(good().to_string().as_bytes(), Limits::default()).expect("good");
    assert_eq!(wanted.spec.configuration, Configuration::default());
    assert_eq!(wanted.spec.scaling, Scaling::default());
    assert_eq!(wanted.spec.warm, Warm::default());
    assert_eq!(wanted.spec.health_check, HealthCheck::default());
    assert_eq!(wanted.code, b"def handler(): pass\n");
}

#[test]
fn every_fault_at_once() {
    let sent = json!({
        "agent_metadata": {"agent_id": "Mine!", "name": "a\u{1}b", "version": "1", "tags": ["ok", 7, ""]},
        "agent_code": {
            "source_code": "####", "entrypoint": "a b", "dependencies": {"python": ["-r x"], "system": ["A"]},
            "configuration": {"memory_limit": 63, "timeout": 1e99, "concurrent_executions": -1}
        },
        "deployment_config": {
            "environment": "production",
            "auto_scaling": {"min_instances": 5, "max_instances": 2, "target_utilization": 0, "enabled": "yes"},
            "security": {"environment_variables": {"A B": "x", "OK": 5}, "iam_role": "x"}
        },
        "monitoring": {"metrics": {"log_level": "LOUD", "custom_metrics": ["1x"]}, "health_check": {"path": "x", "interval": 0}}
    });
    let faults = faults_of(&sent);
    for path in [
        "agent_metadata.agent_id",
        "agent_metadata.name",
        "agent_metadata.version",
        "agent_metadata.tags[1]",
        "agent_metadata.tags[2]",
        "agent_code.source_code",
        "agent_code.entrypoint",
        "agent_code.dependencies.python[0]",
        "agent_code.dependencies.system[0]",
        "agent_code.configuration.memory_limit",
        "agent_code.configuration.timeout",
        "agent_code.configuration.concurrent_executions",
        "deployment_config.environment",
        "deployment_config.auto_scaling.max_instances",
        "deployment_config.auto_scaling.target_utilization",
        "deployment_config.auto_scaling.enabled",
        "deployment_config.security.environment_variables.\"A B\"",
        "deployment_config.security.environment_variables.OK",
        "deployment_config.security.iam_role",
        "monitoring.metrics.log_level",
        "monitoring.metrics.custom_metrics[0]",
        "monitoring.health_check.path",
        "monitoring.health_check.interval",
    ] {
        assert_eq!(
            faults
                .iter()
                .filter(|fault| fault.starts_with(&format!("{path}: ")))
                .count(),
            1,
            "{path} in {faults:#?}"
        );
    }
    assert_eq!(faults.len(), 23, "{faults:#?}");
}

#[test]
fn how_it_starts_is_bounded_and_named() {
    let mut sent = good();
    sent["agent_code"]["configuration"] = json!({"warm_start": false, "warm_up": {"a": [1]}});
    let wanted = read(sent.to_string().as_bytes(), Limits::default()).expect("good");
    let warm = Warm {
        start: false,
        up: Some(json!({"a": [1]})),
    };
    assert_eq!(wanted.spec.warm, warm);
    sent["agent_code"]["configuration"] =
        json!({"warm_start": "no", "warm_up": "x".repeat(MAX_WARM_UP_BYTES)});
    let faults = faults_of(&sent);
    let named = |path: &str| faults.iter().any(|fault| fault.starts_with(path));
    assert!(named("agent_code.configuration.warm_start: "), "{faults:?}");
    assert!(
        named("agent_code.configuration.warm_up: is 65538 bytes"),
        "{faults:?}"
    );
    assert_eq!(faults.len(), 2, "{faults:?}");
}

#[test]
fn an_empty_object_names_what_is_required() {
    assert_eq!(faults_of(&json!({})).len(), 2);
    let mut many = good();
    many["agent_metadata"]["tags"] = json!(vec!["a"; 10_000]);
    assert_eq!(
        faults_of(&many),
        ["agent_metadata.tags: has 10000 items; allowed are at most 50"]
    );
}

#[test]
fn the_digest_is_of_what_was_sent_not_of_how() {
    let digest = |sent: &str| {
        read(sent.as_bytes(), Limits::default())
            .expect("good")
            .digest
    };
    let sent = good().to_string();
    let spaced = serde_json::to_string_pretty(&good()).expect("JSON");
    let code = sent.replace(
        "ZGVmIGhhbmRsZXIoKTogcGFzcwo=",
        "ZGVmIGhhbmRs\\nZXIoKTogcGFzcwo",
    );
    let null = sent.replace("\"environment\"", "\"security\":null,\"environment\"");
    assert_eq!(digest(&sent), digest(&spaced));
    assert_eq!(digest(&sent), digest(&code));
    assert_eq!(digest(&sent), digest(&null));
    assert_ne!(digest(&sent), digest(&sent.replace("Mine", "Yours")));
}

#[test]
fn either_alphabet_of_base64() {
    assert_eq!(decode("-_-_"), decode("+/+/"));
    assert_eq!(decode(" YQ = = \n"), Ok(b"a".to_vec()));
    assert!(decode("a").is_err() && decode("YQ==x").is_err());
}
