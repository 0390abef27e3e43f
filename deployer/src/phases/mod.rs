//! The phases of a deployment: each does one thing, may be begun again by another process, and chooses nothing.

mod health_check;
mod package;
mod provision;
mod retire;
mod shift_traffic;
mod take_down;
mod validate;

pub(crate) use take_down::take_down;

use crate::{Config, Deps, nodes};
use domain::{
    Error, Result,
    deployment::{Kind, Phase},
    id::{NodeId, VersionId},
    place,
};
use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use store::{deployments::Deployment, nodes::Node, versions::Version};

/// What a phase works on.
pub(crate) struct Job {
    pub deps: Deps,
    pub config: Config,
    pub deployment: Deployment,
    /// `None` for a deletion.
    pub version: Option<Version>,
    pub notes: Notes,
}

impl Job {
    fn version(&self) -> Result<&Version> {
        self.version
            .as_ref()
            .ok_or_else(|| Error::not_found("the version of this deployment"))
    }

    fn is_delete(&self) -> bool {
        self.deployment.kind == Kind::Delete
    }

    fn means(&self) -> (&Deps, &Config) {
        (&self.deps, &self.config)
    }

    /// Nodes that shall host the version: where it is already, else where its agent is and there is room, else the roomiest.
    async fn hosts(&self) -> Result<Vec<Node>> {
        let version = self.version()?;
        let store = &self.deps.store;
        let placed = store
            .envelopes_of_agent(&version.account, &version.incarnation)
            .await?;
        let nodes = store.nodes().await?;
        let free = |node: &Node| {
            node.capacity
                .memory_mb
                .saturating_sub(node.capacity.promised_mb)
        };
        let candidates: Vec<place::Candidate> = nodes
            .iter()
            .map(|node| place::Candidate {
                node_id: node.id.clone(),
                alive: nodes::is_alive(node, &self.config, store.now()),
                free_mb: free(node),
            })
            .collect();
        let own: Vec<NodeId> = placed
            .iter()
            .filter(|placed| placed.envelope.version_id == version.id)
            .map(|placed| placed.node_id.clone())
            .collect();
        let need = u64::from(version.spec.configuration.memory_limit_mb);
        let roomy = |id: &NodeId| {
            nodes
                .iter()
                .any(|node| node.id == *id && free(node) >= need)
        };
        let agents: Vec<NodeId> = placed
            .iter()
            .map(|placed| placed.node_id.clone())
            .filter(roomy)
            .collect();
        let hosting = if candidates
            .iter()
            .any(|c| c.alive && own.contains(&c.node_id))
        {
            own
        } else {
            agents
        };
        let chosen = place::choose(&candidates, &hosting);
        if chosen.is_empty() {
            return Err(Error::unavailable("no executor is alive"));
        }
        Ok(nodes
            .into_iter()
            .filter(|node| chosen.contains(&node.id))
            .collect())
    }
}

/// What a running phase says, and what it is told.
#[derive(Default)]
pub(crate) struct Notes(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    lines: Vec<String>,
    waiting: Option<String>,
    newer: Option<String>,
    packaged: HashSet<(NodeId, VersionId)>,
}

impl Notes {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn say(&self, line: impl Into<String>) {
        self.noted().lines.push(line.into());
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.noted().lines)
    }

    /// For the reason, should the deadline pass.
    pub fn wait_for(&self, what: String) {
        self.noted().waiting = Some(what);
    }

    pub fn waiting(&self) -> Option<String> {
        self.noted().waiting.clone()
    }

    pub fn overtaken_by(&self, newer: Option<String>) {
        self.noted().newer = newer;
    }

    pub fn newer(&self) -> Option<String> {
        self.noted().newer.clone()
    }
}

pub(crate) fn limit(phase: Phase, job: &Job) -> Duration {
    match phase {
        Phase::Package => job.config.package,
        Phase::Provision | Phase::HealthCheck => job.config.provision,
        Phase::Validate | Phase::ShiftTraffic => job.config.quick,
        // It has a bound of its own, after which it stops what still runs.
        Phase::Retire => job.config.retire + job.config.quick,
    }
}

pub(crate) async fn run(phase: Phase, job: &Job) -> Result<()> {
    match phase {
        Phase::Validate => validate::run(job).await,
        Phase::Package => package::run(job).await,
        Phase::Provision => provision::run(job).await,
        Phase::HealthCheck => health_check::run(job).await,
        Phase::ShiftTraffic => shift_traffic::run(job).await,
        Phase::Retire => retire::run(job).await,
    }
}

/// Waits between two looks: short at first, for what is quick, then longer.
struct Pace(Duration);

impl Pace {
    const LONGEST: Duration = Duration::from_millis(250);

    fn new() -> Self {
        Self(Duration::from_millis(5))
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 3 / 2).min(Self::LONGEST);
    }
}
