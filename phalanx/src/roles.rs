//! `phalanx gateway|deployer|executor|monitor`: one service a process, over Postgres, NATS and gRPC. Any number of each.

use crate::{
    backing, configs,
    data_dir::DataDir,
    master_keys,
    settings::Settings,
    signals::{how_it_ended, told_to_leave},
    telemetry::{Exporter, Figures},
};
use anyhow::{Context, Result, bail};
use bus::Bus;
use gateway::{Readiness, ops};
use prometheus_client::registry::Registry;
use proto::peer::Peers;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use store::{Secrets, Store};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Gateway,
    Deployer,
    Executor,
    Monitor,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Deployer => "deployer",
            Self::Executor => "executor",
            Self::Monitor => "monitor",
        }
    }
}

/// What saying goodbye to the database and the bus may take after everything has finished: they may have fallen silent.
const GOODBYE: Duration = Duration::from_secs(12);

/// What every role has.
struct Ground {
    settings: Settings,
    store: Store,
    bus: Bus,
    peers: Peers,
    /// Cancelled: take no more work, finish what runs.
    stop: CancellationToken,
    /// Cancelled when that is done.
    left: CancellationToken,
    readiness: Readiness,
    /// What this process counts; the gateway shows it itself.
    figures: Option<Figures>,
    rooms: JoinSet<domain::Result<()>>,
    behind: JoinSet<domain::Result<()>>,
}

pub async fn run(role: Role, settings: Settings, exporter: &mut Exporter) -> Result<()> {
    let peers = backing::peers(&settings)?;
    let secrets = match role {
        Role::Deployer => Secrets::none(),
        Role::Gateway | Role::Executor | Role::Monitor => master_keys::secrets(&settings, None)?,
    };
    let store = backing::store(&settings, secrets).await?;
    let bus = backing::bus(&settings, role.as_str()).await?;
    let mut ground = Ground {
        settings,
        store,
        bus,
        peers,
        stop: CancellationToken::new(),
        left: CancellationToken::new(),
        readiness: Readiness::default(),
        figures: None,
        rooms: JoinSet::new(),
        behind: JoinSet::new(),
    };
    // Held until the end: a data directory belongs to one process.
    let _dir = match role {
        Role::Gateway => Some(gateway(&mut ground).await?),
        Role::Executor => Some(executor(&mut ground).await?),
        Role::Deployer => {
            deployer(&mut ground).await?;
            None
        }
        Role::Monitor => {
            monitor(&mut ground).await?;
            None
        }
    };
    if let Some(figures) = &ground.figures {
        exporter.push(figures)?;
    }
    ground.ops(role)?;
    ground.readiness.set(true);
    tracing::info!("the {} is ready", role.as_str());
    ground.until_left(role).await
}

async fn gateway(ground: &mut Ground) -> Result<DataDir> {
    let settings = &ground.settings;
    let dir = DataDir::open(&settings.data_dir)?;
    let monitors = configs::addresses(&settings.gateway.monitors);
    if monitors.is_empty() {
        bail!(
            "a gateway needs to know its monitors: set gateway.monitors to host:port, several with commas"
        );
    }
    let given = match settings.gateway.admin_key_file.as_str() {
        "" => None,
        path => Some(backing::secret(path)?),
    };
    let deps = gateway::Deps {
        store: ground.store.clone(),
        bus: ground.bus.clone(),
        peers: ground.peers.clone(),
        monitors,
    };
    let room = gateway::bind(configs::gateway(settings)?, deps).await?;
    let address = format!("http://{}", room.address());
    let told = given.is_some();
    if let Some(key) = gateway::first_key(&ground.store, &settings.region, given).await?
        && !told
    {
        dir.write_private("admin.key", &key)?;
        tracing::info!(
            "the first key of this cluster is in {}",
            dir.path.join("admin.key").display()
        );
    }
    dir.write_private("address", &address)?;
    ground.readiness = room.readiness();
    let meter = room.meter();
    let figures = ground.count(Role::Gateway, |registry| meter.register(registry));
    room.show(move || figures.text());
    ground.rooms.spawn(room.serve(ground.stop.clone()));
    ground.plain_door("gateway").await?;
    tracing::info!("clients reach the gateway at {address}");
    Ok(dir)
}

async fn deployer(ground: &mut Ground) -> Result<()> {
    let deps = deployer::Deps {
        store: ground.store.clone(),
        bus: ground.bus.clone(),
        peers: ground.peers.clone(),
    };
    let monitors = configs::addresses(&ground.settings.deployer.monitors);
    if monitors.is_empty() {
        tracing::warn!(
            "deployer.monitors is not set: canaries pause, because nobody counts for them"
        );
    }
    let config = configs::deployer(&ground.settings, monitors);
    let room = deployer::bind(config, deps).await?;
    let meter = room.meter();
    ground.count(Role::Deployer, |registry| meter.register(registry));
    ground.rooms.spawn(room.serve(ground.stop.clone()));
    ground.plain_door("deployer").await
}

async fn executor(ground: &mut Ground) -> Result<DataDir> {
    let settings = &ground.settings;
    let dir = DataDir::open(&settings.data_dir)?;
    let mut config = configs::executor(settings, &dir, dir.node_id()?)?;
    config.alone = false;
    let deps = executor::Deps {
        store: ground.store.clone(),
        bus: ground.bus.clone(),
        peers: ground.peers.clone(),
    };
    let room = executor::bind(config, deps).await?;
    tracing::info!("others reach the executor at {}", room.address());
    let meter = room.meter();
    ground.count(Role::Executor, |registry| meter.register(registry));
    ground.rooms.spawn(room.serve(ground.stop.clone()));
    Ok(dir)
}

async fn monitor(ground: &mut Ground) -> Result<()> {
    let deps = monitor::Deps {
        store: ground.store.clone(),
        bus: ground.bus.clone(),
        peers: ground.peers.clone(),
    };
    let room = monitor::bind(configs::monitor(&ground.settings)?, deps).await?;
    tracing::info!("others reach the monitor at {}", room.address());
    let meter = room.meter();
    ground.count(Role::Monitor, |registry| meter.register(registry));
    ground.rooms.spawn(room.serve(ground.stop.clone()));
    Ok(())
}

impl Ground {
    /// Health and reflection for a role that nobody asks anything else.
    async fn plain_door(&mut self, name: &str) -> Result<()> {
        let door = self.peers.open(name).await?;
        let left = self.left.clone();
        self.behind
            .spawn(async move { door.serve(Routes::default(), &[], left).await });
        Ok(())
    }

    /// The figures of this process: its role's, and those of what every role stands on.
    fn count(&mut self, role: Role, register: impl FnOnce(&mut Registry)) -> Figures {
        let figures = Figures::new(role.as_str(), |registry| {
            register(registry);
            self.store.meter().register(registry);
            self.bus.meter().register(registry);
        });
        self.figures = Some(figures.clone());
        figures
    }

    fn ops(&mut self, role: Role) -> Result<()> {
        let listen = &self.settings.ops.listen;
        if listen.is_empty() || role == Role::Gateway {
            return Ok(());
        }
        let listen: SocketAddr = listen.parse().with_context(|| {
            format!("ops.listen is {listen:?}; allowed is an address and a port, as 0.0.0.0:9090")
        })?;
        let ops = ops::bind(listen)?;
        tracing::info!("probes and metrics are at http://{}", ops.address());
        let figures = self.figures.clone();
        let figures = Arc::new(move || figures.as_ref().map(Figures::text).unwrap_or_default());
        self.behind
            .spawn(ops.serve(self.readiness.clone(), figures, self.left.clone()));
        Ok(())
    }

    async fn until_left(mut self, role: Role) -> Result<()> {
        let drain_s = match role {
            Role::Gateway => self.settings.gateway.drain_s,
            Role::Executor => self.settings.executor.drain_s,
            Role::Deployer | Role::Monitor => 0,
        };
        let within = Duration::from_secs(drain_s) + GOODBYE;
        let ended_early = tokio::select! {
            () = told_to_leave() => None,
            ended = self.rooms.join_next() => ended,
        };
        tracing::info!("leaving: what runs may finish; a second signal ends at once");
        self.readiness.set(false);
        let leaving = async {
            self.stop.cancel();
            while self.rooms.join_next().await.is_some() {}
            self.left.cancel();
            while self.behind.join_next().await.is_some() {}
            self.bus.drain().await;
            self.store.close().await;
        };
        tokio::select! {
            () = leaving => tracing::info!("left"),
            () = told_to_leave() => tracing::warn!("left at once; another process goes on with what ran"),
            () = tokio::time::sleep(within) => tracing::warn!(
                "left after {} s although the database or the bus did not answer; another process goes on with what ran",
                within.as_secs()
            ),
        }
        how_it_ended(ended_early)
    }
}
