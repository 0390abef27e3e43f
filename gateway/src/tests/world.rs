//! One gateway with an own store, bus and port; the test plays deployer and executor. Dropped, everything of it is gone.

use crate::{
    Config, Deps, Gateway, bind,
    door::{Caller, Who},
    key,
};
use bus::{Bus, Limits, Message, Subject};
use domain::{
    Timestamp,
    execution::{Outcome, Status, Usage},
    id::{AccountId, AgentId, KeyId, NodeId, VersionId},
    key::{Key, Permission},
    traffic::Traffic,
};
use proto::{
    convert::{Execute, Reply},
    peer::Peers,
    v1,
};
use serde_json::{Value, json, value::RawValue};
use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc};
use store::{Secrets, Store, envelopes::Wanted};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A caller that may do everything.
pub fn somebody() -> Who {
    Who::new(Caller {
        key: Arc::new(Key {
            id: KeyId::from_uuid(uuid::Uuid::nil()),
            account: AccountId::default_account(),
            permissions: Key::all_permissions(),
            agents: None,
            environments: None,
            limits: domain::limit::Limits::default(),
            expires_at: None,
            rotate_at: None,
            auto_rotation: false,
            replaced: false,
        }),
        request_id: "req_test".to_owned(),
        trace: None,
        remote: None,
    })
}

pub struct World {
    pub store: Store,
    pub bus: Bus,
    pub peers: Peers,
    pub address: SocketAddr,
    pub readiness: crate::Readiness,
    /// With all permissions.
    pub key: String,
    pub stop: CancellationToken,
    pub tasks: JoinSet<()>,
    client: reqwest::Client,
    directory: PathBuf,
    _stop: DropGuard,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or("")
    }

    pub fn faults(&self) -> Vec<&str> {
        let listed = self.body["error"]["details"]["validation_errors"].as_array();
        listed
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
    }
}

/// The executor that hosts every version of these worlds.
pub fn node() -> NodeId {
    NodeId::from_uuid(uuid::Uuid::from_u128(1))
}

impl World {
    pub async fn new() -> Self {
        Self::with(Config::default()).await
    }

    pub async fn with(config: Config) -> Self {
        let directory = std::env::temp_dir().join(format!(
            "phalanx-gateway-{}",
            uuid::Uuid::new_v4().as_simple()
        ));
        std::fs::create_dir_all(&directory).expect("a directory");
        let rows = store::Config::Sqlite {
            path: directory.join("rows.db"),
        };
        let store = Store::open(&rows, Secrets::new(&[7; 32]).expect("a master key"))
            .await
            .expect("a store");
        let key = key::first_key(&store, "test", None)
            .await
            .expect("rows")
            .expect("an empty store");
        let (bus, peers) = (Bus::memory(Limits::default()), Peers::default());
        let gateway = gateway(config, store.clone(), (bus.clone(), peers.clone())).await;
        let (address, readiness, stop) = (
            gateway.address(),
            gateway.readiness(),
            CancellationToken::new(),
        );
        let mut tasks = JoinSet::new();
        let token = stop.clone();
        tasks.spawn(async move { gateway.serve(token).await.expect("served") });
        Self {
            store,
            bus,
            peers,
            address,
            readiness,
            key,
            _stop: stop.clone().drop_guard(),
            stop,
            tasks,
            client: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .expect("a client"),
            directory,
        }
    }

    /// Another gateway over the same rows, at its address. It hears what is told on `bus` only.
    pub async fn second(&mut self, bus: Bus) -> String {
        let gateway = gateway(
            Config::default(),
            self.store.clone(),
            (bus, self.peers.clone()),
        )
        .await;
        let (address, token) = (gateway.address(), self.stop.clone());
        self.tasks
            .spawn(async move { gateway.serve(token).await.expect("served") });
        format!("http://{address}")
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let method = method.parse().expect("a method");
        let url = if path.starts_with("http") {
            path.to_owned()
        } else {
            format!("http://{}{path}", self.address)
        };
        self.client.request(method, url)
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.expect("a body");
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer {
            status,
            headers,
            body,
        }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path).bearer_auth(&self.key))
            .await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request("POST", path).bearer_auth(&self.key).json(body))
            .await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request("DELETE", path).bearer_auth(&self.key))
            .await
    }

    pub async fn deploy(&self, agent: &str, version: &str) -> Answer {
        self.post("/api/v1/agents/deploy", &deploy_body(agent, version))
            .await
    }

    /// Deploys, and then does what a deployer does at last: all traffic to the version, and everybody told.
    pub async fn serving(&self, agent: &str) -> VersionId {
        let deployed = self.deploy(agent, "1.0.0").await;
        assert_eq!(deployed.status, 200, "{deployed:?}");
        self.route(agent, "1.0.0").await
    }

    pub async fn route(&self, agent: &str, version: &str) -> VersionId {
        let (account, agent): (_, AgentId) =
            (AccountId::default_account(), agent.parse().expect("an id"));
        let row = self
            .store
            .agent(&account, &agent)
            .await
            .expect("rows")
            .expect("an agent");
        let version = version.parse().expect("a version");
        let found = self
            .store
            .version_named(&row.incarnation, &version)
            .await
            .expect("rows")
            .expect("a version");
        let wanted = Wanted {
            version_id: &found.id,
            state: domain::envelope::State::Serving,
            min_instances: 1,
            max_instances: 1,
        };
        self.store
            .place(&account, &node(), &wanted, Timestamp(1))
            .await
            .expect("rows");
        let traffic = Traffic::all_to(found.id.clone(), version);
        self.store
            .set_traffic(&account, &agent, &row.incarnation, &traffic, Timestamp(1))
            .await
            .expect("rows");
        let changed = v1::TrafficChanged {
            account: account.to_string(),
            agent_id: agent.to_string(),
        };
        self.bus
            .tell(&account, v1::event::Event::TrafficChanged(changed))
            .await
            .expect("told");
        found.id
    }

    /// Drives the agent's newest deployment to this end.
    pub async fn end_deployment(&self, id: &str, status: domain::deployment::Status) {
        let account = AccountId::default_account();
        let id = id.parse().expect("an id");
        let row = self
            .store
            .deployment(&account, &id)
            .await
            .expect("rows")
            .expect("a deployment");
        let mut state = row.state.clone();
        state.status = status;
        state.reason = Some("for the test".to_owned());
        state.phases[0].status = domain::deployment::PhaseStatus::Failed;
        state.phases[0].logs = vec!["no such package".to_owned()];
        assert!(
            self.store
                .advance_deployment(&account, &id, row.rev, &state, Timestamp(2))
                .await
                .expect("rows")
        );
    }

    /// Answers the sync executions of a version.
    pub async fn execute_by(
        &mut self,
        version: &VersionId,
        answer: impl Fn(&Execute) -> Option<Reply> + Send + 'static,
    ) {
        let subject = Subject::run(
            AccountId::default_account().as_str(),
            version.as_str(),
            node().as_str(),
        );
        let mut requests = self
            .bus
            .serve(&subject, Some("executors"))
            .await
            .expect("served");
        let store = self.store.clone();
        self.tasks.spawn(async move {
            while let Some(mut request) = requests.next().await {
                let execute = Execute::decode(std::mem::take(&mut request.message).payload)
                    .expect("an execute");
                let Some(reply) = answer(&execute) else {
                    continue;
                };
                if let Reply::Outcome(outcome) | Reply::OutcomeByReference(outcome) = &reply {
                    assert!(
                        record(&store, &execute, end(&execute, outcome)).await,
                        "the row was not there first"
                    );
                }
                request
                    .respond(Message::new(reply.encode().expect("encodes")))
                    .await
                    .expect("answered");
            }
        });
    }

    /// A key that holds just these permissions, for these agents.
    pub async fn key_with(&self, permissions: &[Permission], agents: Option<&[&str]>) -> String {
        self.key_of(AccountId::default_account(), permissions, agents)
            .await
    }

    pub async fn key_of(
        &self,
        account: AccountId,
        permissions: &[Permission],
        agents: Option<&[&str]>,
    ) -> String {
        let wanted = |new: &mut store::keys::New| {
            new.account = account;
            new.permissions = permissions.iter().copied().collect();
            new.agents = agents.map(|agents| {
                let ids = agents.iter().map(|id| id.parse().expect("an id"));
                ids.collect::<BTreeSet<AgentId>>()
            });
        };
        self.key_like(wanted).await
    }

    /// A key that is as `wanted` makes it; by itself it may do everything in the account `default`.
    pub async fn key_like(&self, wanted: impl FnOnce(&mut store::keys::New)) -> String {
        let account = AccountId::default_account();
        let secret = key::mint("test", &account);
        let mut new = store::keys::New::lasting(
            (KeyId::from_uuid(uuid::Uuid::now_v7()), account),
            self.store.hash_key(&secret),
            "of a test".to_owned(),
            Key::all_permissions(),
            Timestamp(1),
        );
        wanted(&mut new);
        self.store.insert_key(&new).await.expect("rows");
        secret
    }
}

async fn gateway(config: Config, store: Store, (bus, peers): (Bus, Peers)) -> Gateway {
    let deps = Deps {
        store,
        bus,
        peers,
        monitors: vec!["memory:monitor".to_owned()],
    };
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    bind(Config { listen, ..config }, deps)
        .await
        .expect("a gateway")
}

impl Drop for World {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.directory).ok();
    }
}

pub fn deploy_body(agent: &str, version: &str) -> Value {
    json!({
        "agent_metadata": {"agent_id": agent, "name": "An agent", "version": version, "tags": ["a", "b"]},
        "agent_code": {"source_code": "ZGVmIGhhbmRsZXIoaW5wdXQpOiByZXR1cm4gaW5wdXQK", "entrypoint": "handler"},
        "deployment_config": {"environment": "dev", "security": {"environment_variables": {"TOKEN": "hunter2"}}}
    })
}

/// The input as the output.
pub fn echo(execute: &Execute) -> Reply {
    Reply::Outcome(Box::new(Outcome {
        status: Status::Completed,
        output: execute
            .input
            .clone()
            .or_else(|| RawValue::from_string("\"by reference\"".to_owned()).ok()),
        error: None,
        attempt: 1,
        accepted_at: execute.accepted_at,
        started_at: Some(execute.accepted_at),
        completed_at: Timestamp(execute.accepted_at.0 + 1),
        duration_ms: 1.0,
        queue_ms: 0.5,
        waterfall: None,
        usage: Usage::default(),
        instance_id: None,
        logs: Vec::new(),
    }))
}

/// As an executor does it: where the row is its own to write, with the row.
pub async fn record(store: &Store, execute: &Execute, end: store::executions::End) -> bool {
    let recorded = match &execute.input {
        Some(input) if !execute.has_row => {
            let new = store::executions::New {
                key: end.key.clone(),
                version_id: execute.version_id.clone(),
                mode: execute.options.mode,
                priority: execute.options.priority,
                body_digest: None,
                caller: execute.caller.clone(),
                options: execute.options.clone(),
                input: input.clone(),
                accepted_at: execute.accepted_at,
            };
            store.record_execution(new, end).await
        }
        _ => store.end_execution(end).await,
    };
    recorded.expect("rows")
}

pub fn end(execute: &Execute, outcome: &Outcome) -> store::executions::End {
    store::executions::End {
        key: store::executions::Key {
            account: execute.account.clone(),
            agent_id: execute.agent_id.clone(),
            id: execute.execution_id.clone(),
        },
        attempt: outcome.attempt,
        status: outcome.status,
        due_at: outcome.completed_at,
        started_at: outcome.started_at,
        completed_at: Some(outcome.completed_at),
        attempts: Vec::new(),
        instance_id: None,
        output: outcome.output.clone(),
        error: outcome.error.clone(),
        duration_ms: outcome.duration_ms,
        queue_ms: outcome.queue_ms,
        waterfall: None,
        recording: None,
        usage: outcome.usage.clone(),
    }
}
