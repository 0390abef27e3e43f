//! Executors: who they are and when they last said so.

use crate::db::{Store, document, failed, json, parsed, read, write};
use domain::{
    Result, Timestamp,
    id::{BootId, NodeId},
    liveness::{Liveness, Sight},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
pub struct Node {
    pub id: NodeId,
    pub boot_id: BootId,
    /// For `proto::peer`.
    pub address: String,
    pub capacity: Capacity,
    pub started_at: Timestamp,
    pub heartbeat_at: Timestamp,
}

/// What a node has, uses and can do.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Capacity {
    pub memory_mb: u64,
    /// Promised to instances.
    pub promised_mb: u64,
    pub cpus: u32,
    pub instances: u32,
    /// Share of all CPUs in use since the last beat.
    pub cpu: Option<f64>,
    /// Share of the memory in use.
    pub memory: Option<f64>,
    /// What its instances are confined by, in words.
    pub isolation: String,
    /// `overlay`: it can install packages of the system; else why it cannot. Rows of a release that could not say nothing.
    #[serde(default)]
    pub system_packages: String,
    /// What deployers choose it by. Rows of a release that did not say so read as none.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// It was told to leave: it takes nothing new and waits for what it hosts to be given to others.
    #[serde(default)]
    pub draining: bool,
    /// It has left: whatever it hosted is nobody's, without waiting for its silence.
    #[serde(default)]
    pub left: bool,
}

impl Node {
    /// How it is doing, by its own word where it has left.
    pub fn judge(&self, sight: Sight, now: Timestamp) -> Liveness {
        if self.capacity.left {
            Liveness::Lost
        } else {
            sight.judge(self.heartbeat_at, now)
        }
    }
}

type Row = (String, String, String, String, i64, i64);

impl Store {
    /// Registers a node or refreshes it.
    pub async fn beat(&self, node: &Node) -> Result<()> {
        let sql = "INSERT INTO nodes (id, boot_id, address, capacity, started_at, heartbeat_at) VALUES ($1, $2, $3, $4, $5, $6) \
             ON CONFLICT (id) DO UPDATE SET boot_id = excluded.boot_id, address = excluded.address, capacity = excluded.capacity, \
             started_at = excluded.started_at, heartbeat_at = excluded.heartbeat_at";
        let capacity = json(&node.capacity)?;
        write!(self, pool => sqlx::query(sql).bind(node.id.as_str()).bind(node.boot_id.as_str()).bind(&node.address).bind(capacity).bind(node.started_at.0)
            .bind(node.heartbeat_at.0).execute(pool).await.map(|_| ()))
        .map_err(failed)
    }

    pub async fn nodes(&self) -> Result<Vec<Node>> {
        let sql = "SELECT id, boot_id, address, capacity, started_at, heartbeat_at FROM nodes ORDER BY id";
        let rows: Vec<Row> =
            read!(self, pool => sqlx::query_as(sql).fetch_all(pool).await).map_err(failed)?;
        rows.into_iter()
            .map(
                |(id, boot_id, address, capacity, started_at, heartbeat_at)| {
                    Ok(Node {
                        id: parsed(&id, "node id")?,
                        boot_id: parsed(&boot_id, "boot id")?,
                        address,
                        capacity: document(&capacity, "capacity")?,
                        started_at: Timestamp(started_at),
                        heartbeat_at: Timestamp(heartbeat_at),
                    })
                },
            )
            .collect()
    }
}
