//! GET /agents/{id}/deployments/{deployment_id} as events

use phalanx_tests::{
    Client, Cluster, json,
    sse::{Event, Events},
    wait,
};
use reqwest::Method;
use std::{fs, time::Duration};

async fn follow(client: &Client, path: &str, after: Option<&str>) -> Events {
    let request = client.request(Method::GET, path);
    client.events(request, after).await
}

/// Those that have a place among all that is told.
fn placed(events: &[Event]) -> Vec<Event> {
    let placed = events.iter().filter(|event| event.id.is_some());
    placed.cloned().collect()
}

#[tokio::test]
async fn a_reader_that_comes_back_misses_nothing_and_hears_nothing_twice() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let path = client.half_a_canary(60).await;
    let mut heard = Vec::new();
    let mut first = follow(client, &path, None).await;
    loop {
        let event = first.next().await.expect("it goes on");
        let shared = event.data["traffic_percentage"] == 50.0;
        heard.push(event);
        if shared {
            break;
        }
    }
    drop(first);
    let last = placed(&heard).pop().and_then(|event| event.id);
    assert_eq!(client.order(&path, "abort").await.status, 202);
    // Nobody listens while it goes back; whoever comes back, on any gateway, hears all of it.
    client.deployment_status(&path, "rolled_back").await;
    let rest = follow(client, &path, last.as_deref()).await.all().await;
    let end = rest.last().expect("an end").clone();
    assert_eq!(
        (end.name.as_str(), &end.data["status"]),
        ("end", &json!("rolled_back"))
    );
    heard.extend(rest);
    let whole = follow(client, &path, None).await.all().await;
    assert_eq!(placed(&heard), placed(&whole));
    let ids: Vec<u64> = placed(&whole)
        .iter()
        .map(|event| {
            event
                .id
                .as_deref()
                .expect("placed")
                .parse()
                .expect("a number")
        })
        .collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    let phases: Vec<String> = whole
        .iter()
        .filter(|event| event.name == "phase")
        .map(|event| format!("{} {}", event.data["name"], event.data["status"]).replace('"', ""))
        .collect();
    assert_eq!(
        phases[6..],
        [
            "health_check running",
            "health_check completed",
            "canary running",
            "canary failed",
            "rollback running",
            "rollback completed"
        ]
    );
    let document = client.get(&path).await.ok();
    let mut lines = Vec::new();
    for phase in document["phases"].as_array().expect("a list") {
        lines.extend(phase["logs"].as_array().expect("a list").clone());
    }
    let told = whole.iter().filter(|event| event.name == "log");
    let told: Vec<_> = told.map(|event| event.data["message"].clone()).collect();
    assert!(!lines.is_empty() && told == lines, "{told:?} {lines:?}");
    // After the end there is nothing.
    let over = follow(client, &path, end.id.as_deref()).await.all().await;
    assert!(placed(&over).is_empty(), "{over:?}");
    let bad = client.request(Method::GET, &format!("{path}?follow=perhaps"));
    assert_eq!(client.send(bad).await.expect("an answer").faults().len(), 1);
    let bad = client
        .request(Method::GET, &format!("{path}?follow=true"))
        .header("last-event-id", "first");
    assert_eq!(client.send(bad).await.expect("an answer").faults().len(), 1);
}

/// Open files and sockets of all processes under test.
fn open(cluster: &Cluster) -> usize {
    let of = |pid| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    cluster.parts.iter().map(|part| of(part.pid())).sum()
}

#[tokio::test]
async fn a_slow_reader_hears_all_and_those_who_go_leave_nothing() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let path = client.half_a_canary(60).await;
    client.share(&path, 50.0).await;
    let before = open(&cluster);
    let mut readers = Vec::new();
    for _ in 0..100 {
        let mut reader = follow(client, &path, None).await;
        reader.next().await.expect("an event");
        readers.push(reader);
    }
    let slow = readers.pop().expect("a reader");
    assert!(
        open(&cluster) >= before + 50,
        "{} and {before}",
        open(&cluster)
    );
    drop(readers);
    // A connection or two of the client's own may stay open.
    wait::until(
        "their connections are closed",
        Duration::from_secs(30),
        || async {
            match open(&cluster) {
                now if now < before + 50 => Ok(()),
                now => Err(format!("{now} open, {before} before")),
            }
        },
    )
    .await;
    assert_eq!(client.order(&path, "abort").await.status, 202);
    client.deployment_status(&path, "rolled_back").await;
    let rest = placed(&slow.all().await);
    let whole = placed(&follow(client, &path, None).await.all().await);
    assert_eq!(rest, whole[1..]);
}
