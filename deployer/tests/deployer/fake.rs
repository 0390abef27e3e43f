//! An executor that runs nothing: it keeps what it was told, and answers as a case scripts it.

use domain::{
    envelope::{Envelope, State},
    execution::{Failure, FailureCode, FailurePhase},
    id::{NodeId, VersionId},
};
use proto::{
    door::Door,
    v1::{self, executor_server::Executor},
};
use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use store::Store;
use tokio::{sync::watch, task::JoinSet};
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, service::Routes};

/// What one version does.
#[derive(Debug, Clone, Default)]
pub struct Script {
    pub import_fails: bool,
    pub never_ready: bool,
    pub in_flight: u32,
    pub package_fails: bool,
    /// Calls that answer `UNAVAILABLE` before the first that works.
    pub away: u32,
}

#[derive(Debug, Default)]
struct Told {
    scripts: HashMap<VersionId, Script>,
    envelopes: HashMap<VersionId, Envelope>,
    packages: u32,
    locks: Vec<String>,
}

#[derive(Clone)]
pub struct Fake {
    store: Store,
    node: NodeId,
    told: Arc<Mutex<Told>>,
    /// The call that hangs, and those that were reached.
    hold: watch::Sender<Option<&'static str>>,
    reached: watch::Sender<Option<&'static str>>,
    servers: Arc<Mutex<JoinSet<()>>>,
}

impl Fake {
    pub fn new(store: Store, node: NodeId) -> Self {
        Self {
            store,
            node,
            told: Arc::default(),
            hold: watch::Sender::new(None),
            reached: watch::Sender::new(None),
            servers: Arc::default(),
        }
    }

    /// One more door to it.
    pub fn serve(&self, door: Door) {
        let service = v1::executor_server::ExecutorServer::new(Self {
            servers: Arc::default(),
            ..self.clone()
        });
        let serve = door.serve(Routes::new(service), &[], CancellationToken::new());
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        servers.spawn(async move {
            serve.await.expect("the fake executor serves");
        });
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn script(&self, version: &VersionId, script: Script) {
        self.told().scripts.insert(version.clone(), script);
    }

    pub fn state(&self, version: &VersionId) -> Option<State> {
        self.told().envelopes.get(version).map(|one| one.state)
    }

    pub fn packages(&self) -> u32 {
        self.told().packages
    }

    pub fn locks(&self) -> Vec<String> {
        self.told().locks.clone()
    }

    /// From now on `call` hangs.
    pub fn hold(&self, call: Option<&'static str>) {
        self.hold.send_replace(call);
    }

    pub async fn reached(&self, call: &'static str) {
        self.reached_within(call, Duration::from_secs(10)).await;
    }

    /// It has been told of `state`.
    pub async fn reached_state(&self, version: &VersionId, state: State) {
        let told = async {
            while self.state(version) != Some(state) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(25), told)
            .await
            .unwrap_or_else(|_| panic!("not told of {state}; it is {:?}", self.state(version)));
    }

    pub async fn reached_within(&self, call: &'static str, within: Duration) {
        let mut reached = self.reached.subscribe();
        let waited = reached.wait_for(|at| *at == Some(call));
        tokio::time::timeout(within, waited)
            .await
            .unwrap_or_else(|_| panic!("{call} was not reached"))
            .expect("the sender is here");
    }

    async fn enter(&self, call: &'static str, version: &VersionId) -> Result<Script, Status> {
        if *self.hold.borrow() == Some(call) {
            self.reached.send_replace(Some(call));
            let mut hold = self.hold.subscribe();
            hold.wait_for(|held| *held != Some(call)).await.ok();
        }
        let mut told = self.told();
        let script = told.scripts.entry(version.clone()).or_default();
        if script.away > 0 {
            script.away -= 1;
            return Err(Status::unavailable("restarting"));
        }
        Ok(script.clone())
    }
}

fn version(text: &str) -> Result<VersionId, Status> {
    text.parse().map_err(Status::invalid_argument)
}

type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Executor for Fake {
    type PackageStream = Events<v1::PackageEvent>;
    type WatchStream = Events<v1::WatchEvent>;

    async fn package(
        &self,
        request: Request<v1::PackageRequest>,
    ) -> Result<Response<Self::PackageStream>, Status> {
        use v1::package_event::Event;
        let request = request.into_inner();
        let script = self
            .enter("package", &version(&request.version_id)?)
            .await?;
        {
            let mut told = self.told();
            told.packages += 1;
            told.locks.push(request.lock.clone());
        }
        let event = |event| Ok(v1::PackageEvent { event: Some(event) });
        let mut events = vec![event(Event::Log("Collecting nothing".into()))];
        events.push(if script.package_fails {
            Err(Status::invalid_argument(
                "No matching distribution found for nonesuch",
            ))
        } else {
            let done = v1::PackageDone {
                system: request.system,
                lock: "the lock".into(),
                digest: "d".repeat(64),
                reused: false,
                fetched: false,
            };
            event(Event::Done(done))
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    async fn ensure(
        &self,
        request: Request<v1::EnsureRequest>,
    ) -> Result<Response<v1::EnsureReply>, Status> {
        let request = request.into_inner();
        let version = version(&request.version_id)?;
        self.enter("ensure", &version).await?;
        let account = request.account.parse().map_err(Status::invalid_argument)?;
        let placed = self.store.envelope(&account, &self.node, &version).await;
        let placed = placed
            .map_err(|error| proto::status::to_status(&error))?
            .ok_or_else(|| Status::not_found("no envelope"))?;
        let mut told = self.told();
        let known = told.envelopes.get(&version).map_or(0, |one| one.generation);
        if request.generation < known {
            return Err(Status::aborted("an older generation"));
        }
        told.envelopes.insert(version, placed.envelope);
        Ok(Response::new(v1::EnsureReply {}))
    }

    async fn end_session(
        &self,
        _: Request<v1::EndSessionRequest>,
    ) -> Result<Response<v1::EndSessionReply>, Status> {
        Err(Status::unimplemented("no deployer ends sessions"))
    }

    async fn inspect(
        &self,
        request: Request<v1::InspectRequest>,
    ) -> Result<Response<v1::InspectReply>, Status> {
        let version = version(&request.into_inner().version_id)?;
        let least = self
            .told()
            .envelopes
            .get(&version)
            .map(|one| one.min_instances);
        let state = self.state(&version).unwrap_or(State::Retired);
        let call = if state == State::Retiring {
            "drain"
        } else {
            "inspect"
        };
        let script = self.enter(call, &version).await?;
        let serving = state == State::Serving && !script.import_fails && !script.never_ready;
        let mut failure = Failure::new(
            FailureCode::InitFailed,
            FailurePhase::Import,
            "No module named 'nonesuch'",
        );
        failure.exception_type = Some("ModuleNotFoundError".into());
        failure.traceback =
            Some("Traceback (most recent call last):\n  File \"agent.py\", line 1".into());
        let instance = v1::Instance {
            instance_id: "inst_1".into(),
            state: if serving { "ready" } else { "starting" }.into(),
            pid: 1,
            ..v1::Instance::default()
        };
        Ok(Response::new(v1::InspectReply {
            state: state.as_str().into(),
            instances: match state {
                State::Retired => Vec::new(),
                State::Serving | State::Retiring => {
                    vec![instance; least.unwrap_or(0).max(1) as usize]
                }
            },
            in_flight: if state == State::Retired {
                0
            } else {
                script.in_flight
            },
            waiting: 0,
            failure: if script.import_fails {
                serde_json::to_vec(&failure).expect("JSON").into()
            } else {
                Default::default()
            },
            logs: vec![v1::LogLine {
                timestamp_ms: 1,
                level: "INFO".into(),
                message: "printed at import".into(),
                context: Default::default(),
            }],
            failures: u32::from(script.import_fails),
        }))
    }

    async fn watch(
        &self,
        _: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("nobody watches here"))
    }
}
