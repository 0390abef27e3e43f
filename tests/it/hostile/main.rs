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
mod walls;

use phalanx_tests::{Cluster, fixtures, json};

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
