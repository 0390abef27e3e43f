//! Health: who is not well takes no work, is replaced, and is seen; whoever is only busy is left alone.

use phalanx_tests::{Client, Cluster, Options, Value, fixtures, json, wait};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// An ASGI application whose health is what it was last sent.
const APP: &str = r#"
import json
WELL = START
async def app(scope, receive, send):
    global WELL
    if scope["type"] != "http":
        raise RuntimeError("only http")
    body = (await receive()).get("body", b"")
    status = 200
    if scope["method"] == "GET":
        status = 200 if WELL else 503
    else:
        WELL = json.loads(body)["well"]
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})
"#;

fn app(interval: u32) -> Value {
    json!({
        "agent_code": {"entrypoint": "app"},
        "monitoring": {"health_check": {"path": "/health", "interval": interval}},
        "deployment_config": {"auto_scaling": {"min_instances": 1, "max_instances": 1}},
    })
}

async fn instances(client: &Client, agent: &str) -> Value {
    client
        .get(&format!("/api/v1/agents/{agent}/instances"))
        .await
        .ok()
}

async fn health(client: &Client, agent: &str) -> Value {
    let details = client.get(&format!("/api/v1/agents/{agent}")).await.ok();
    let listed = client.get("/api/v1/agents").await.ok();
    let mut lines = listed["agents"].as_array().expect("a list").iter();
    let line = lines.find(|one| one["agent_id"] == agent).expect("listed");
    assert!(
        line["health_status"].is_string() && details["deployment"]["health_status"].is_string()
    );
    details["deployment"]["health_status"].clone()
}

#[tokio::test]
async fn one_that_never_becomes_healthy_is_not_deployed() {
    let cluster =
        Cluster::start_with(Options::default().set("PHALANX__EXECUTOR__START_S", "3")).await;
    let source = APP.replace("START", "False");
    let deployed = fixtures::with(fixtures::agent("agent", &source), app(30));
    let failed = cluster.client.deploy_fails(&deployed).await;
    let text = failed.to_string();
    assert!(
        text.contains("did not become healthy") && text.contains("/health answered 503"),
        "{failed:#}"
    );
}

#[tokio::test]
async fn one_that_falls_ill_is_degraded_and_then_replaced() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    client
        .deploy_source("agent", &APP.replace("START", "True"), app(1))
        .await;
    let before = instances(client, "agent").await;
    let first = before["instances"][0].clone();
    assert_eq!(
        json!([first["health"], first["complaint"]]),
        json!(["healthy", null])
    );
    client.output("agent", json!({"well": false})).await;
    wait::until("it is degraded", Duration::from_secs(15), || async {
        let now = instances(client, "agent").await;
        let one = &now["instances"][0];
        let complains = one["complaint"]
            .as_str()
            .is_some_and(|text| text.contains("answered 503"));
        if one["health"] == "degraded" && complains && health(client, "agent").await == "degraded" {
            Ok(())
        } else {
            Err(format!("{now:#}"))
        }
    })
    .await;
    wait::until(
        "another takes its place",
        Duration::from_secs(15),
        || async {
            let now = instances(client, "agent").await;
            let one = &now["instances"][0];
            let other = one["instance_id"] != first["instance_id"] && one["state"] == "ready";
            if other && one["health"] == "healthy" && health(client, "agent").await == "healthy" {
                Ok(())
            } else {
                Err(format!("{now:#}"))
            }
        },
    )
    .await;
}

/// Ill for its next two checks once it is told to be, and then well again by itself.
const MENDS: &str = r#"
import json
ILL = 0
async def app(scope, receive, send):
    global ILL
    body = (await receive()).get("body", b"")
    status = 200
    if scope["method"] == "GET":
        status = 503 if ILL > 0 else 200
        ILL -= 1
    else:
        ILL = json.loads(body)["checks"]
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})
"#;

#[tokio::test]
async fn one_that_mends_is_well_again_and_stays() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    client.deploy_source("agent", MENDS, app(3)).await;
    let before = instances(client, "agent").await["instances"][0].clone();
    client.output("agent", json!({"checks": 2})).await;
    for wanted in ["degraded", "healthy"] {
        let what = format!("it is {wanted}");
        let now = wait::until(&what, Duration::from_secs(15), || async {
            let now = instances(client, "agent").await["instances"][0].clone();
            let agent = health(client, "agent").await;
            if now["health"] == wanted && agent == wanted {
                Ok(now)
            } else {
                Err(format!("{agent} {now:#}"))
            }
        })
        .await;
        // The same one, through all of it.
        assert_eq!(now["instance_id"], before["instance_id"], "{now:#}");
        assert_eq!(now["complaint"].is_null(), wanted == "healthy", "{now:#}");
    }
}

#[tokio::test]
async fn a_blocked_event_loop_is_busy_and_not_dead() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let source =
        "import time\nasync def handler(input):\n    time.sleep(input['s'])\n    return 1\n";
    let changes = json!({"monitoring": {"health_check": {"interval": 1}},
        "deployment_config": {"auto_scaling": {"min_instances": 1, "max_instances": 1}}});
    client.deploy_source("agent", source, changes).await;
    let before = instances(client, "agent").await["instances"][0]["instance_id"].clone();
    assert_eq!(client.output("agent", json!({"s": 6})).await, 1);
    let after = instances(client, "agent").await["instances"][0].clone();
    assert_eq!(
        json!([after["instance_id"], after["health"]]),
        json!([before, "healthy"])
    );
}

#[tokio::test]
async fn a_crash_loop_is_seen_and_waits_longer_and_longer() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    // Well until a moment after its deployment.
    let until = now.as_secs() + 12;
    let source = format!(
        "import os, time\nif time.time() > {until}:\n    os._exit(3)\n\
         def handler(input):\n    os._exit(4)\n"
    );
    let changes =
        json!({"deployment_config": {"auto_scaling": {"min_instances": 1, "max_instances": 1}}});
    client.deploy_source("agent", &source, changes).await;
    let left = Duration::from_secs(until + 1).saturating_sub(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970"),
    );
    tokio::time::sleep(left).await;
    client.failure("agent", json!({})).await;
    let crashes = |list: &Value| list["crash_loops"][0]["crashes"].as_u64();
    wait::until("the loop is seen", Duration::from_secs(40), || async {
        let list = instances(client, "agent").await;
        let state = health(client, "agent").await;
        if crashes(&list) >= Some(5) && state == "unhealthy" {
            Ok(())
        } else {
            Err(format!("{state} {list:#}"))
        }
    })
    .await;
    let list = instances(client, "agent").await;
    let one = &list["crash_loops"][0];
    assert_eq!(
        json!([one["version"], one["code"]]),
        json!(["1.0.0", "INIT_FAILED"]),
        "{list:#}"
    );
    assert!(
        one["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("code 3")),
        "{list:#}"
    );
    let system = client.get("/api/v1/system/health").await.ok();
    assert_eq!(system["capacity"]["crash_looping_agents"], 1, "{system:#}");
    assert_eq!(
        system["overall_status"], "healthy",
        "one agent's fault is not the installation's"
    );
    // Nobody waits for it in vain.
    let begun = Instant::now();
    let error = client.failure("agent", json!({})).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{error:#}");
    // And it starts seldom: at most every four seconds by now.
    let before = crashes(&instances(client, "agent").await).expect("a loop");
    tokio::time::sleep(Duration::from_secs(8)).await;
    let after = crashes(&instances(client, "agent").await).expect("a loop");
    assert!(
        after - before <= 2,
        "{before} and {after} crashes within 8 s"
    );
}

#[tokio::test]
async fn one_that_bursts_does_not_starve_the_others() {
    let cluster = Cluster::start_with(
        Options::default()
            .set("PHALANX__EXECUTOR__IDLE_S", "1")
            .set("PHALANX__EXECUTOR__STARTS", "1"),
    )
    .await;
    let client = &cluster.client;
    let source = "import time\ntime.sleep(0.3)\ndef handler(input):\n    time.sleep(input['s'])\n    return 1\n";
    let changes = json!({
        "agent_code": {"configuration": {"concurrent_executions": 1}},
        "deployment_config": {"auto_scaling": {"min_instances": 0, "max_instances": 40}},
    });
    let quiet: Vec<String> = (0..6).map(|n| format!("quiet-{n}")).collect();
    client.deploy_source("burst", source, changes.clone()).await;
    let deploy = |name| client.deploy_source(name, source, changes.clone());
    futures::future::join_all(quiet.iter().map(|name| deploy(name))).await;
    wait::until("all are at zero", Duration::from_secs(60), || async {
        let mut left = BTreeSet::new();
        for name in &quiet {
            let now = instances(client, name).await;
            if now["instances"] != json!([]) {
                left.insert(name);
            }
        }
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await;
    let burst = futures::future::join_all((0..40).map(|_| client.output("burst", json!({"s": 2}))));
    let others = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let call = |name| async move {
            let begun = Instant::now();
            client.output(name, json!({"s": 0})).await;
            begun.elapsed()
        };
        futures::future::join_all(quiet.iter().map(|name| call(name))).await
    };
    let (_, waits) = tokio::join!(burst, others);
    let longest = waits.iter().max().expect("some");
    // Six starts of others and a turn of the burst between each, at a time: not after forty of the burst.
    assert!(*longest < Duration::from_secs(12), "{waits:?}");
}
