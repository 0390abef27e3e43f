//! Counts: figures from what has been recorded, the health of the whole, and how long records are kept.
//!
//! In: questions over gRPC ([`grpc`]). Out: figures, from cells that [`roll`] makes of ended executions and, for what is in no
//! cell yet, from the executions themselves, so that nothing lags or is lost; alerts, and webhooks. Never here: a decision about what runs.

mod alerts;
mod config;
mod grpc;
mod look;
mod memory;
mod meter;
mod query;
mod retain;
mod roll;
mod rounds;
mod samples;
mod send;
mod summarize;
mod system;
mod tail;

pub use config::Config;
pub use meter::Meter;
pub use roll::Look;

use bus::Bus;
use domain::Result;
use proto::{
    door::Door,
    peer::Peers,
    v1::monitor_server::{MonitorServer, SERVICE_NAME},
};
use std::sync::Arc;
use store::Store;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// What the service stands on.
#[derive(Clone)]
pub struct Deps {
    pub store: Store,
    pub bus: Bus,
    pub peers: Peers,
}

/// A monitor that can be reached, and answers once it is served.
pub struct Monitor {
    config: Config,
    deps: Deps,
    door: Door,
    meter: Meter,
    events: bus::Events,
}

/// Fails fast where the rows cannot be read.
pub async fn bind(config: Config, deps: Deps) -> Result<Monitor> {
    deps.store.ping().await?;
    let door = deps.peers.open("monitor").await?;
    let events = deps.bus.subscribe(&bus::typed::events()).await?;
    Ok(Monitor {
        config,
        deps,
        door,
        meter: Meter::default(),
        events,
    })
}

impl Monitor {
    /// Where others reach it, for `proto::peer`.
    pub fn address(&self) -> &str {
        self.door.address()
    }

    /// What this monitor counts of itself.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Returns when `stop` was asked for and what was being answered is answered.
    pub async fn serve(self, stop: CancellationToken) -> Result<()> {
        let eyes = look::Eyes::default();
        let (config, deps) = (self.config.clone(), self.deps.clone());
        let service = grpc::Service::new(config, deps, self.meter, eyes.clone());
        let service = MonitorServer::new(service).max_encoding_message_size(grpc::ANSWER_BYTES);
        let names = [SERVICE_NAME];
        let served = self.door.serve(Routes::new(service), &names, stop.clone());
        let store = &self.deps.store;
        let due = Arc::<tokio::sync::Notify>::default();
        let heard = (self.events, due.clone());
        let (served, (), (), ()) = tokio::join!(
            served,
            rounds::run(&self.config, store, due, &stop),
            send::run(&self.config, store, heard, &stop),
            eyes.run(store, &stop)
        );
        served
    }
}
