//! A store, a bus and a fake executor of one's own, and deployers that can be killed.

use crate::fake::Fake;
use bus::{Bus, Limits};
use deployer::{Config, Deps};
use domain::{
    Timestamp, agent, artifact,
    deployment::{Kind, State},
    id::{AccountId, AgentId, BootId, DeploymentId, KeyId, NodeId, VersionId},
    key, log,
};
use proto::peer::Peers;
use std::{
    env, fs,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};
use store::{
    Secrets, Store,
    agents::{Accepted, Agent, NewAgent},
    deployments::{self, Deployment},
    keys,
    nodes::{Capacity, Node},
    versions,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub struct World {
    pub deps: Deps,
    pub fake: Fake,
    pub config: Config,
    pub account: AccountId,
    pub agent: AgentId,
    pub incarnation: String,
    pub node: NodeId,
    /// Another executor; nobody hears of it before [`World::beat_second`].
    pub second: (NodeId, Fake),
    directory: PathBuf,
}

pub const ADDRESS: &str = "memory:executor";
pub const SECOND: &str = "memory:second";

pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    Timestamp(since.expect("after 1970").as_millis() as i64)
}

impl World {
    pub async fn new() -> Self {
        let name = Uuid::now_v7().as_simple().to_string();
        let directory = env::temp_dir().join(format!("phalanx-deployer-{name}"));
        fs::create_dir_all(&directory).expect("a directory for the test");
        let file = store::Config::Sqlite {
            path: directory.join("store.db"),
        };
        let secrets = Secrets::new(&[7; 32]).expect("32 bytes");
        let store = Store::open(&file, secrets).await.expect("opens");
        let deps = Deps {
            store: store.clone(),
            bus: Bus::memory(Limits::default()),
            peers: Peers::default(),
        };
        let node = NodeId::from_uuid(Uuid::now_v7());
        let fake = Fake::new(store.clone(), node.clone());
        let second = NodeId::from_uuid(Uuid::now_v7());
        let second = (second.clone(), Fake::new(store.clone(), second));
        let world = Self {
            second,
            deps,
            fake,
            config: Config {
                sweep_every: Duration::from_millis(100),
                ..Config::default()
            },
            account: AccountId::default_account(),
            agent: "echo".parse().expect("an id"),
            incarnation: Uuid::now_v7().as_simple().to_string(),
            node,
            directory,
        };
        world.beat(ADDRESS, 3600).await;
        world
    }

    /// The node was heard of `ahead_s` from now: it lives for long, or is dead already.
    pub async fn beat(&self, address: &str, ahead_s: i64) {
        let capacity = Capacity {
            memory_mb: 4096,
            ..Capacity::default()
        };
        self.beat_with(address, ahead_s, capacity).await;
    }

    pub async fn beat_second(&self, ahead_s: i64) {
        self.beat(SECOND, ahead_s).await;
    }

    pub async fn beat_with(&self, address: &str, ahead_s: i64, capacity: Capacity) {
        let second = address == SECOND;
        let id = if second { &self.second.0 } else { &self.node };
        let node = Node {
            id: id.clone(),
            boot_id: BootId::from_uuid(Uuid::now_v7()),
            address: address.to_owned(),
            capacity,
            started_at: now(),
            heartbeat_at: Timestamp(now().0 + ahead_s * 1000),
        };
        self.deps.store.beat(&node).await.expect("beats");
    }

    pub fn deployer(&self) -> Running {
        // A process has connections of its own.
        let (config, mut deps) = (self.config.clone(), self.deps.clone());
        deps.peers = Peers::default();
        let (fake, second) = (self.fake.clone(), self.second.1.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let stop = CancellationToken::new();
        let token = stop.clone();
        let served = runtime.spawn(async move {
            fake.serve(deps.peers.open("executor").await.expect("a door"));
            second.serve(deps.peers.open("second").await.expect("a door"));
            let deployer = deployer::bind(config, deps).await.expect("binds");
            deployer.serve(token).await.expect("serves");
        });
        Running {
            runtime: Some(runtime),
            served: Some(served),
            stop,
        }
    }

    /// Accepts a deployment of version `1.<minor>.0` as the gateway does; the first makes the agent.
    pub async fn accept(&self, minor: u64, change: impl FnOnce(&mut agent::Spec)) -> DeploymentId {
        let code = b"def handler(input):\n    return input\n";
        let mut spec = agent::Spec {
            agent_id: self.agent.clone(),
            name: "Echo".into(),
            version: semver::Version::new(1, minor, 0),
            description: String::new(),
            tags: Vec::new(),
            entrypoint: "handler".parse().expect("an entrypoint"),
            python: Vec::new(),
            system: Vec::new(),
            configuration: agent::Configuration::default(),
            environment: agent::Environment::Dev,
            scaling: agent::Scaling::default(),
            placement: agent::Placement::default(),
            health_check: agent::HealthCheck::default(),
            custom_metrics: Vec::new(),
            log_level: log::Level::Info,
            isolation: agent::Isolation::default(),
            egress: domain::egress::Egress::default(),
            warm: domain::agent::Warm::default(),
        };
        change(&mut spec);
        let id = self.version(minor);
        let living = self
            .deps
            .store
            .agent(&self.account, &self.agent)
            .await
            .expect("reads");
        let deployment = self.row(Kind::Deploy, Some(id.clone()));
        let accepted = Accepted {
            agent: living.is_none().then(|| self.new_agent()),
            version: Some(versions::New {
                sealed: self
                    .deps
                    .store
                    .seal_environment(&self.account, &id, &Default::default())
                    .expect("seals"),
                id,
                account: self.account.clone(),
                incarnation: self.incarnation.clone(),
                spec,
                artifact: artifact::digest(code),
                digest: format!("digest {minor}"),
                created_at: now(),
            }),
            artifact: Some(versions::Artifact {
                account: self.account.clone(),
                digest: artifact::digest(code),
                bytes: code[..].into(),
                created_at: now(),
            }),
            deployment: deployment.clone(),
        };
        assert!(
            self.deps
                .store
                .accept_deployment(&accepted)
                .await
                .expect("writes")
        );
        deployment.id
    }

    /// Another deployment of what is there: a version again, or the end of the agent.
    pub async fn accept_again(&self, version: Option<VersionId>) -> DeploymentId {
        let kind = if version.is_some() {
            Kind::Deploy
        } else {
            Kind::Delete
        };
        let deployment = self.row(kind, version);
        let accepted = Accepted {
            agent: None,
            version: None,
            artifact: None,
            deployment: deployment.clone(),
        };
        assert!(
            self.deps
                .store
                .accept_deployment(&accepted)
                .await
                .expect("writes")
        );
        deployment.id
    }

    pub async fn nudge(&self, id: &DeploymentId) {
        self.deps
            .bus
            .deploy(&self.account, id)
            .await
            .expect("enqueues");
    }

    fn row(&self, kind: Kind, version_id: Option<VersionId>) -> deployments::New {
        deployments::New {
            id: DeploymentId::from_uuid(Uuid::now_v7()),
            account: self.account.clone(),
            agent_id: self.agent.clone(),
            incarnation: self.incarnation.clone(),
            version_id,
            kind,
            plan: domain::rollout::Plan::default(),
            created_by: "key".into(),
            created_at: now(),
        }
    }

    fn new_agent(&self) -> NewAgent {
        NewAgent {
            agent: Agent {
                account: self.account.clone(),
                agent_id: self.agent.clone(),
                incarnation: self.incarnation.clone(),
                environment: agent::Environment::Dev,
                name: "Echo".into(),
                created_by: "key".into(),
                created_at: now(),
                deleted_at: None,
            },
            webhook_secret: vec![1],
            key: keys::New {
                agents: Some([self.agent.clone()].into()),
                ..keys::New::lasting(
                    (KeyId::from_uuid(Uuid::now_v7()), self.account.clone()),
                    self.deps.store.hash_key("the agent's"),
                    "agent".into(),
                    key::Key::agent_permissions(),
                    now(),
                )
            },
        }
    }

    pub fn version(&self, minor: u64) -> VersionId {
        VersionId::from_uuid(Uuid::from_u128(u128::from(minor) + 1))
    }

    pub async fn look(&self, id: &DeploymentId) -> Deployment {
        let row = self
            .deps
            .store
            .deployment(&self.account, id)
            .await
            .expect("reads");
        row.expect("there is such a deployment")
    }

    /// Waits until the deployment is as `fits` says; prints how it was last.
    pub async fn until(&self, id: &DeploymentId, fits: impl Fn(&State) -> bool) -> State {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let state = self.look(id).await.state;
            if fits(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "last seen: {state:#?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn ended(&self, id: &DeploymentId) -> State {
        self.until(id, |state| state.status.is_terminal()).await
    }

    pub async fn answers(&self) -> Option<VersionId> {
        let traffic = self
            .deps
            .store
            .traffic(&self.incarnation)
            .await
            .expect("reads");
        traffic.routes.first().map(|route| route.version_id.clone())
    }

    pub async fn envelopes(&self) -> usize {
        let placed = self
            .deps
            .store
            .envelopes_of_agent(&self.account, &self.incarnation)
            .await;
        placed.expect("reads").len()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).ok();
    }
}

/// A deployer in a runtime of its own.
pub struct Running {
    runtime: Option<tokio::runtime::Runtime>,
    served: Option<tokio::task::JoinHandle<()>>,
    stop: CancellationToken,
}

impl Running {
    /// As `kill -9` does: nothing of it runs on.
    pub fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub async fn stop(mut self) {
        self.stop.cancel();
        let served = self.served.take().expect("once");
        tokio::time::timeout(Duration::from_secs(5), served)
            .await
            .expect("drains within 5 s")
            .expect("no panic");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn text(state: &State) -> String {
    let lines = state.phases.iter().flat_map(|phase| phase.logs.iter());
    lines.cloned().collect::<Vec<_>>().join("\n")
}
