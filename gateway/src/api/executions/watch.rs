//! Asks executors for what happens on them from now on.

use crate::app::App;
use domain::{Error, Result, id::NodeId};
use proto::{
    status::from_status,
    v1::{WatchEvent, WatchRequest, executor_client::ExecutorClient},
};
use std::time::Duration;
use tonic::Streaming;

/// Until an executor says that it will tell.
const BEGIN: Duration = Duration::from_secs(5);
const MESSAGE_BYTES: usize = 64 * 1024 * 1024;
/// Executors that have been silent for longer are not asked.
const HEARTBEAT: Duration = Duration::from_secs(30);

pub type Events = Streaming<WatchEvent>;

pub async fn watch(app: &App, address: &str, request: WatchRequest) -> Result<Events> {
    let channel = app.peers.channel(address)?;
    let mut client = ExecutorClient::new(channel).max_decoding_message_size(MESSAGE_BYTES);
    match tokio::time::timeout(BEGIN, client.watch(request)).await {
        Ok(Ok(events)) => Ok(events.into_inner()),
        Ok(Err(status)) => Err(from_status(&status)),
        Err(_) => Err(Error::unavailable("the executor does not answer")),
    }
}

/// Where a node is asked, if it is one that lives.
pub async fn address_of(app: &App, node: &NodeId) -> Result<Option<String>> {
    let nodes = app.store.nodes().await?;
    Ok(nodes
        .into_iter()
        .find(|one| one.id == *node)
        .map(|one| one.address))
}

/// Where all living nodes are asked.
pub async fn addresses(app: &App) -> Result<Vec<String>> {
    let now = app.store.now();
    let nodes = app.store.nodes().await?;
    let alive = nodes
        .into_iter()
        .filter(|one| now.since(one.heartbeat_at) < HEARTBEAT);
    Ok(alive.map(|one| one.address).collect())
}
