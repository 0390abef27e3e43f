//! The heartbeat: this node is here, what it has and what it uses. And the tick that lets pools shrink and feeds end, and
//! what is hosted follow its rows.

use crate::{host::Node, pool::Pool};
use domain::{Result, Timestamp, liveness::BEAT};
use proto::v1;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use store::nodes::{Capacity, Node as Row};
use tokio_util::sync::CancellationToken;

const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);

pub async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(BEAT);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        for pool in node.pools() {
            pool.scale();
        }
        node.hub.tidy();
        let kept = beat(&node).await;
        if let Err(error) = &kept {
            tracing::warn!(error = ?error, "the heartbeat was not kept");
        }
        // Who has stopped only lets go, and does so by itself.
        let followed = if node.stop.is_cancelled() {
            Ok(())
        } else {
            node.reconcile().await
        };
        if let Err(error) = &followed {
            tracing::warn!(error = ?error, "what this node shall host could not be read");
        }
        node.note_look(kept.is_ok() && followed.is_ok());
    }
}

/// Says to the gateways every second that this node lives and what it can take. Nobody depends on one of them.
pub async fn announce(node: Arc<Node>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(ANNOUNCE_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let room = |pool: Arc<Pool>| {
            let (free, waiting) = pool.room();
            v1::Room {
                version_id: pool.version.id.to_string(),
                free,
                waiting,
            }
        };
        let alive = v1::Alive {
            service: "executor".to_owned(),
            id: node.config.node_id.to_string(),
            at_ms: node.store.now().0,
            boot_id: node.boot_id.to_string(),
            rooms: node.pools().into_iter().map(room).collect(),
        };
        if let Err(error) = node.bus.beat(alive).await {
            tracing::debug!(error = ?error, "gateways were not told that this node lives");
        }
    }
}

pub async fn beat(node: &Node) -> Result<()> {
    let at = node.store.now();
    node.store.beat(&row(node, at, false)).await?;
    node.beaten_at.store(at.0, Ordering::Relaxed);
    Ok(())
}

/// This node has left. It is no sign of life.
pub async fn last(node: &Node) -> Result<()> {
    let at = Timestamp(node.beaten_at.load(Ordering::Relaxed));
    node.store.beat(&row(node, at, true)).await
}

fn row(node: &Node, heartbeat_at: Timestamp, left: bool) -> Row {
    let pictures: Vec<_> = node
        .pools()
        .iter()
        .map(|pool| {
            (
                pool.picture(),
                pool.version.spec.configuration.memory_limit_mb,
            )
        })
        .collect();
    let instances: usize = pictures
        .iter()
        .map(|(picture, _)| picture.instances.len())
        .sum();
    let promised = pictures
        .iter()
        .map(|(picture, limit)| picture.instances.len() as u64 * u64::from(*limit))
        .sum();
    let (memory_mb, memory) = host_memory();
    let capacity = Capacity {
        memory_mb,
        promised_mb: promised,
        cpus: std::thread::available_parallelism()
            .map_or(1, |n| u32::try_from(n.get()).unwrap_or(1)),
        instances: u32::try_from(instances).unwrap_or(u32::MAX),
        cpu: None,
        memory,
        isolation: node.level.to_string(),
        system_packages: node.system.words(),
        labels: node.config.labels.clone(),
        draining: node.draining.load(Ordering::Relaxed),
        left,
    };
    Row {
        id: node.config.node_id.clone(),
        boot_id: node.boot_id.clone(),
        address: node.address.clone(),
        capacity,
        started_at: node.started_at,
        heartbeat_at,
    }
}

/// MB in all, and the share in use.
fn host_memory() -> (u64, Option<f64>) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let total = field("MemTotal:").unwrap_or(0);
    let share = field("MemAvailable:")
        .filter(|_| total > 0)
        .map(|free| 1.0 - free as f64 / total as f64);
    (total / 1024, share)
}
