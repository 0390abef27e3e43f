//! Calls to executors: bounded, and with errors that say which executor.

use crate::{Config, Deps};
use domain::{
    Error, Kind, Result, Timestamp,
    id::{AccountId, NodeId, VersionId},
    liveness::{Liveness, Sight},
    place::{self, Candidate},
};
use proto::{
    status::from_status,
    trace::Calls,
    v1::{self, executor_client::ExecutorClient},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use store::nodes::Node;
use tonic::{Code, Status, transport::Channel};

/// How often a node that works for long is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// What this process can say of executors; one for all who judge here.
#[derive(Clone, Default)]
pub(crate) struct Eyes(Arc<Mutex<Sight>>);

impl Eyes {
    /// The rows could be written and read at `at`, or could not.
    pub fn note(&self, good: bool, at: Timestamp) {
        let mut sight = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if good {
            sight.saw(at);
        } else {
            sight.missed();
        }
    }

    fn sight(&self) -> Sight {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every call and every judgement takes.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub deps: &'a Deps,
    pub config: &'a Config,
    pub eyes: &'a Eyes,
}

/// The node unless it is lost.
pub(crate) async fn alive(means: Means<'_>, id: &NodeId) -> Result<Option<Node>> {
    let nodes = means.deps.store.nodes().await?;
    let (sight, now) = (means.eyes.sight(), means.deps.store.now());
    Ok(nodes
        .into_iter()
        .find(|node| node.id == *id && node.judge(sight, now) != Liveness::Lost))
}

/// What placement looks at.
pub(crate) fn candidates(means: Means<'_>, nodes: &[Node]) -> Vec<Candidate> {
    let (sight, now) = (means.eyes.sight(), means.deps.store.now());
    let candidate = |node: &Node| {
        let (capacity, liveness) = (&node.capacity, node.judge(sight, now));
        Candidate {
            node_id: node.id.clone(),
            open: liveness == Liveness::Alive && !capacity.draining,
            stays: liveness != Liveness::Lost && !capacity.draining,
            environment: capacity.labels.get(place::ENVIRONMENT).cloned(),
            no_system: (capacity.system_packages != place::OVERLAY)
                .then(|| capacity.system_packages.clone()),
            memory_mb: capacity.memory_mb,
            promised_mb: capacity.promised_mb,
            cpu: capacity.cpu.unwrap_or(0.0),
            instances: capacity.instances,
        }
    };
    nodes.iter().map(candidate).collect()
}

fn client(deps: &Deps, node: &Node) -> Result<ExecutorClient<Calls<Channel>>> {
    Ok(ExecutorClient::new(deps.peers.channel(&node.address)?))
}

/// Our own executors never answer with `Unknown`: that is the connection's word.
fn said(node: &Node, status: &Status) -> Error {
    if status.code() == Code::Unknown {
        return Error::unavailable(format!("executor {} does not answer", node.id))
            .because(status.clone());
    }
    let error = from_status(status);
    match error.kind {
        Kind::Unavailable | Kind::Timeout => Error::new(
            error.kind,
            format!("executor {}: {}", node.id, error.message),
        ),
        _ => error,
    }
}

async fn bounded<T>(
    node: &Node,
    config: &Config,
    call: impl Future<Output = std::result::Result<tonic::Response<T>, Status>>,
) -> Result<T> {
    match tokio::time::timeout(config.call, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(said(node, &status)),
        Err(_) => Err(Error::new(
            Kind::Timeout,
            format!(
                "executor {} did not answer within {:?}",
                node.id, config.call
            ),
        )),
    }
}

pub(crate) async fn ensure(
    means: Means<'_>,
    node: &Node,
    account: &AccountId,
    version: &VersionId,
    generation: i64,
) -> Result<()> {
    let request = v1::EnsureRequest {
        account: account.to_string(),
        version_id: version.to_string(),
        generation,
    };
    bounded(
        node,
        means.config,
        client(means.deps, node)?.ensure(request),
    )
    .await?;
    Ok(())
}

pub(crate) async fn inspect(
    means: Means<'_>,
    node: &Node,
    account: &AccountId,
    version: &VersionId,
) -> Result<v1::InspectReply> {
    let request = v1::InspectRequest {
        account: account.to_string(),
        version_id: version.to_string(),
    };
    bounded(
        node,
        means.config,
        client(means.deps, node)?.inspect(request),
    )
    .await
}

/// Builds a version's environment on a node; `log` hears what the installer says. Gives up when the node dies.
pub(crate) async fn package(
    means: Means<'_>,
    node: &Node,
    request: v1::PackageRequest,
    log: impl Fn(String),
) -> Result<v1::PackageDone> {
    let building = async {
        let answer = client(means.deps, node)?
            .package(request)
            .await
            .map_err(|status| said(node, &status))?;
        let mut events = answer.into_inner();
        while let Some(event) = events
            .message()
            .await
            .map_err(|status| said(node, &status))?
        {
            match event.event {
                Some(v1::package_event::Event::Log(line)) => log(line),
                Some(v1::package_event::Event::Done(done)) => return Ok(done),
                None => {}
            }
        }
        Err(Error::unavailable(format!(
            "executor {} stopped before the environment was built",
            node.id
        )))
    };
    let mut building = std::pin::pin!(building);
    loop {
        if let Ok(done) = tokio::time::timeout(LOOK_EVERY, &mut building).await {
            return done;
        }
        let same = alive(means, &node.id).await?;
        if same.is_none_or(|same| same.boot_id != node.boot_id) {
            return Err(Error::unavailable(format!(
                "executor {} died before the environment was built",
                node.id
            )));
        }
    }
}
