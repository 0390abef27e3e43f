//! Rollouts on bad days.

use phalanx_tests::{
    Cluster, Options, json,
    rollouts::{Load, source, update},
    wait,
};
use std::{
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

#[tokio::test]
async fn a_version_that_imports_but_never_becomes_healthy_moves_nobody() {
    let options = Options::default().set("PHALANX__EXECUTOR__START_S", "2");
    let cluster = Cluster::start_with(options).await;
    let client = &cluster.client;
    client
        .deploy_source("mine", &source("1", "pass"), json!({}))
        .await;
    let hangs = "import time\ntime.sleep(600)\ndef handler(input): return {'v': '2'}\n";
    for (version, strategy) in [
        ("2.0.0", "blue_green"),
        ("2.0.1", "canary"),
        ("2.0.2", "rolling"),
    ] {
        let path = client
            .update("mine", version, &update(strategy, hangs, json!({})))
            .await;
        let end = client.deployment_status(&path, "failed").await;
        assert_eq!(end["rollout"]["traffic_percentage"], 0.0, "{end:#}");
        assert_eq!(client.output("mine", json!({})).await["v"], "1");
    }
}

#[tokio::test]
async fn one_that_fails_every_call_goes_back_as_canary_and_within_its_watch_time() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    client
        .deploy_source("mine", &source("1", "pass"), json!({}))
        .await;
    let fails = "def handler(input):\n    raise RuntimeError('no')\n";
    let canary = json!({"canary_config": {"traffic_percentage": 50, "duration": 60}});
    for (version, body) in [
        ("2.0.0", update("canary", fails, canary)),
        ("2.0.1", update("blue_green", fails, json!({}))),
    ] {
        let epoch = Arc::new(AtomicU32::new(0));
        let load = Load::start(client, "mine", (20, 40), &epoch);
        let path = client.update("mine", version, &body).await;
        let end = client.deployment_status(&path, "rolled_back").await;
        assert!(
            end["reason"]
                .as_str()
                .is_some_and(|why| why.contains("error_rate") || why.contains("error rate")),
            "{end:#}"
        );
        let seen = load.end().await;
        assert!(seen.failed >= 5 && seen.refused.is_empty(), "{seen:?}");
        assert_eq!(client.output("mine", json!({})).await["v"], "1");
        let figures = &end["rollout"]["version"];
        assert!(
            figures["failed"].as_u64().is_some_and(|failed| failed >= 5),
            "{end:#}"
        );
    }
}

#[tokio::test]
async fn a_canary_without_traffic_holds_and_a_newer_deployment_takes_over() {
    let options = Options::default().set("PHALANX__DEPLOYER__WATCH_S", "0");
    let cluster = Cluster::start_with(options).await;
    let client = &cluster.client;
    let path = client.half_a_canary(0).await;
    let held = client
        .deployment_until(&path, "it is judged", |document| {
            document["rollout"]["verdicts"][0]["outcome"] == "not_enough_data"
        })
        .await;
    let judged_at = held["rollout"]["verdicts"][0]["at"].clone();
    // Several looks later it stands where it stood.
    let held = client
        .deployment_until(&path, "it is judged again", |document| {
            document["rollout"]["verdicts"][0]["at"].as_str() > judged_at.as_str()
        })
        .await;
    assert_eq!(
        (&held["status"], &held["current_phase"]),
        (&json!("deploying"), &json!("canary"))
    );
    let next = client
        .update(
            "mine",
            "3.0.0",
            &update("rolling", &source("3", "pass"), json!({})),
        )
        .await;
    let end = client.deployment_status(&path, "superseded").await;
    assert!(
        end["reason"]
            .as_str()
            .is_some_and(|why| why.contains("took over")),
        "{end:#}"
    );
    let end = client.deployment_status(&next, "deployed").await;
    assert_eq!(end["rollout"]["baseline_version"], "1.0.0", "{end:#}");
    assert_eq!(client.output("mine", json!({})).await["v"], "3");
}

#[tokio::test]
async fn a_canary_slower_by_three_tenths_goes_back_and_a_sound_one_passes() {
    let options = Options::default().set("PHALANX__DEPLOYER__WATCH_S", "0");
    let cluster = Cluster::start_with(options).await;
    let client = &cluster.client;
    client
        .deploy_source("mine", &source("1", "time.sleep(0.1)"), json!({}))
        .await;
    let canary = json!({"canary_config": {"traffic_percentage": 40, "duration": 0}});
    let epoch = Arc::new(AtomicU32::new(0));
    // Slower than the measured difference of a busy machine: the version sleeps a third longer.
    let long = json!({"canary_config": {"traffic_percentage": 40, "duration": 60}});
    let load = Load::start(client, "mine", (20, 40), &epoch);
    let path = client
        .update(
            "mine",
            "2.0.0",
            &update("canary", &source("2", "time.sleep(0.135)"), long),
        )
        .await;
    let end = client.deployment_status(&path, "rolled_back").await;
    assert!(
        end["reason"]
            .as_str()
            .is_some_and(|why| why.contains("its p")),
        "{end:#}"
    );
    let path = client
        .update(
            "mine",
            "3.0.0",
            &update("canary", &source("3", "time.sleep(0.1)"), canary),
        )
        .await;
    let end = client.deployment_status(&path, "deployed").await;
    let verdicts = end["rollout"]["verdicts"].as_array().expect("a list");
    let last = verdicts.last().expect("a verdict");
    assert_eq!(last["outcome"], "pass", "{end:#}");
    for side in ["version", "baseline"] {
        assert!(
            last[side]["samples"].as_u64().is_some_and(|n| n >= 30),
            "{end:#}"
        );
        assert!(
            last[side]["p95_ms"].is_number() && last[side]["error_rate"] == 0.0,
            "{end:#}"
        );
    }
    let seen = load.end().await;
    assert!(seen.refused.is_empty() && seen.failed == 0, "{seen:?}");
}

#[tokio::test]
async fn a_canary_whose_tail_alone_is_slower_goes_back() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    // Every fifth call is slow; of those alone the new version takes a third longer.
    let tail = |name, slow| {
        let body = format!("import random; time.sleep({slow} if random.random() < 0.2 else 0.05)");
        source(name, &body)
    };
    client
        .deploy_source("mine", &tail("1", "0.3"), json!({}))
        .await;
    let epoch = Arc::new(AtomicU32::new(0));
    let load = Load::start(client, "mine", (40, 60), &epoch);
    let canary = json!({"canary_config": {"traffic_percentage": 50, "duration": 60}});
    let path = client
        .update(
            "mine",
            "2.0.0",
            &update("canary", &tail("2", "0.4"), canary),
        )
        .await;
    let end = client.deployment_status(&path, "rolled_back").await;
    let reason = end["reason"].as_str().expect("a reason");
    assert!(reason.contains("its p95 is at least"), "{end:#}");
    let seen = load.end().await;
    assert!(seen.refused.is_empty() && seen.failed == 0, "{seen:?}");
}

/// An ASGI application that is ill from when it is told to be.
const APP: &str = r#"
import json
WELL = True
async def app(scope, receive, send):
    global WELL
    body = (await receive()).get("body", b"")
    status = 200
    if scope["method"] == "GET":
        status = 200 if WELL else 503
    else:
        WELL = json.loads(body).get("well", True)
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})
"#;

#[tokio::test]
async fn health_checks_that_fail_bring_callers_back() {
    let options = Options::default().set("PHALANX__DEPLOYER__WATCH_S", "600");
    let cluster = Cluster::start_with(options).await;
    let client = &cluster.client;
    let config = json!({
        "agent_code": {"entrypoint": "app"},
        "monitoring": {"health_check": {"path": "/health", "interval": 1}},
        "deployment_config": {"auto_scaling": {"min_instances": 1, "max_instances": 1}},
    });
    client.deploy_source("mine", APP, config).await;
    let body = update(
        "blue_green",
        &format!("{APP}\n# another\n"),
        json!({"agent_code": {"entrypoint": "app"},
            "rollback_config": {"auto_rollback": true, "rollback_triggers": {"health_check_failures": 2}}}),
    );
    let path = client.update("mine", "2.0.0", &body).await;
    client.share(&path, 100.0).await;
    // Two checks: it is degraded, and no instance has failed.
    client.output("mine", json!({"well": false})).await;
    let end = client.deployment_status(&path, "rolled_back").await;
    let reason = end["reason"].as_str().expect("a reason");
    assert!(reason.contains("of its health checks failed"), "{end:#}");
    client.output("mine", json!({})).await;
}

#[tokio::test]
async fn a_version_before_without_instances_gets_them_again_before_its_callers() {
    let options = Options::default()
        .set("PHALANX__DEPLOYER__WATCH_S", "600")
        .set("PHALANX__EXECUTOR__IDLE_S", "1");
    let cluster = Cluster::start_with(options).await;
    let client = &cluster.client;
    let none =
        json!({"deployment_config": {"auto_scaling": {"min_instances": 0, "max_instances": 2}}});
    client
        .deploy_source("mine", &source("1", "pass"), none)
        .await;
    let body = update("blue_green", &source("2", "pass"), json!({}));
    let path = client.update("mine", "2.0.0", &body).await;
    client.share(&path, 100.0).await;
    wait::until("nothing of 1.0.0 runs", Duration::from_secs(60), || async {
        let now = client.get("/api/v1/agents/mine/instances").await.ok();
        let instances = now["instances"].as_array().expect("a list");
        if instances.iter().any(|one| one["version"] == "1.0.0") {
            Err(format!("{now:#}"))
        } else {
            Ok(())
        }
    })
    .await;
    assert_eq!(client.order(&path, "abort").await.status, 202);
    let end = client.deployment_status(&path, "rolled_back").await;
    let said = end["phases"].to_string();
    assert!(
        said.contains("it is started again before its callers"),
        "{end:#}"
    );
    assert_eq!(client.output("mine", json!({})).await["v"], "1");
}

#[tokio::test]
async fn a_version_that_may_have_less_than_the_one_before_had_takes_over() {
    let options = Options::default().set("PHALANX__DEPLOYER__WATCH_S", "0");
    let cluster = Cluster::start_with(options).await;
    let client = &cluster.client;
    let scaling = |version: &str, min, max| {
        json!({"agent_metadata": {"version": version},
            "deployment_config": {"auto_scaling": {"min_instances": min, "max_instances": max}}})
    };
    client
        .deploy_source("mine", &source("1", "pass"), scaling("1.0.0", 3, 4))
        .await;
    client
        .deploy_source("mine", &source("2", "pass"), scaling("2.0.0", 0, 1))
        .await;
    assert_eq!(client.output("mine", json!({})).await["v"], "2");
    wait::until("one is left", Duration::from_secs(60), || async {
        let now = client.get("/api/v1/agents/mine/instances").await.ok();
        match now["instances"].as_array() {
            Some(instances) if instances.len() <= 1 => Ok(()),
            _ => Err(format!("{now:#}")),
        }
    })
    .await;
}

#[tokio::test]
async fn fifty_deployments_at_once_all_answer() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let none =
        json!({"deployment_config": {"auto_scaling": {"min_instances": 0, "max_instances": 1}}});
    let deploy = |n: u32| {
        let none = none.clone();
        async move {
            let (id, name) = (format!("agent-{n}"), n.to_string());
            client
                .deploy_source(&id, &source(&name, "pass"), none)
                .await;
            assert_eq!(client.output(&id, json!({})).await["v"], name.as_str());
        }
    };
    futures::future::join_all((0..50).map(deploy)).await;
}
