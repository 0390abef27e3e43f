//! The only HTTP, inward and outward. Turns requests into rows, commands and questions, and their answers into the
//! contract's documents.
//!
//! In: HTTP from clients; events that say what to read anew. Out: rows of agents, versions, deployments and executions;
//! commands on the bus; questions by gRPC to executors and monitor.
//! Never here: what may follow what (`domain`), SQL, a subject, a process.

mod api;
mod app;
mod audit;
mod body;
mod cache;
mod callbacks;
mod config;
mod door;
mod edge;
mod error;
mod estimate;
mod fields;
mod hosts;
mod inbox;
mod json;
pub mod key;
mod keys;
mod known;
mod limits;
mod listen;
mod meter;
mod monitor;
#[cfg(test)]
#[path = "../../tests/mutate.rs"]
mod mutate;
mod openapi;
pub mod ops;
mod params;
mod ready;
mod respond;
pub mod router;
mod spans;
mod sse;
#[cfg(test)]
mod tests;

use app::{App, Shared};
use bus::Bus;
use domain::{Error, Result};
use edge::tls::Certificate;
use proto::peer::Peers;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use store::Store;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use config::{Config, origins};
pub use edge::tls;
pub use key::first_key;
pub use meter::Meter;
pub use openapi::document as openapi;
pub use ready::Readiness;
pub use router::{Access, Endpoint, endpoints};

/// What the last writes of a gateway may take.
const LAST: Duration = Duration::from_secs(5);

/// What the gateway works with.
pub struct Deps {
    pub store: Store,
    pub bus: Bus,
    pub peers: Peers,
    /// For `peers`: the first that answers is asked.
    pub monitors: Vec<String>,
}

/// A gateway that has its port and hears what the others tell, but serves nobody yet.
pub struct Gateway {
    listener: TcpListener,
    address: SocketAddr,
    certificate: Option<Arc<Certificate>>,
    app: App,
    events: bus::Events,
    beats: bus::Events,
}

pub async fn bind(config: Config, deps: Deps) -> Result<Gateway> {
    deps.store.take_up_pepper().await?;
    let certificate = config.tls.clone().map(Certificate::read).transpose()?;
    let listener = listen::listen(config.listen)?;
    let address = listener
        .local_addr()
        .map_err(|error| Error::internal("the port has no address").because(error))?;
    let events = deps.bus.subscribe(&bus::typed::events()).await?;
    let beats = deps.bus.subscribe(&bus::typed::beats()).await?;
    let public = config
        .public_url
        .as_deref()
        .map(|url| url.trim_end_matches('/').to_owned());
    let base_url = format!(
        "{}/api/v1",
        public.unwrap_or_else(|| match certificate {
            None => format!("http://{address}"),
            Some(_) => format!("https://{address}"),
        })
    );
    let app = App::new(Shared {
        bus: deps.bus,
        peers: deps.peers,
        monitors: deps.monitors,
        base_url,
        instance: uuid::Uuid::new_v4(),
        started_at: deps.store.now(),
        store: deps.store,
        keys: Default::default(),
        agents: Default::default(),
        limits: Default::default(),
        hosts: Default::default(),
        meter: Default::default(),
        page: Default::default(),
        readiness: Readiness::default(),
        changes: TaskTracker::new(),
        closing: CancellationToken::new(),
        estimates: Default::default(),
        owed: Default::default(),
        config,
    });
    Ok(Gateway {
        listener,
        address,
        certificate,
        app,
        events,
        beats,
    })
}

impl Gateway {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The switch behind `/readyz`: who starts us sets it when everything is up. It goes off by itself at the stop.
    pub fn readiness(&self) -> Readiness {
        self.app.readiness.clone()
    }

    /// What this gateway counts of itself.
    pub fn meter(&self) -> Meter {
        self.app.meter.clone()
    }

    /// What `/metrics` shows from now on, in Prometheus' text format 0.0.4; without it, what this gateway counts. The first
    /// word counts.
    pub fn show(&self, page: impl Fn() -> String + Send + Sync + 'static) {
        self.app.page.set(Box::new(page)).ok();
    }

    /// Serves until told to stop; then takes nothing new, finishes what runs within the drain time, and returns.
    pub async fn serve(self, stop: CancellationToken) -> Result<()> {
        let Self {
            listener,
            certificate,
            app,
            events,
            beats,
            ..
        } = self;
        let mut rooms = JoinSet::new();
        rooms.spawn(inbox::run(app.clone(), events, app.closing.clone()));
        let behind = CancellationToken::new();
        rooms.spawn(inbox::hear(app.clone(), beats, behind.clone()));
        rooms.spawn(inbox::beat(app.clone(), behind.clone()));
        rooms.spawn(callbacks::run(app.clone(), behind.clone()));
        let (keyed, noted) = (app.clone(), behind.clone());
        rooms.spawn(async move { keyed.keys.note_used(&keyed.store, noted).await });
        let (limited, swept) = (app.clone(), behind.clone());
        rooms.spawn(async move { limited.limits.sweep(&limited.store, swept).await });
        if let Some(certificate) = &certificate {
            rooms.spawn(Arc::clone(certificate).keep(behind.clone()));
        }
        let served = edge::serve(listener, app.clone(), certificate, &stop).await;
        app.changes.close();
        // Changes whose callers have gone; each has its own deadlines.
        tokio::time::timeout(app.config.drain, app.changes.wait())
            .await
            .ok();
        behind.cancel();
        // What was taken in advance is given back, and the keys that were used are noted.
        let last = async { while rooms.join_next().await.is_some() {} };
        tokio::time::timeout(LAST, last).await.ok();
        rooms.shutdown().await;
        served
    }
}
