//! The executor as its callers see it: rows, bus and gRPC on one side, real Python in a real sandbox on the other.

#[path = "road/poison.rs"]
mod poison;
#[path = "road/refused.rs"]
mod refused;

use bus::{Bus, Limits};
use domain::{
    Timestamp, agent,
    deployment::Kind,
    envelope::State,
    execution::{Caller, Mode, Options, Priority, Status},
    id::{AccountId, DeploymentId, KeyId, NodeId, VersionId},
    key::Key as Permissions,
    retry,
};
use proto::{
    convert::{Execute, Reply},
    peer::Peers,
    v1,
};
use serde_json::value::RawValue;
use std::{path::PathBuf, time::Duration};
use store::{
    Config as StoreConfig, Secrets, Store, agents, deployments, envelopes::Wanted, executions,
    keys, versions,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

struct World {
    dir: PathBuf,
    store: Store,
    bus: Bus,
    peers: Peers,
    address: String,
    node: NodeId,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    Timestamp(i64::try_from(since.as_millis()).expect("fits"))
}

fn helper() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    test.parent()
        .and_then(|deps| deps.parent())
        .expect("target dir")
        .join("examples/confine")
}

impl World {
    async fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("phalanx-road-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let store = Store::open(
            &StoreConfig::Sqlite {
                path: dir.join("store.db"),
            },
            Secrets::new(&[1; 32]).expect("a key"),
        )
        .await
        .expect("a store");
        let bus = Bus::memory(Limits::default());
        let peers = Peers::default();
        let node = NodeId::from_uuid(uuid::Uuid::now_v7());
        let mut config = executor::Config::new(dir.clone(), node.clone());
        config.confine.helper = helper();
        config.confine.helper_args = vec!["__confine".into()];
        let deps = executor::Deps {
            store: store.clone(),
            bus: bus.clone(),
            peers: peers.clone(),
        };
        let bound = executor::bind(config, deps).await.expect("an executor");
        let address = bound.address().to_owned();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let stopped = stop.clone();
        tasks.spawn(async move { bound.serve(stopped).await.expect("served") });
        Self {
            dir,
            store,
            bus,
            peers,
            address,
            node,
            stop,
            tasks,
        }
    }

    async fn version(&self, source: &str, change: impl FnOnce(&mut agent::Spec)) -> agent::Spec {
        let agent_id: domain::id::AgentId = "echo".parse().expect("an id");
        let mut spec = agent::Spec {
            agent_id: agent_id.clone(),
            name: "Echo".into(),
            version: semver::Version::new(1, 0, 0),
            description: String::new(),
            tags: vec![],
            entrypoint: "handler".parse().expect("an entrypoint"),
            python: vec![],
            system: vec![],
            configuration: agent::Configuration::default(),
            environment: agent::Environment::Dev,
            scaling: agent::Scaling::default(),
            placement: agent::Placement::default(),
            health_check: agent::HealthCheck::default(),
            custom_metrics: vec![],
            log_level: domain::log::Level::Info,
            isolation: agent::Isolation::default(),
            egress: domain::egress::Egress::default(),
            warm: domain::agent::Warm::default(),
        };
        change(&mut spec);
        let (account, id) = (AccountId::default_account(), self.version_id());
        let sealed = self
            .store
            .seal_environment(
                &account,
                &id,
                &[("GREETING".to_owned(), "hi".to_owned())].into(),
            )
            .expect("sealed");
        let digest = domain::artifact::digest(source.as_bytes());
        let accepted = agents::Accepted {
            agent: Some(agents::NewAgent {
                agent: agents::Agent {
                    account: account.clone(),
                    agent_id: agent_id.clone(),
                    incarnation: "i1".into(),
                    environment: agent::Environment::Dev,
                    name: "Echo".into(),
                    created_by: "t".into(),
                    created_at: now(),
                    deleted_at: None,
                },
                webhook_secret: vec![],
                key: keys::New::lasting(
                    (KeyId::from_uuid(uuid::Uuid::now_v7()), account.clone()),
                    self.store.hash_key("k"),
                    "k".into(),
                    Permissions::agent_permissions(),
                    now(),
                ),
            }),
            version: Some(versions::New {
                id: id.clone(),
                account: account.clone(),
                incarnation: "i1".into(),
                spec: spec.clone(),
                artifact: digest.clone(),
                sealed,
                digest: digest.clone(),
                created_at: now(),
            }),
            artifact: Some(versions::Artifact {
                account: account.clone(),
                digest,
                bytes: source.as_bytes().into(),
                created_at: now(),
            }),
            deployment: deployments::New {
                id: DeploymentId::from_uuid(uuid::Uuid::now_v7()),
                account: account.clone(),
                agent_id,
                incarnation: "i1".into(),
                version_id: Some(id.clone()),
                kind: Kind::Deploy,
                plan: domain::rollout::Plan::default(),
                created_by: "t".into(),
                created_at: now(),
            },
        };
        assert!(
            self.store
                .accept_deployment(&accepted)
                .await
                .expect("accepted")
        );
        let generation = self
            .store
            .place(
                &account,
                &self.node,
                &Wanted {
                    version_id: &id,
                    state: State::Serving,
                    min_instances: spec.scaling.min_instances,
                    max_instances: spec.scaling.max_instances,
                },
                now(),
            )
            .await
            .expect("placed");
        let mut client = v1::executor_client::ExecutorClient::new(
            self.peers.channel(&self.address).expect("a channel"),
        );
        client
            .ensure(v1::EnsureRequest {
                account: account.to_string(),
                version_id: id.to_string(),
                generation,
            })
            .await
            .expect("ensured");
        spec
    }

    fn version_id(&self) -> VersionId {
        VersionId::from_uuid(uuid::Uuid::from_u128(7))
    }

    fn execution(&self, input: &str, mode: Mode, timeout_s: u32) -> Execute {
        Execute {
            account: AccountId::default_account(),
            agent_id: "echo".parse().expect("an id"),
            version_id: self.version_id(),
            execution_id: domain::id::ExecutionId::from_uuid(uuid::Uuid::now_v7()),
            options: Options {
                mode,
                priority: Priority::Normal,
                timeout_s,
                retry: retry::Policy {
                    delay_ms: 10,
                    ..retry::Policy::default()
                },
                retry_explicit: false,
                trace: true,
                callback_url: None,
            },
            caller: Caller {
                user_id: Some("u1".into()),
                ..Caller::default()
            },
            input: Some(RawValue::from_string(input.to_owned()).expect("JSON")),
            accepted_at: now(),
            losses: 0,
            has_row: true,
            sent: None,
        }
    }

    async fn insert(&self, execute: &Execute) {
        let new = executions::New {
            key: key(execute),
            version_id: execute.version_id.clone(),
            mode: execute.options.mode,
            priority: execute.options.priority,
            body_digest: None,
            caller: execute.caller.clone(),
            options: execute.options.clone(),
            input: execute.input.clone().expect("an input"),
            accepted_at: execute.accepted_at,
        };
        assert!(self.store.insert_execution(new).await.expect("inserted"));
    }

    /// As the gateway does, when nobody took it.
    async fn withdraw(&self, execute: &Execute) {
        let withdraw = executions::Withdraw {
            key: key(execute),
            accepted_at: execute.accepted_at,
        };
        let withdrawn = self.store.withdraw_execution(withdraw).await;
        assert!(withdrawn.expect("rows"), "it was begun, or has an end");
    }

    async fn run(&self, input: &str, timeout_s: u32) -> (Execute, domain::execution::Outcome) {
        let execute = self.execution(input, Mode::Sync, timeout_s);
        self.insert(&execute).await;
        match self
            .bus
            .execute(&execute, &self.node, Duration::from_secs(60))
            .await
            .expect("an answer")
        {
            Reply::Outcome(outcome) => (execute, *outcome),
            other => panic!("another answer: {other:?}"),
        }
    }

    async fn row(&self, execute: &Execute) -> executions::Execution {
        self.store
            .execution(&key(execute))
            .await
            .expect("read")
            .expect("a row")
    }

    async fn ended(&self, execute: &Execute) -> executions::Execution {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let row = self.row(execute).await;
            if row.status.is_terminal() {
                return row;
            }
            assert!(tokio::time::Instant::now() < deadline, "not ended: {row:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The seat is taken once its holder's row says so.
    async fn until_running(&self) {
        let filter = executions::Filter {
            status: Some(Status::Running),
            ..executions::Filter::default()
        };
        let (account, agent) = (AccountId::default_account(), "echo".parse().expect("an id"));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let running = self.store.executions(&account, &agent, &filter, 0, 1);
            if running.await.expect("read").1 > 0 {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "never running");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Orders this node to let go of the version.
    async fn retire(&self) {
        let (account, id) = (AccountId::default_account(), self.version_id());
        let wanted = Wanted {
            version_id: &id,
            state: State::Retired,
            min_instances: 0,
            max_instances: 0,
        };
        let placed = self.store.place(&account, &self.node, &wanted, now()).await;
        let mut client = v1::executor_client::ExecutorClient::new(
            self.peers.channel(&self.address).expect("a channel"),
        );
        let ensure = v1::EnsureRequest {
            account: account.to_string(),
            version_id: id.to_string(),
            generation: placed.expect("placed"),
        };
        client.ensure(ensure).await.expect("let go");
    }

    async fn end(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.store.close().await;
        std::fs::remove_dir_all(&self.dir).expect("removed");
    }
}

fn key(execute: &Execute) -> executions::Key {
    executions::Key {
        account: execute.account.clone(),
        agent_id: execute.agent_id.clone(),
        id: execute.execution_id.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_call_is_answered_and_recorded() {
    let world = World::new().await;
    world.version("import os\ndef handler(input, context):\n    print('hello', context.user_id)\n    return {'got': input, 'greeting': os.environ['GREETING']}\n", |_| {}).await;
    let (execute, outcome) = world.run("{\"a\": [1, 2]}", 10).await;
    assert_eq!(outcome.status, Status::Completed, "{outcome:?}");
    let output: serde_json::Value =
        serde_json::from_str(outcome.output.as_ref().expect("an output").get()).expect("JSON");
    assert_eq!(
        output,
        serde_json::json!({"got": {"a": [1, 2]}, "greeting": "hi"})
    );
    assert_eq!(outcome.logs.len(), 1);
    assert_eq!(outcome.logs[0].message, "hello u1");
    let row = world.row(&execute).await;
    assert_eq!(
        (row.status, row.attempt, row.attempts.len()),
        (Status::Completed, 1, 1)
    );
    assert_eq!(
        world
            .store
            .execution_logs(&key(&execute), -1, 10)
            .await
            .expect("read")
            .len(),
        1
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn true_causes() {
    let world = World::new().await;
    let source = "import ctypes, os, time\ndef handler(input):\n    kind = input['kind']\n    if kind == 'raise': raise ValueError('boom')\n    if kind == 'segfault': ctypes.string_at(0)\n    \
        if kind == 'exit': os._exit(3)\n    if kind == 'memory': x = bytearray(10**9)\n    if kind == 'hang': time.sleep(60)\n    if kind == 'object': return object()\n    return 1\n";
    world
        .version(source, |spec| spec.configuration.concurrent_executions = 1)
        .await;
    for (kind, status, code) in [
        ("raise", Status::Failed, "HANDLER_RAISED"),
        ("segfault", Status::Failed, "INSTANCE_CRASHED"),
        ("exit", Status::Failed, "INSTANCE_CRASHED"),
        ("memory", Status::Failed, "OUT_OF_MEMORY"),
        ("hang", Status::Timeout, "HANDLER_TIMEOUT"),
        ("object", Status::Failed, "OUTPUT_NOT_SERIALIZABLE"),
    ] {
        let (execute, outcome) = world.run(&format!("{{\"kind\":\"{kind}\"}}"), 2).await;
        let error = outcome.error.clone().expect("an error");
        assert_eq!(
            (outcome.status, error.code.as_str()),
            (status, code),
            "{kind}: {outcome:?}"
        );
        assert_eq!(world.row(&execute).await.status, status);
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn durable_executions_are_retried_and_cancelled() {
    let world = World::new().await;
    let source = "import os, time\ndef handler(input, context):\n    if input['kind'] == 'twice' and context.attempt < 3: raise ValueError('not yet')\n    \
        if input['kind'] == 'hang': time.sleep(60)\n    return context.attempt\n";
    world.version(source, |_| {}).await;
    let execute = world.execution("{\"kind\":\"twice\"}", Mode::Async, 10);
    world.insert(&execute).await;
    world
        .bus
        .enqueue_execution(&execute, execute.accepted_at)
        .await
        .expect("handed over");
    let row = world.ended(&execute).await;
    assert_eq!(
        (
            row.status,
            row.attempt,
            row.output.expect("an output").get()
        ),
        (Status::Completed, 3, "3")
    );
    assert_eq!(row.attempts.len(), 3);

    let execute = world.execution("{\"kind\":\"hang\"}", Mode::Async, 50);
    world.insert(&execute).await;
    world
        .bus
        .enqueue_execution(&execute, execute.accepted_at)
        .await
        .expect("handed over");
    while world.row(&execute).await.status != Status::Running {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let answer = world
        .bus
        .cancel_execution(
            &execute.account,
            &execute.agent_id,
            &execute.version_id,
            &execute.execution_id,
            Duration::from_secs(10),
        )
        .await;
    assert!(
        matches!(answer, Ok(Reply::Cancelled(Status::Cancelled))),
        "{answer:?}"
    );
    assert_eq!(world.row(&execute).await.status, Status::Cancelled);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_in_one_instance() {
    let world = World::new().await;
    let source =
        "import asyncio\nasync def handler(input):\n    await asyncio.sleep(1)\n    return input\n";
    world
        .version(source, |spec| {
            spec.configuration.concurrent_executions = 100;
            spec.scaling.max_instances = 1;
        })
        .await;
    let began = std::time::Instant::now();
    let runs = (0..100).map(|n| {
        let world = &world;
        async move { world.run(&n.to_string(), 20).await.1.status }
    });
    let statuses = futures::future::join_all(runs).await;
    assert!(statuses.iter().all(|status| *status == Status::Completed));
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_its_rows_without_being_told() {
    let world = World::new().await;
    world
        .version("def handler(input):\n    return input\n", |_| {})
        .await;
    world.run("1", 10).await;
    let account = AccountId::default_account();
    let place = async |state, min_instances| {
        let version_id = &world.version_id();
        let wanted = Wanted {
            version_id,
            state,
            min_instances,
            max_instances: 1,
        };
        let placed = world.store.place(&account, &world.node, &wanted, now());
        placed.await.expect("placed");
    };
    let instances = async || {
        let agent = "echo".parse().expect("an id");
        let living = world.store.living_instances(&account, &agent).await;
        living.expect("read").len()
    };
    let until = async |wanted: usize| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while instances().await != wanted {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{} instances, not {wanted}",
                instances().await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    until(1).await;
    place(State::Retired, 0).await;
    until(0).await;
    place(State::Serving, 1).await;
    until(1).await;
    let (_, outcome) = world.run("2", 10).await;
    assert_eq!(outcome.status, Status::Completed, "{outcome:?}");
    world.end().await;
}

/// As a database leaves it that was away for longer than an end is held.
#[tokio::test(flavor = "multi_thread")]
async fn what_this_process_runs_by_its_row_only_is_lost() {
    let world = World::new().await;
    world
        .version("def handler(input):\n    return input\n", |_| {})
        .await;
    let boot_id = world.store.nodes().await.expect("read")[0].boot_id.clone();
    let mut rows = Vec::new();
    for mode in [Mode::Async, Mode::Sync] {
        let mut execute = world.execution("3", mode, 10);
        execute.accepted_at = Timestamp(now().0 - 60_000);
        world.insert(&execute).await;
        let start = executions::Start {
            key: key(&execute),
            attempt: 1,
            at: now(),
            holder: executions::Holder {
                node_id: world.node.clone(),
                boot_id: boot_id.clone(),
            },
        };
        assert!(world.store.start_execution(start).await.expect("started"));
        rows.push(execute);
    }
    let durable = world.ended(&rows[0]).await;
    assert_eq!(
        (durable.status, durable.attempt, durable.losses),
        (Status::Completed, 2, 1),
        "{durable:?}"
    );
    let attended = world.ended(&rows[1]).await;
    assert_eq!(attended.status, Status::Failed, "{attended:?}");
    world.end().await;
}
