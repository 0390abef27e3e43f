//! The executor as a whole: the versions it hosts and what they share.

mod reconcile;

use crate::{
    Config, Deps, beat,
    call::Settings,
    confine::{self, Level, egress::Resolver},
    environment::Environments,
    files, grpc,
    held::Held,
    instance::Grounds,
    leave,
    meter::{Counts, Meter},
    pool::{Common, Pool, Starts, Templates},
    purge,
    python::Python,
    run::Runner,
    shelf::Shelf,
    sweep,
    system::System,
    uv::Uv,
    version::{Files, Version},
    watch::Hub,
};
use bus::Bus;
use domain::{
    Error, Result, Timestamp,
    id::{AccountId, BootId, VersionId},
    liveness::Sight,
};
use proto::door::Door;
use reconcile::Changes;
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64},
    },
};
use store::{Store, executions::Holder};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// In the object store, where environments have the C library that they were chosen for: a layer's digest holds its release.
pub const LAYERS: &str = "layer";

pub struct Executor {
    node: Arc<Node>,
    door: Door,
}

/// What every task of this executor reaches.
pub(crate) struct Node {
    pub config: Config,
    pub store: Store,
    pub bus: Bus,
    pub address: String,
    pub boot_id: BootId,
    pub started_at: Timestamp,
    pub level: Level,
    pub python: Python,
    pub environments: Environments,
    pub system: System,
    pub runner: Arc<Runner>,
    pub hub: Arc<Hub>,
    pub tasks: TaskTracker,
    /// Cancelled when this executor is to take no more work.
    pub stop: CancellationToken,
    common: Arc<Common>,
    worker: PathBuf,
    hosted: Mutex<HashMap<VersionId, Hosted>>,
    changes: Changes,
    /// Told to leave: others shall have what is hosted here.
    pub draining: AtomicBool,
    /// When the last heartbeat was kept.
    pub beaten_at: AtomicI64,
    sight: Mutex<Sight>,
}

struct Hosted {
    pool: Arc<Pool>,
    /// Cancelled when its work is no longer taken from the bus.
    stop: CancellationToken,
}

pub(crate) async fn bind(config: Config, deps: Deps) -> Result<Executor> {
    let Deps { store, bus, peers } = deps;
    let python = Python::find(&config.python).await?;
    let worker = python.prepare_worker(&config.data_dir).await?;
    files::tidy(&config.data_dir).await;
    let level = confine::probe(config.confine.clone()).await;
    tracing::info!(
        python = python.version,
        "agents run on {} and are {level}",
        python.executable
    );
    if !level.is_confined() {
        tracing::warn!("AGENTS ARE NOT CONFINED: {level}");
    }
    if let (true, Some(why)) = (config.templates, level.cannot_fork()) {
        tracing::info!("every instance is spawned, none is forked from a template: {why}");
    }
    if config.cpus.is_some() && !level.controllers.iter().any(|one| one == "cpu") {
        return Err(Error::unavailable(format!(
            "executor.cpus needs the cpu controller of a cgroup, which this host does not give ({level}); allowed is 0 here"
        )));
    }
    let left = level.sweep().await;
    if left > 0 {
        tracing::info!("ended {left} instances that an earlier run had left");
    }
    let system = System::find(&config.data_dir, config.apt_cache.clone(), &level).await;
    if let Some(why) = system.refusal() {
        tracing::info!("versions with dependencies.system cannot run here: {why}");
    }
    let door = peers.open(config.node_id.as_str()).await?;
    let address = door.address().to_owned();
    let boot_id = BootId::from_uuid(uuid::Uuid::now_v7());
    store
        .end_instances_of_earlier_boots(&config.node_id, &boot_id, store.now())
        .await?;
    store.end_crash_loops_of_node(&config.node_id).await?;
    let (hub, held, tasks) = (
        Arc::new(Hub::default()),
        Arc::new(Held::default()),
        TaskTracker::new(),
    );
    let counts = Counts::default();
    let grounds = Grounds {
        egress_private: config.egress_private.clone().into(),
        cpus: config.cpus,
        resolver: Resolver::default(),
        level: level.clone(),
        store: store.clone(),
        hub: Arc::clone(&hub),
        tasks: tasks.clone(),
        start_within: config.start_within,
        result_bytes: config.result_bytes,
        logs: config.logs,
        counts: counts.clone(),
        spares: config.spares,
    };
    let common = Common {
        grounds,
        node_id: config.node_id.clone(),
        boot_id: boot_id.clone(),
        starts: Starts::new(config.starts),
        queue: config.queue,
        idle: config.idle,
        sessions: config.sessions,
        templates: config
            .templates
            .then(|| Templates::new(config.template_idle)),
    };
    let stop = CancellationToken::new();
    let runner = Runner {
        store: store.clone(),
        hub: Arc::clone(&hub),
        held,
        holder: Holder {
            node_id: config.node_id.clone(),
            boot_id: boot_id.clone(),
        },
        settings: Settings {
            logs: config.logs,
            stop_within: config.stop_within,
            tasks: tasks.clone(),
            stop: stop.clone(),
        },
        counts,
    };
    let uv = Uv::new(&config.data_dir, config.uv.clone(), config.uv_cache.clone());
    let started_at = store.now();
    let node = Arc::new(Node {
        environments: Environments::new(&config.data_dir, uv, python.clone())
            .shared(Shelf::of(&store, &python.libc)),
        system: system.shared(Shelf::of(&store, LAYERS).map(Shelf::with_foreign_links)),
        store,
        bus,
        address,
        boot_id,
        started_at,
        level,
        python,
        runner: Arc::new(runner),
        hub,
        tasks,
        stop,
        common: Arc::new(common),
        worker,
        hosted: Mutex::default(),
        changes: Changes::default(),
        draining: AtomicBool::new(false),
        beaten_at: AtomicI64::new(started_at.0),
        sight: Mutex::default(),
        config,
    });
    beat::beat(&node).await?;
    node.take_over_all().await?;
    Ok(Executor { node, door })
}

impl Executor {
    /// Where this executor is reached by gRPC.
    pub fn address(&self) -> &str {
        &self.node.address
    }

    /// What this executor counts of itself, and looks like.
    pub fn meter(&self) -> Meter {
        Meter {
            counts: self.node.runner.counts.clone(),
            node: Arc::downgrade(&self.node),
        }
    }

    /// Works until `stop`; then takes nothing new, lets finish what runs, and ends every instance.
    pub async fn serve(self, stop: CancellationToken) -> Result<()> {
        let Self { node, door } = self;
        let quiet = CancellationToken::new();
        let server = grpc::serve(Arc::clone(&node), door, quiet.clone());
        let background = TaskTracker::new();
        background.spawn(server);
        background.spawn(beat::run(Arc::clone(&node), quiet.clone()));
        background.spawn(beat::announce(Arc::clone(&node), quiet.clone()));
        background.spawn(sweep::run(Arc::clone(&node), quiet.clone()));
        background.spawn(purge::run(Arc::clone(&node), quiet.clone()));
        stop.cancelled().await;
        if !node.config.alone {
            leave::hand_over(&node).await;
        }
        node.drain().await;
        quiet.cancel();
        background.close();
        background.wait().await;
        node.tasks.close();
        tokio::time::timeout(node.config.drain_within, node.tasks.wait())
            .await
            .ok();
        if !node.config.alone {
            leave::say_left(&node).await;
        }
        Ok(())
    }
}

impl Node {
    fn hosted(&self) -> MutexGuard<'_, HashMap<VersionId, Hosted>> {
        self.hosted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pool(&self, version: &VersionId) -> Option<Arc<Pool>> {
        let hosted = self.hosted();
        hosted.get(version).map(|hosted| Arc::clone(&hosted.pool))
    }

    pub fn pools(&self) -> Vec<Arc<Pool>> {
        let hosted = self.hosted();
        hosted
            .values()
            .map(|hosted| Arc::clone(&hosted.pool))
            .collect()
    }

    /// What this node can say of others.
    pub fn sight(&self) -> Sight {
        *self.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rows could be written and read just now, or could not.
    pub fn note_look(&self, good: bool) {
        let mut sight = self.sight.lock().unwrap_or_else(PoisonError::into_inner);
        if good {
            sight.saw(self.store.now());
        } else {
            sight.missed();
        }
    }

    async fn load(&self, account: &AccountId, id: &VersionId) -> Result<Version> {
        let version = self
            .store
            .version(account, id)
            .await?
            .ok_or_else(|| Error::not_found(format!("version {id}")))?;
        let entrypoint = &version.spec.entrypoint;
        let code = files::code_dir(&self.config.data_dir, &version.artifact, entrypoint);
        if !files::claim(&code) {
            let bytes = self
                .store
                .artifact(account, &version.artifact)
                .await?
                .ok_or_else(|| Error::internal("the version's code is not there"))?;
            files::unpack(&code, entrypoint, bytes).await?;
        }
        let kept = self.store.lock(account, id).await?;
        let (lock, system) = kept
            .map(|kept| (kept.lock, kept.system))
            .unwrap_or_default();
        let layer = self.system.folder(&system)?;
        if layer.as_ref().is_some_and(|folder| !files::claim(folder)) {
            self.system
                .package(&version.spec.system, Some(system), &|_| {})
                .await?;
        }
        let packages = self.environments.folder(&lock);
        if packages
            .as_ref()
            .is_some_and(|folder| !files::claim(folder))
        {
            // Placed here before it was packaged here: another node's lock, or a data directory that was cleared.
            self.environments
                .package(&version.spec.python, Some(lock), &|_| {})
                .await?;
        }
        let environment = self.store.environment(account, id).await?;
        let files = Files {
            python: self.python.clone(),
            runner: self.worker.clone(),
            code,
            packages,
            layer,
            processes: self.config.processes,
            open_files: self.config.open_files,
            tmp_mb: self.config.tmp_mb,
        };
        Ok(Version {
            id: id.clone(),
            account: account.clone(),
            spec: version.spec,
            environment,
            files,
        })
    }

    /// Takes nothing new, waits for what runs, ends every instance.
    async fn drain(&self) {
        self.stop.cancel();
        let deadline = tokio::time::Instant::now() + self.config.drain_within;
        while self.runner.held.len() > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let pools = self.pools();
        futures::future::join_all(pools.iter().map(|pool| pool.close())).await;
    }
}
