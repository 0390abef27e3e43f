//! Changes what should run: takes deployments from accepted to answering, phase by phase, or to their failure.
//!
//! In: nudges on the bus ([`inbox`]) and rows that nobody finished ([`sweep`]). Out: envelopes and orders to executors, traffic,
//! and the deployment's own row, which is the only memory: a process that is killed at any moment is followed by another.
//! Never here: what may follow what (that is `domain::deployment`), a process, HTTP.

mod chance;
mod config;
mod drive;
mod inbox;
mod keep;
mod meter;
mod nodes;
mod phases;
mod record;
mod samples;
mod spans;
mod sweep;

pub use config::Config;
pub use meter::Meter;

use bus::{Bus, Work, WorkOptions};
use domain::Result;
use drive::Driver;
use proto::peer::Peers;
use store::Store;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What the service stands on.
#[derive(Clone)]
pub struct Deps {
    pub store: Store,
    pub bus: Bus,
    pub peers: Peers,
}

/// A deployer that can take work, and takes it once it is served.
pub struct Deployer {
    config: Config,
    deps: Deps,
    work: Work,
    meter: Meter,
}

/// Fails fast where the bus cannot be worked from.
pub async fn bind(config: Config, deps: Deps) -> Result<Deployer> {
    deps.store.ping().await?;
    let options = WorkOptions {
        // Deliveries of agents that wait for their turn hold places too.
        max_in_flight: config.at_once * 4,
        ack_wait: config.ack_wait,
        ..WorkOptions::default()
    };
    let work = deps
        .bus
        .work(&bus::typed::deployments(), options)
        .await
        .map_err(domain::Error::from)?;
    Ok(Deployer {
        config,
        deps,
        work,
        meter: Meter::default(),
    })
}

impl Deployer {
    /// What this deployer counts of itself.
    pub fn meter(&self) -> Meter {
        self.meter.clone()
    }

    /// Returns when `stop` was asked for and nothing is driven any more. What was on its way goes on in the next process.
    pub async fn serve(self, stop: CancellationToken) -> Result<()> {
        let tasks = TaskTracker::new();
        let whole = (stop.clone(), tasks.clone());
        let driver = Driver::new(self.config, self.deps, self.meter, whole);
        tokio::join!(
            inbox::run(&driver, self.work, &stop, &tasks),
            sweep::run(&driver, &stop),
            keep::run(&driver, &stop, &tasks)
        );
        tasks.close();
        tasks.wait().await;
        Ok(())
    }
}
