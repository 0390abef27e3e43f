//! Callers while versions change under load: none is refused, and none sees a version that it had left.
//!
//! `PHALANX_TEST_SWITCHES=20 PHALANX_TEST_RATE=500` is the long form.

use phalanx_tests::{
    Client, Cluster, Options, Value, json,
    rollouts::{Load, source, update},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

fn told(name: &str, otherwise: u32) -> u32 {
    let value = std::env::var(name).ok();
    value.map_or(otherwise, |value| value.parse().expect("a number"))
}

/// From acceptance until all callers have moved.
async fn moved(client: &Client, version: &str, body: &Value) -> (String, Duration) {
    let begun = Instant::now();
    let path = client.update("mine", version, body).await;
    client.share(&path, 100.0).await;
    (path, begun.elapsed())
}

/// From the order until the last request began that the new version answered.
async fn gone_back(client: &Client, load: &Load, version: &str, path: &str) -> Duration {
    let begun = Instant::now();
    assert_eq!(client.order(path, "abort").await.status, 202);
    let back = |document: &Value| document["rollout"]["rolled_back_at"].is_string();
    client
        .deployment_until(path, "callers have gone back", back)
        .await;
    client.deployment_status(path, "rolled_back").await;
    let last = load.last(version).expect("it has answered somebody");
    last.saturating_duration_since(begun)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_refused_and_nobody_comes_back() {
    let (switches, rate) = (
        told("PHALANX_TEST_SWITCHES", 3),
        told("PHALANX_TEST_RATE", 60),
    );
    let options = Options::default().set("PHALANX__DEPLOYER__WATCH_S", "600");
    let cluster = Cluster::start_with(options).await;
    let client = &cluster.client;
    let scaling =
        json!({"deployment_config": {"auto_scaling": {"min_instances": 2, "max_instances": 6}}});
    client
        .deploy_source("mine", &source("first", "pass"), scaling)
        .await;
    let epoch = Arc::new(AtomicU32::new(0));
    let load = Load::start(client, "mine", (rate.clamp(20, 100), rate), &epoch);
    let (mut switched, mut rolled_back) = (Vec::new(), Vec::new());
    for n in 0..switches {
        let body = update(
            "blue_green",
            &source(&format!("blue-{n}"), "pass"),
            json!({}),
        );
        switched.push(moved(client, &format!("2.{n}.0"), &body).await.1);
    }
    for n in 0..switches.div_ceil(3) {
        let body = update(
            "rolling",
            &source(&format!("rolling-{n}"), "pass"),
            json!({}),
        );
        moved(client, &format!("3.{n}.0"), &body).await;
    }
    for n in 0..switches.div_ceil(3) {
        let canary = json!({"canary_config": {"traffic_percentage": 25, "duration": 60}});
        let body = update("canary", &source(&format!("canary-{n}"), "pass"), canary);
        let path = client.update("mine", &format!("4.{n}.0"), &body).await;
        client.share(&path, 25.0).await;
        // From here on callers may be back.
        epoch.fetch_add(1, Ordering::SeqCst);
        let name = format!("canary-{n}");
        rolled_back.push(gone_back(client, &load, &name, &path).await);
        epoch.fetch_add(1, Ordering::SeqCst);
    }
    let body = update("blue_green", &source("last", "pass"), json!({}));
    let (path, _) = moved(client, "5.0.0", &body).await;
    epoch.fetch_add(1, Ordering::SeqCst);
    rolled_back.push(gone_back(client, &load, "last", &path).await);
    let seen = load.end().await;
    eprintln!(
        "switches took {switched:?}, rollbacks {rolled_back:?}, answers {:?}",
        seen.answers
    );
    assert!(seen.refused.is_empty(), "{:?}", seen.refused);
    assert_eq!(seen.failed, 0);
    assert!(seen.came_back.is_empty(), "{:?}", seen.came_back);
    let mut sorted = rolled_back;
    sorted.sort();
    assert!(
        sorted[sorted.len() / 2] < Duration::from_secs(3),
        "{sorted:?}"
    );
    for name in ["first", "blue-0", "rolling-0", "canary-0", "last"] {
        assert!(
            seen.answers.contains_key(name),
            "{name}: {:?}",
            seen.answers
        );
    }
}
