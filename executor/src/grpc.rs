//! What others ask this executor: by deployer what should run, by gateway what can be watched.

use crate::{
    environment::Origin,
    host::Node,
    pool::Portrait,
    watch::{Feed, Next},
};
use domain::{
    Error, Result,
    id::{AccountId, AgentId},
    instance::State,
};
use futures::Stream;
use proto::{
    convert::{self, word},
    door::Door,
    status::to_status,
    v1::{self, executor_server},
};
use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};
use store::executions::Key;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, service::Routes};

/// Events on their way to one reader; the feed behind it is bounded on its own.
const AHEAD: usize = 16;
/// What an asker is told of a starting instance's words.
const START_LINES: usize = 200;

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub async fn serve(node: Arc<Node>, door: Door, stop: CancellationToken) {
    let service = executor_server::ExecutorServer::new(Service(node))
        .max_decoding_message_size(64 << 20)
        .max_encoding_message_size(64 << 20);
    let names = [executor_server::SERVICE_NAME];
    let served = door.serve(Routes::new(service), &names, stop);
    if let Err(error) = served.await {
        tracing::error!(error = ?error, "the executor's gRPC server ended");
    }
}

struct Service(Arc<Node>);

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refuse(error: Error) -> Status {
    to_status(&error)
}

#[tonic::async_trait]
impl executor_server::Executor for Service {
    type PackageStream = Streamed<v1::PackageEvent>;
    type WatchStream = Streamed<v1::WatchEvent>;

    async fn package(
        &self,
        request: Request<v1::PackageRequest>,
    ) -> Result<Response<Self::PackageStream>, Status> {
        let asked = request.into_inner();
        let (events, stream) = mpsc::channel(1024);
        let node = Arc::clone(&self.0);
        self.0.tasks.spawn(async move {
            let last = match package(&node, &asked, &events).await {
                Ok(done) => Ok(v1::PackageEvent {
                    event: Some(v1::package_event::Event::Done(done)),
                }),
                Err(error) => Err(refuse(error)),
            };
            // Nobody listens any more: the environment is there for the next who asks.
            events.send(last).await.ok();
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn ensure(
        &self,
        request: Request<v1::EnsureRequest>,
    ) -> Result<Response<v1::EnsureReply>, Status> {
        let asked = request.into_inner();
        let (account, version) = (
            word(&asked.account).map_err(refuse)?,
            word(&asked.version_id).map_err(refuse)?,
        );
        self.0
            .ensure(&account, &version, asked.generation)
            .await
            .map_err(refuse)?;
        Ok(Response::new(v1::EnsureReply {}))
    }

    async fn inspect(
        &self,
        request: Request<v1::InspectRequest>,
    ) -> Result<Response<v1::InspectReply>, Status> {
        let asked = request.into_inner();
        Ok(Response::new(
            inspect(&self.0, &asked).await.map_err(refuse)?,
        ))
    }

    async fn end_session(
        &self,
        request: Request<v1::EndSessionRequest>,
    ) -> Result<Response<v1::EndSessionReply>, Status> {
        let asked = request.into_inner();
        let (account, agent_id): (AccountId, AgentId) = (
            word(&asked.account).map_err(refuse)?,
            word(&asked.agent_id).map_err(refuse)?,
        );
        let node = &self.0;
        let mut instances = Vec::new();
        for pool in node.pools() {
            let version = &pool.version;
            if version.account != account || version.spec.agent_id != agent_id {
                continue;
            }
            for instance in pool.end_session(&asked.session_id).await {
                instances.push(v1::EndedInstance {
                    instance_id: instance.id.to_string(),
                    node_id: node.config.node_id.to_string(),
                    pid: i64::from(instance.pid),
                    processes_left: u32::try_from(instance.processes()).unwrap_or(u32::MAX),
                });
            }
        }
        Ok(Response::new(v1::EndSessionReply { instances }))
    }

    async fn watch(
        &self,
        request: Request<v1::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let asked = request.into_inner();
        let (account, agent_id) = (
            word(&asked.account).map_err(refuse)?,
            word(&asked.agent_id).map_err(refuse)?,
        );
        let feed = if asked.execution_id.is_empty() {
            self.0.hub.agent(&account, &agent_id)
        } else {
            let key = Key {
                account,
                agent_id,
                id: word(&asked.execution_id).map_err(refuse)?,
            };
            watched(&self.0, &key).await?
        };
        let (events, stream) = mpsc::channel(AHEAD);
        let stop = self.0.stop.clone();
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = events.closed() => {}
                () = forward(&feed, asked.after, &events) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// The feed of an execution that runs here, or ended a moment ago while it was watched.
async fn watched(node: &Node, key: &Key) -> Result<Arc<Feed>, Status> {
    if let Some(feed) = node.hub.find(key) {
        return Ok(feed);
    }
    let gone = || Status::not_found("the execution is not running here");
    let handle = node.runner.held.get(key).ok_or_else(gone)?;
    let feed = node.hub.execution(key);
    // What was said before anybody watched is in the rows when the watcher reads them.
    handle.keep().await;
    node.store.flush().await;
    if handle.is_stopped() || node.runner.held.get(key).is_none() {
        // It ended meanwhile and may not have seen the feed, which then would never end.
        node.hub.forget(key);
        return Err(gone());
    }
    Ok(feed)
}

async fn forward(
    feed: &Feed,
    mut after: u64,
    events: &mpsc::Sender<Result<v1::WatchEvent, Status>>,
) {
    loop {
        let event = match feed.next(after).await {
            Next::Event(event) => *event,
            Next::Lost(lost) => v1::WatchEvent {
                seq: after + lost,
                execution_id: String::new(),
                place: 0,
                event: Some(v1::watch_event::Event::Lost(lost)),
            },
            Next::End => return,
        };
        after = event.seq;
        if events.send(Ok(event)).await.is_err() {
            return;
        }
    }
}

async fn package(
    node: &Node,
    asked: &v1::PackageRequest,
    events: &mpsc::Sender<Result<v1::PackageEvent, Status>>,
) -> Result<v1::PackageDone> {
    let (account, id) = (word(&asked.account)?, word(&asked.version_id)?);
    let version = node
        .store
        .version(&account, &id)
        .await?
        .ok_or_else(|| Error::not_found(format!("version {id}")))?;
    let kept = node.store.lock(&account, &id).await?;
    let (known, system) = match kept {
        Some(kept) => (Some(kept.lock), Some(kept.system)),
        None => (told(&asked.lock), told(&asked.system)),
    };
    let missed = Mutex::new(0u32);
    let say = |line: String| {
        let event = v1::PackageEvent {
            event: Some(v1::package_event::Event::Log(line)),
        };
        if events.try_send(Ok(event)).is_err() {
            *missed.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        }
    };
    let laid = node
        .system
        .package(&version.spec.system, system, &say)
        .await?;
    let built = node
        .environments
        .package(&version.spec.python, known, &say)
        .await?;
    Ok(v1::PackageDone {
        lock: built.lock,
        digest: built.digest,
        reused: built.origin == Origin::There,
        fetched: built.origin == Origin::Fetched,
        system: laid.lock,
    })
}

fn told(lock: &str) -> Option<String> {
    Some(lock.to_owned()).filter(|lock| !lock.is_empty())
}

async fn inspect(node: &Node, asked: &v1::InspectRequest) -> Result<v1::InspectReply> {
    let (account, id) = (word(&asked.account)?, word(&asked.version_id)?);
    let Some(pool) = node
        .pool(&id)
        .filter(|pool| pool.version.account == account)
    else {
        return Ok(v1::InspectReply {
            state: domain::envelope::State::Retired.as_str().to_owned(),
            ..v1::InspectReply::default()
        });
    };
    let picture = pool.picture();
    let mut instances: Vec<v1::Instance> = picture.instances.iter().map(portrait).collect();
    instances.extend((0..picture.starting).map(|_| v1::Instance {
        state: State::Starting.as_str().to_owned(),
        ..v1::Instance::default()
    }));
    let mut waiting = picture.waiting;
    if picture.envelope.state == domain::envelope::State::Retiring && !pool.hands_over() {
        // What still lies in the lanes is waiting as well, though nobody here has it in hand.
        let open = node.store.open_executions_of_version(&account, &id).await?;
        waiting = waiting.max(
            u32::try_from(open)
                .unwrap_or(u32::MAX)
                .saturating_sub(picture.in_flight),
        );
    }
    Ok(v1::InspectReply {
        state: picture.envelope.state.as_str().to_owned(),
        instances,
        in_flight: picture.in_flight,
        waiting,
        failure: picture
            .failure
            .as_ref()
            .and_then(|failed| serde_json::to_vec(&failed.failure).ok())
            .unwrap_or_default()
            .into(),
        logs: picture
            .failure
            .iter()
            .flat_map(|failed| failed.lines.iter().take(START_LINES).map(convert::log_line))
            .collect(),
        failures: picture.failures,
    })
}

fn portrait(portrait: &Portrait) -> v1::Instance {
    let instance = &portrait.instance;
    v1::Instance {
        instance_id: instance.id.to_string(),
        state: portrait.state.as_str().to_owned(),
        pid: i64::from(instance.pid),
        in_flight: portrait.in_flight,
        created_at_ms: instance.created_at.0,
        ready_at_ms: Some(portrait.ready_at.0),
        memory_mb: instance.memory().current as f64 / (1024.0 * 1024.0),
        cpu_ms: instance.cpu_us() as f64 / 1000.0,
    }
}
