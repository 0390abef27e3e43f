//! `GET /system/health` while parts die: whichever is dead is unhealthy within 15 s, and well within 15 s of being there again.

use phalanx_tests::{Client, Cluster, Options, Shape, Value, wait};
use std::time::{Duration, Instant};

/// As the contract says, both ways.
const WITHIN: Duration = Duration::from_secs(15);
const SHAPE: Shape = Shape {
    gateways: 1,
    deployers: 1,
    executors: 1,
    monitors: 1,
};

/// How long it took until the document was as `wanted` says.
async fn shown(client: &Client, what: &str, wanted: impl Fn(&Value) -> bool) -> Duration {
    let begun = Instant::now();
    wait::until(what, WITHIN, || async {
        match client.try_get("/api/v1/system/health").await {
            Ok(answer) if answer.status == 200 && wanted(&answer.body()) => Ok(()),
            Ok(answer) => Err(format!("{} {}", answer.status, answer.text)),
            Err(error) => Err(error),
        }
    })
    .await;
    begun.elapsed()
}

/// The whole is as bad as its worst part, and the part that is dead is the one that says so.
fn dead(document: &Value, part: &str) -> bool {
    let parts = document["components"].as_object().expect("components");
    let mut named = parts.iter().filter(|(name, _)| name.starts_with(part));
    document["overall_status"] == "unhealthy" && named.any(|(_, one)| one["status"] == "unhealthy")
}

fn well(document: &Value) -> bool {
    document["overall_status"] == "healthy"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_dead_is_unhealthy_within_15_s_and_back_within_15_s() {
    let mut cluster = Cluster::with_bad_days(SHAPE, Options::default()).await;
    let client = cluster.client.clone();
    shown(&client, "all is well", well).await;
    let mut took = Vec::new();
    for (name, part) in [
        ("executor-1", "executor/"),
        ("deployer-1", "deployer"),
        ("monitor-1", "monitoring"),
        ("NATS", "bus"),
        ("Postgres", "database"),
    ] {
        let backing = cluster.backing.as_mut().expect("a cluster");
        match name {
            "NATS" => backing.kill_nats(),
            "Postgres" => backing.kill_postgres(),
            _ => cluster.part(name).kill9(),
        }
        let what = format!("{name} is dead, and {part} is unhealthy");
        let seen = shown(&client, &what, |document| dead(document, part)).await;
        let backing = cluster.backing.as_mut().expect("a cluster");
        match name {
            "NATS" => backing.start_nats(),
            "Postgres" => backing.start_postgres(),
            _ => {
                cluster.part(name).spawn();
                cluster.all_ready().await;
            }
        }
        let back = shown(&client, &format!("{name} is back"), well).await;
        took.push((name, seen, back));
    }
    eprintln!("unhealthy after, back after: {took:?}");
}
