//! Leaving a cluster: what is hosted here is given to others first, so that nobody waits for a node that is gone.

use crate::{beat, host::Node};
use domain::{Result, liveness::Liveness};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use store::leases::KEEPER;
use tokio::time::Instant;

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Says that this node leaves, and serves on until others have what it hosts: for half of the time that leaving may take, the
/// other half is for what runs.
pub async fn hand_over(node: &Arc<Node>) {
    node.draining.store(true, Ordering::Relaxed);
    if let Err(error) = beat::beat(node).await {
        tracing::warn!(error = ?error, "the others could not be told that this node leaves");
    }
    let deadline = Instant::now() + node.config.drain_within / 2;
    while !node.pools().is_empty() && Instant::now() < deadline {
        match somebody_takes_over(node).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(error = ?error, "whether others take over could not be read");
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// There is a keeper that would move it, and a node to move it to.
async fn somebody_takes_over(node: &Node) -> Result<bool> {
    if !node.store.is_leased(KEEPER).await? {
        return Ok(false);
    }
    let (sight, now) = (node.sight(), node.store.now());
    let nodes = node.store.nodes().await?;
    Ok(nodes.iter().any(|other| {
        other.id != node.config.node_id
            && !other.capacity.draining
            && other.judge(sight, now) == Liveness::Alive
    }))
}

/// The last word: nobody need wait for the silence of this node.
pub async fn say_left(node: &Node) {
    if let Err(error) = beat::last(node).await {
        tracing::warn!(error = ?error, "the others could not be told that this node has left");
    }
}
