//! A served monitor over a store of one's own.

use bus::{Bus, Limits};
use domain::{
    Timestamp,
    execution::{
        Caller, Failure, FailureCode, FailurePhase, Mode, Options, Priority, Status, Usage,
    },
    id::VersionId,
    retry,
};
use monitor::{Config, Deps, Look, Monitor};
use proto::{peer::Peers, trace::Calls, v1::monitor_client::MonitorClient};
use serde_json::value::RawValue;
use std::{
    collections::BTreeMap,
    env, fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};
use store::{
    Secrets, Store,
    executions::{End, Key, New},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub struct World {
    pub deps: Deps,
    pub client: MonitorClient<Calls<Channel>>,
    pub address: String,
    config: Config,
    stop: CancellationToken,
    served: JoinSet<()>,
    directory: PathBuf,
}

/// Everything is counted once more all the time, however old.
pub fn eager() -> Config {
    let look = Look {
        back: Duration::from_secs(100 * 365 * 24 * 3600),
        every: Duration::from_millis(100),
    };
    Config {
        roll_every: Duration::from_millis(50),
        looks: vec![look],
        ..Config::default()
    }
}

pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("after 1970").as_millis() as i64
}

impl World {
    pub async fn new(config: Config) -> Self {
        let name = uuid::Uuid::now_v7().as_simple().to_string();
        let directory = env::temp_dir().join(format!("phalanx-monitor-{name}"));
        fs::create_dir_all(&directory).expect("a directory for the test");
        let file = store::Config::Sqlite {
            path: directory.join("store.db"),
        };
        let secrets = Secrets::new(&[7; 32]).expect("32 bytes");
        let deps = Deps {
            store: Store::open(&file, secrets).await.expect("opens"),
            bus: Bus::memory(Limits::default()),
            peers: Peers::default(),
        };
        let stop = CancellationToken::new();
        let (address, served) = serve(&config, &deps, &stop).await;
        let channel = deps.peers.channel(&address).expect("an address");
        Self {
            client: MonitorClient::new(channel).max_decoding_message_size(64 << 20),
            deps,
            address,
            config,
            stop,
            served,
            directory,
        }
    }

    /// Another one in its place; the rows stay.
    pub async fn start_again(&mut self) {
        self.stop_monitor().await;
        self.stop = CancellationToken::new();
        (self.address, self.served) = serve(&self.config, &self.deps, &self.stop).await;
        let channel = self.deps.peers.channel(&self.address).expect("an address");
        self.client = MonitorClient::new(channel).max_decoding_message_size(64 << 20);
    }

    pub async fn close(mut self) {
        self.stop_monitor().await;
        self.deps.store.close().await;
        fs::remove_dir_all(&self.directory).expect("the test's directory");
    }

    pub async fn stop_monitor(&mut self) {
        self.stop.cancel();
        if self.served.is_empty() {
            return;
        }
        let ended =
            tokio::time::timeout(std::time::Duration::from_secs(5), self.served.join_next());
        ended
            .await
            .expect("drains")
            .expect("served")
            .expect("no panic");
    }

    /// One ended execution of agent `agent` in account `account`.
    pub async fn ended(&self, (account, agent, id): (&str, &str, &str), ran: Ran) {
        let key = Key {
            account: account.parse().expect("an id"),
            agent_id: agent.parse().expect("an id"),
            id: id.parse().expect("an id"),
        };
        let new = New {
            key: key.clone(),
            version_id: VersionId::from_uuid(uuid::Uuid::from_u128(ran.version)),
            mode: Mode::Sync,
            priority: Priority::Normal,
            body_digest: None,
            caller: Caller::default(),
            options: Options {
                mode: Mode::Sync,
                priority: Priority::Normal,
                timeout_s: 30,
                retry: retry::Policy::default(),
                retry_explicit: false,
                trace: true,
                callback_url: None,
            },
            input: RawValue::from_string("{}".into()).expect("JSON"),
            accepted_at: Timestamp(ran.at),
        };
        let store = &self.deps.store;
        assert!(store.insert_execution(new).await.expect("writes"));
        let Some(duration_ms) = ran.duration_ms else {
            let failure = Failure::new(FailureCode::Cancelled, FailurePhase::Spawn, "cancelled");
            let done = store
                .cancel_queued_execution(&key, &failure, Timestamp(ran.at))
                .await;
            assert!(done.expect("writes"));
            return;
        };
        let end = End {
            key,
            attempt: 1,
            status: ran.status,
            due_at: Timestamp(ran.at),
            started_at: Some(Timestamp(ran.at)),
            completed_at: Some(Timestamp(ran.at)),
            attempts: Vec::new(),
            instance_id: None,
            output: None,
            error: None,
            duration_ms,
            queue_ms: 0.0,
            waterfall: None,
            recording: None,
            usage: Usage {
                metrics: ran.metrics,
                ..Usage::default()
            },
        };
        assert!(store.end_execution(end).await.expect("writes"));
    }
}

async fn serve(config: &Config, deps: &Deps, stop: &CancellationToken) -> (String, JoinSet<()>) {
    let monitor: Monitor = monitor::bind(config.clone(), deps.clone())
        .await
        .expect("binds");
    let address = monitor.address().to_owned();
    let (token, mut served) = (stop.clone(), JoinSet::new());
    served.spawn(async move { monitor.serve(token).await.expect("serves") });
    (address, served)
}

#[derive(Debug, Clone)]
pub struct Ran {
    pub at: i64,
    pub status: Status,
    /// `None`: cancelled before it ran.
    pub duration_ms: Option<f64>,
    pub version: u128,
    pub metrics: BTreeMap<String, f64>,
}

impl Ran {
    pub fn ended(&self) -> Status {
        self.duration_ms.map_or(Status::Cancelled, |_| self.status)
    }
}
