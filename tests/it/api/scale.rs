//! Concurrency within an instance, growth under load, and to zero and back without losing a request.

use phalanx_tests::{Client, Cluster, Options, Value, json, wait};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

async fn instances(client: &Client, agent: &str) -> Vec<Value> {
    let list = client
        .get(&format!("/api/v1/agents/{agent}/instances"))
        .await
        .ok();
    list["instances"].as_array().expect("a list").clone()
}

#[tokio::test]
async fn a_hundred_sleepers_share_one_instance() {
    let cluster = Cluster::start().await;
    let source = "import asyncio, os\nasync def handler(input):\n    await asyncio.sleep(1)\n    return os.getpid()\n";
    let changes = json!({
        "agent_code": {"configuration": {"concurrent_executions": 100}},
        "deployment_config": {"auto_scaling": {"max_instances": 1}},
    });
    cluster
        .client
        .deploy_source("sleeper", source, changes)
        .await;
    let started = Instant::now();
    let all =
        futures::future::join_all((0..100).map(|_| cluster.client.output("sleeper", json!({}))))
            .await;
    let took = started.elapsed();
    assert_eq!(
        all.iter()
            .map(Value::to_string)
            .collect::<BTreeSet<_>>()
            .len(),
        1
    );
    assert!(
        took < Duration::from_secs(4),
        "100 executions that sleep a second took {took:?}"
    );

    // Sync handlers run side by side as well, in threads.
    let source = "import time\ndef handler(input):\n    time.sleep(1)\n";
    let changes = json!({
        "agent_code": {"configuration": {"concurrent_executions": 20}},
        "deployment_config": {"auto_scaling": {"max_instances": 1}},
    });
    cluster
        .client
        .deploy_source("threads", source, changes)
        .await;
    let started = Instant::now();
    futures::future::join_all((0..20).map(|_| cluster.client.output("threads", json!({})))).await;
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn it_grows_to_its_most_and_no_further() {
    let cluster = Cluster::start().await;
    let source = "import os, time\ndef handler(input):\n    time.sleep(0.5)\n    return os.environ.get('x')\n";
    let changes = json!({
        "agent_code": {"configuration": {"concurrent_executions": 1}},
        "deployment_config": {"auto_scaling": {"min_instances": 1, "max_instances": 3}},
    });
    cluster.client.deploy_source("agent", source, changes).await;
    let load =
        futures::future::join_all((0..24).map(|_| cluster.client.output("agent", json!({}))));
    let most = async {
        wait::until("it has grown", Duration::from_secs(20), || async {
            let now = instances(&cluster.client, "agent").await.len();
            assert!(now <= 3, "{now} instances");
            if now == 3 {
                Ok(())
            } else {
                Err(format!("{now}"))
            }
        })
        .await;
    };
    tokio::join!(load, most);
    let agent = cluster.client.get("/api/v1/agents/agent").await.ok();
    let events = agent["scaling"]["scaling_events"]
        .as_array()
        .expect("a list");
    let grew = events.iter().find(|event| {
        event["action"] == "scale_up"
            && event["to_instances"].as_u64() > event["from_instances"].as_u64()
    });
    assert!(
        grew.is_some_and(|event| event["reason"]
            .as_str()
            .is_some_and(|reason| !reason.is_empty())),
        "{agent:#}"
    );
}

#[tokio::test]
async fn to_zero_and_back() {
    let cluster =
        Cluster::start_with(Options::default().set("PHALANX__EXECUTOR__IDLE_S", "1")).await;
    let changes =
        json!({"deployment_config": {"auto_scaling": {"min_instances": 0, "max_instances": 3}}});
    cluster
        .client
        .deploy_source("echo", "def handler(input):\n    return input\n", changes)
        .await;
    for round in 0..3 {
        // Ten callers at once meet nobody; each gets its answer.
        let all = futures::future::join_all(
            (0..10).map(|n| cluster.client.output("echo", json!({"n": n}))),
        )
        .await;
        assert_eq!(
            all,
            (0..10).map(|n| json!({"n": n})).collect::<Vec<_>>(),
            "round {round}"
        );
        let async_id = cluster
            .client
            .execute_async("echo", json!({"round": round}))
            .await;
        assert_eq!(
            cluster.client.execution_end("echo", &async_id).await["status"],
            "completed"
        );
        wait::until("nothing runs", Duration::from_secs(30), || async {
            let now = instances(&cluster.client, "echo").await;
            if now.is_empty() {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            }
        })
        .await;
    }
    // While it goes to zero, calls keep coming: none is lost.
    let until = Instant::now() + Duration::from_secs(5);
    let mut calls = 0;
    while Instant::now() < until {
        cluster.client.output("echo", json!({})).await;
        calls += 1;
        tokio::time::sleep(Duration::from_millis(if calls % 3 == 0 {
            1050
        } else {
            20
        }))
        .await;
    }
    assert!(calls > 6, "{calls}");
}

#[tokio::test]
async fn the_minimum_is_kept_when_instances_die() {
    let cluster = Cluster::start().await;
    let source = "import os\ndef handler(input):\n    os._exit(1)\n";
    cluster.client.deploy_source("agent", source, json!({"deployment_config": {"auto_scaling": {"min_instances": 2, "max_instances": 2}}})).await;
    for _ in 0..3 {
        cluster.client.failure("agent", json!({})).await;
    }
    wait::until("two are ready again", Duration::from_secs(30), || async {
        let ready = instances(&cluster.client, "agent")
            .await
            .iter()
            .filter(|one| one["state"] == "ready")
            .count();
        if ready == 2 {
            Ok(())
        } else {
            Err(format!("{ready}"))
        }
    })
    .await;
}

/// The agent's scaling events, oldest first.
async fn events(client: &Client, agent: &str) -> Vec<Value> {
    let agent = client.get(&format!("/api/v1/agents/{agent}")).await.ok();
    let events = agent["scaling"]["scaling_events"].as_array();
    let mut events = events.expect("a list").clone();
    events.reverse();
    events
}

/// The first event whose reason begins so.
fn by<'a>(events: &'a [Value], input: &str) -> Option<&'a Value> {
    let says = |event: &&Value| {
        event["reason"]
            .as_str()
            .is_some_and(|reason| reason.starts_with(input))
    };
    events.iter().find(says)
}

#[tokio::test]
async fn a_wait_makes_it_grow_and_calm_makes_it_shrink() {
    let cluster =
        Cluster::start_with(Options::default().set("PHALANX__EXECUTOR__IDLE_S", "2")).await;
    let client = &cluster.client;
    let source = "import time\ndef handler(input):\n    time.sleep(0.4)\n";
    let changes = json!({
        "agent_code": {"configuration": {"concurrent_executions": 1}},
        "deployment_config": {"auto_scaling": {"min_instances": 1, "max_instances": 4}},
    });
    client.deploy_source("agent", source, changes).await;
    futures::future::join_all((0..24).map(|_| client.output("agent", json!({})))).await;
    let grew = events(client, "agent").await;
    let waited = by(&grew, "waiting: ").expect("somebody waited");
    assert_eq!(waited["action"], "scale_up", "{waited:#}");
    let (from, to) = (&waited["from_instances"], &waited["to_instances"]);
    let doubled = (from.as_u64(), to.as_u64());
    assert_eq!(
        doubled,
        (Some(1), Some(2)),
        "at most twice as many: {grew:#?}"
    );
    wait::until("one is left", Duration::from_secs(40), || async {
        let events = events(client, "agent").await;
        let shrunk = by(&events, "stable: ").is_some_and(|event| event["action"] == "scale_down");
        let now = instances(client, "agent").await.len();
        if now == 1 && shrunk {
            Ok(())
        } else {
            Err(format!("{now} instances, {events:#?}"))
        }
    })
    .await;
}

#[tokio::test]
async fn a_burst_that_fits_is_met_with_panic() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let source = "import asyncio\nasync def handler(input):\n    await asyncio.sleep(5)\n";
    let changes = json!({
        "agent_code": {"configuration": {"concurrent_executions": 10}},
        "deployment_config": {"auto_scaling": {"min_instances": 1, "max_instances": 4, "target_utilization": 0.1}},
    });
    client.deploy_source("agent", source, changes).await;
    // Eight of ten seats: nobody waits, and it is eight times of what is aimed at.
    futures::future::join_all((0..8).map(|_| client.output("agent", json!({})))).await;
    let events = events(client, "agent").await;
    let panic = by(&events, "panic: ").expect("a panic");
    assert_eq!(panic["action"], "scale_up", "{panic:#}");
    assert!(by(&events, "waiting: ").is_none(), "{events:#?}");
    // While it panics it does not shrink.
    assert!(by(&events, "stable: ").is_none(), "{events:#?}");
}

#[tokio::test]
async fn work_in_the_background_keeps_its_instance() {
    let cluster =
        Cluster::start_with(Options::default().set("PHALANX__EXECUTOR__IDLE_S", "1")).await;
    let client = &cluster.client;
    // Computes for a while after its answer.
    let source = "import threading, time\n\
        def work(until):\n    while time.monotonic() < until:\n        sum(range(1000))\n\
        def handler(input):\n    threading.Thread(target=work, args=(time.monotonic() + input['s'],), daemon=True).start()\n";
    let changes =
        json!({"deployment_config": {"auto_scaling": {"min_instances": 0, "max_instances": 1}}});
    client.deploy_source("agent", source, changes).await;
    client.output("agent", json!({"s": 10})).await;
    let begun = Instant::now();
    wait::until("it is let go of", Duration::from_secs(40), || async {
        let now = instances(client, "agent").await;
        if now.is_empty() {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    })
    .await;
    assert!(
        begun.elapsed() > Duration::from_secs(9),
        "it was ended {:?} after a call that works on for 10 s",
        begun.elapsed()
    );
}
