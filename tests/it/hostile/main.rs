//! Bad input, each a test: what is sent, what is packed, what runs. The same installation serves the next caller as before.

mod archives;
mod attacks;
mod bodies;
mod bombs;
mod edge;
mod egress;
mod ends;
mod handlers;
mod honest;
mod keys;
mod page;
mod walls;

use phalanx_tests::{Client, Cluster, fixtures, json};
use std::collections::BTreeSet;

/// What everything here ends with: the installation is as good as new.
async fn still_serves(cluster: &Cluster) {
    cluster.client.get("/readyz").await.ok();
    let id = format!("after-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    cluster
        .client
        .deploy_source(&id, fixtures::ECHO, json!({}))
        .await;
    assert_eq!(
        cluster.client.output(&id, json!({"a": 1})).await,
        json!({"a": 1})
    );
}

/// The table of a test names every attack that its agent has, and no other; how many there are.
async fn lists_what_is_known(
    client: &Client,
    agent: &str,
    names: impl Iterator<Item = &'static str>,
) -> usize {
    let listed = client.output(agent, json!({"list": true})).await;
    let listed = listed.as_array().expect("a list").iter();
    let there: BTreeSet<&str> = listed.filter_map(|name| name.as_str()).collect();
    let known: BTreeSet<&str> = names.collect();
    assert_eq!(known, there, "the table and the agent's attacks");
    known.len()
}
