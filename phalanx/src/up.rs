//! `phalanx up`: all four services in one process, over SQLite and the memory bus, in one data directory.

use crate::{
    data_dir::DataDir,
    settings::{Isolation, Settings},
    welcome,
};
use anyhow::Result;
use bus::{Bus, Limits};
use executor::confine;
use proto::peer::Peers;
use std::{path::PathBuf, time::Duration};
use store::{Secrets, Store};
use tokio::{signal::unix::SignalKind, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// Requests in front of one executor; as many connections as one machine serves may arrive at the same moment.
const REQUESTS: usize = 65_536;

pub async fn run(settings: Settings) -> Result<()> {
    let dir = DataDir::open(&settings.data_dir)?;
    let node_id = dir.node_id()?;
    let store = Store::open(
        &store::Config::Sqlite {
            path: dir.path.join("phalanx.db"),
        },
        Secrets::new(&dir.master_key()?)?,
    )
    .await?;
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
    let monitor = monitor::bind(monitor_config(&settings), deps).await?;
    let deps = executor::Deps {
        store: store.clone(),
        bus: bus.clone(),
        peers: peers.clone(),
    };
    let executor = executor::bind(executor_config(&settings, &dir, node_id), deps).await?;
    let deps = deployer::Deps {
        store: store.clone(),
        bus: bus.clone(),
        peers: peers.clone(),
    };
    let deployer = deployer::bind(deployer::Config::default(), deps).await?;
    let deps = gateway::Deps {
        store: store.clone(),
        bus: bus.clone(),
        peers: peers.clone(),
        monitor_address: monitor.address().to_owned(),
    };
    let gateway = gateway::bind(gateway_config(&settings), deps).await?;

    let address = format!("http://{}", gateway.address());
    let first_key = gateway::first_key(&store, &settings.region).await?;
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
    match ended_early {
        Some(Ok(Err(error))) => Err(error.into()),
        Some(Err(panic)) => Err(panic.into()),
        Some(Ok(Ok(()))) | None => Ok(()),
    }
}

#[derive(Default)]
struct Stop {
    front: CancellationToken,
    rooms: CancellationToken,
    behind: CancellationToken,
}

async fn told_to_leave() {
    let Ok(mut terminate) = tokio::signal::unix::signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        // An error means that Ctrl-C cannot be heard; SIGTERM still can.
        interrupted = tokio::signal::ctrl_c() => if interrupted.is_err() { terminate.recv().await; },
    }
}

fn gateway_config(settings: &Settings) -> gateway::Config {
    gateway::Config {
        listen: settings.listen,
        public_url: (!settings.public_url.is_empty())
            .then(|| settings.public_url.trim_end_matches('/').to_owned()),
        region: settings.region.clone(),
        max_deploy_body_bytes: settings.gateway.deploy_body_bytes,
        max_execute_body_bytes: settings.gateway.execute_body_bytes,
        drain: Duration::from_secs(settings.gateway.drain_s),
        ..gateway::Config::default()
    }
}

fn executor_config(
    settings: &Settings,
    dir: &DataDir,
    node_id: domain::id::NodeId,
) -> executor::Config {
    let told = &settings.executor;
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let mut config = executor::Config::new(dir.path.clone(), node_id);
    config.python.clone_from(&told.python);
    config.uv = path(&told.uv);
    config.uv_cache = path(&told.uv_cache);
    config.confine.isolation = match told.isolation {
        Isolation::Namespaces => confine::Isolation::Namespaces,
        Isolation::None => confine::Isolation::None,
    };
    config.result_bytes = told.result_bytes;
    config.queue = told.queue;
    config.idle = Duration::from_secs(told.idle_s);
    config.starts = told.starts;
    config.start_within = Duration::from_secs(told.start_s);
    config.drain_within = Duration::from_secs(told.drain_s);
    config.tmp_mb = told.tmp_mb;
    config
}

fn monitor_config(settings: &Settings) -> monitor::Config {
    monitor::Config {
        retention: Duration::from_secs(u64::from(settings.monitor.retention_days) * 86_400),
        ..monitor::Config::default()
    }
}
