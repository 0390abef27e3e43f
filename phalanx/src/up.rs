//! `phalanx up`: all four services in one process, over SQLite and the memory bus, in one data directory.

use crate::{
    configs,
    data_dir::DataDir,
    master_keys,
    settings::Settings,
    signals::{how_it_ended, told_to_leave},
    telemetry::{Exporter, Figures},
    welcome,
};
use anyhow::{Result, bail};
use bus::{Bus, Limits};
use proto::peer::Peers;
use store::{Blobs, Store};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Requests in front of one executor; as many connections as one machine serves may arrive at the same moment.
const REQUESTS: usize = 65_536;

pub async fn run(settings: Settings, exporter: &mut Exporter) -> Result<()> {
    let elsewhere = [
        ("store.url", &*settings.store.url),
        ("store.url_file", &*settings.store.url_file),
        ("bus.url", &*settings.bus.url),
        ("bus.url_file", &*settings.bus.url_file),
    ];
    if let Some((name, _)) = elsewhere.iter().find(|(_, value)| !value.is_empty()) {
        bail!(
            "{name} is set, and `phalanx up` is one process over SQLite and its own bus; unset it, or start single roles: phalanx gateway, deployer, executor, monitor"
        );
    }
    let dir = DataDir::open(&settings.data_dir)?;
    let node_id = dir.node_id()?;
    let store = Store::open(
        &store::Config::Sqlite {
            path: dir.path.join("phalanx.db"),
        },
        master_keys::secrets(&settings, Some(&dir))?,
    )
    .await?
    .with_blobs(Blobs::open(&settings.blobs.with_variables()).await?);
    let bus = Bus::memory(Limits {
        requests: REQUESTS,
        ..Limits::default()
    });
    let peers = Peers::default();
    let stop = Stop::default();

    let deps = monitor::Deps {
        store: store.clone(),
        bus: bus.clone(),
        peers: peers.clone(),
    };
    let monitor = monitor::bind(configs::monitor(&settings)?, deps).await?;
    let deps = executor::Deps {
        store: store.clone(),
        bus: bus.clone(),
        peers: peers.clone(),
    };
    let executor = executor::bind(configs::executor(&settings, &dir, node_id)?, deps).await?;
    let deps = deployer::Deps {
        store: store.clone(),
        bus: bus.clone(),
        peers: peers.clone(),
    };
    let config = configs::deployer(&settings, vec![monitor.address().to_owned()]);
    let deployer = deployer::bind(config, deps).await?;
    let deps = gateway::Deps {
        store: store.clone(),
        bus: bus.clone(),
        peers: peers.clone(),
        monitors: vec![monitor.address().to_owned()],
    };
    let gateway = gateway::bind(configs::gateway(&settings)?, deps).await?;

    let figures = Figures::new("up", |registry| {
        gateway.meter().register(registry);
        executor.meter().register(registry);
        deployer.meter().register(registry);
        monitor.meter().register(registry);
        store.meter().register(registry);
        bus.meter().register(registry);
    });
    exporter.push(&figures)?;
    gateway.show(move || figures.text());

    let address = format!("http://{}", gateway.address());
    let first_key = gateway::first_key(&store, &settings.region, None).await?;
    if let Some(key) = &first_key {
        dir.write_private("admin.key", key)?;
    }
    dir.write_private("address", &address)?;

    // Told to leave, the doors close first: what is inside may finish.
    let mut rooms: JoinSet<domain::Result<()>> = JoinSet::new();
    let readiness = gateway.readiness();
    rooms.spawn(monitor.serve(stop.behind.clone()));
    rooms.spawn(executor.serve(stop.rooms.clone()));
    rooms.spawn(deployer.serve(stop.rooms.clone()));
    let mut front: JoinSet<domain::Result<()>> = JoinSet::new();
    front.spawn(gateway.serve(stop.front.clone()));
    readiness.set(true);
    welcome::print(&address, &dir.path, first_key.as_deref());

    let ended_early = tokio::select! {
        () = told_to_leave() => None,
        ended = rooms.join_next() => ended,
        ended = front.join_next() => ended,
    };
    tracing::info!("leaving: what runs may finish; a second signal ends at once");
    let leaving = async {
        stop.front.cancel();
        while front.join_next().await.is_some() {}
        stop.rooms.cancel();
        stop.behind.cancel();
        while rooms.join_next().await.is_some() {}
        bus.drain().await;
        store.close().await;
    };
    tokio::select! {
        () = leaving => tracing::info!("left"),
        () = told_to_leave() => tracing::warn!("left at once; what ran is gone on with at the next start"),
    }
    how_it_ended(ended_early)
}

#[derive(Default)]
struct Stop {
    front: CancellationToken,
    rooms: CancellationToken,
    behind: CancellationToken,
}
