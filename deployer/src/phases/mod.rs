//! The phases of a deployment: each does one thing, may be begun again by another process, and chooses nothing.

mod health_check;
mod package;
mod provision;
pub(crate) mod relocate;
mod retire;
mod rollback;
mod rollout;
mod shift_traffic;
mod take_down;
mod validate;

pub(crate) use take_down::take_down;

use crate::{
    Config, Deps, chance,
    drive::Driver,
    nodes::{self, Eyes, Means},
};
use domain::{
    Error, Result, Timestamp,
    agent::Isolation,
    deployment::{Kind, Phase},
    id::{AccountId, NodeId, VersionId},
    place::{self, Candidate, Need},
    rollout::{Orders, Rollout, Stage},
};
use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use store::{
    deployments::Deployment, envelopes::Wanted, leases::Lease, nodes::Node, versions::Version,
};
use tokio::sync::Notify;

/// What a phase works on.
pub(crate) struct Job {
    pub deps: Deps,
    pub config: Config,
    pub deployment: Deployment,
    /// `None` for a deletion.
    pub version: Option<Version>,
    pub notes: Notes,
    /// Without it, a deployment's own: it has the word over its agent. With it, orders are written only while it is held.
    pub fence: Option<Lease>,
    eyes: Eyes,
}

impl Job {
    pub fn new(driver: &Driver, deployment: Deployment, version: Option<Version>) -> Self {
        Self {
            deps: driver.deps().clone(),
            config: driver.config().clone(),
            deployment,
            version,
            notes: Notes::default(),
            fence: None,
            eyes: driver.eyes().clone(),
        }
    }

    /// The same about another version of the agent.
    fn about(&self, version: Version) -> Self {
        Self {
            deps: self.deps.clone(),
            config: self.config.clone(),
            deployment: self.deployment.clone(),
            version: Some(version),
            notes: Notes::default(),
            fence: self.fence.clone(),
            eyes: self.eyes.clone(),
        }
    }

    /// Instances between which the version is kept until all callers have moved to it.
    fn bounds(&self) -> Result<(u32, u32)> {
        let (min, max) = provision::bounds(&self.version()?.spec.scaling);
        let rollout = self.notes.rollout();
        if rollout.baseline.is_none() {
            return Ok((min, max));
        }
        let least = rollout.needed(rollout.first_weight());
        Ok((least.min(max), max))
    }

    fn version(&self) -> Result<&Version> {
        self.version
            .as_ref()
            .ok_or_else(|| Error::not_found("the version of this deployment"))
    }

    fn is_delete(&self) -> bool {
        self.deployment.kind == Kind::Delete
    }

    fn means(&self) -> Means<'_> {
        Means {
            deps: &self.deps,
            config: &self.config,
            eyes: &self.eyes,
        }
    }

    /// Writes what a node shall run; gives the order's generation.
    async fn place(&self, account: &AccountId, node: &NodeId, wanted: &Wanted<'_>) -> Result<i64> {
        let store = &self.deps.store;
        let Some(lease) = &self.fence else {
            return store.place(account, node, wanted, store.now()).await;
        };
        let placed = store
            .place_under(lease, (account, node), wanted, store.now())
            .await?;
        placed.ok_or_else(|| {
            Error::conflict("another deployer, or a deployment, decides over this version now")
        })
    }

    fn need(&self) -> Result<Need<'_>> {
        let spec = &self.version()?.spec;
        Ok(Need {
            environment: spec.environment.as_str(),
            memory_mb: u64::from(spec.configuration.memory_limit_mb),
            system: !spec.system.is_empty(),
            // A session's instance is on one node, and its calls go where it is.
            nodes: match spec.isolation {
                Isolation::Agent => place::nodes(provision::bounds(&spec.scaling).0),
                Isolation::Session => 1,
            },
        })
    }

    /// Why there is no node for it.
    fn nowhere(&self, candidates: &[Candidate]) -> Error {
        let open = candidates.iter().filter(|one| one.open);
        let need = self.need();
        let bare: Vec<String> = match need {
            Ok(need) if need.system => open
                .filter_map(|one| Some(format!("{}: {}", one.node_id, one.no_system.as_ref()?)))
                .collect(),
            _ => Vec::new(),
        };
        if !bare.is_empty() {
            return Error::conflict(format!(
                "no executor can install the system packages of dependencies.system ({})",
                bare.join("; ")
            ));
        }
        Error::unavailable(match need {
            Ok(need) if candidates.iter().any(|one| one.open) => format!(
                "no executor takes agents of environment {}; start one with the label {}={0}, or one without",
                need.environment,
                place::ENVIRONMENT
            ),
            Ok(_) | Err(_) => "no executor is alive".to_owned(),
        })
    }

    /// Nodes that shall host the version: where it is already, else where its agent is and there is room, else others.
    async fn hosts(&self) -> Result<Vec<Node>> {
        let version = self.version()?;
        let store = &self.deps.store;
        let placed = store
            .envelopes_of_agent(&version.account, &version.incarnation)
            .await?;
        let nodes = store.nodes().await?;
        let candidates = nodes::candidates(self.means(), &nodes);
        let need = self.need()?;
        let of = |fits: &dyn Fn(&Candidate) -> bool, hosts: Vec<&NodeId>| -> Vec<NodeId> {
            let known = candidates
                .iter()
                .filter(|one| one.stays && fits(one) && hosts.contains(&&one.node_id));
            known.map(|one| one.node_id.clone()).collect()
        };
        let own = placed
            .iter()
            .filter(|placed| placed.envelope.version_id == version.id)
            .map(|placed| &placed.node_id);
        let mut hosting = of(&|_| true, own.collect());
        if hosting.is_empty() {
            // The phases before have built its environment there.
            let chosen = self.notes.hosts();
            hosting = of(&|_| true, chosen.iter().collect());
        }
        if hosting.is_empty() {
            let agents = placed.iter().map(|placed| &placed.node_id);
            hosting = of(&|one| one.has_room(need), agents.collect());
        }
        let chance = chance::of(self.deployment.id.as_str());
        let chosen = place::choose(&candidates, &hosting, need, chance);
        if chosen.is_empty() {
            return Err(self.nowhere(&candidates));
        }
        self.notes.noted().hosts.clone_from(&chosen);
        Ok(nodes
            .into_iter()
            .filter(|node| chosen.contains(&node.id))
            .collect())
    }
}

/// What a running phase says, and what it is told.
#[derive(Default)]
pub(crate) struct Notes {
    noted: Mutex<Noted>,
    /// Something is to be recorded before the phase goes on.
    pub unsaved: Notify,
    saved: Notify,
}

#[derive(Default)]
struct Noted {
    lines: Vec<String>,
    waiting: Option<String>,
    newer: Option<String>,
    packaged: HashSet<(NodeId, VersionId)>,
    hosts: Vec<NodeId>,
    rollout: Rollout,
    is_unsaved: bool,
    orders: Orders,
    since: Timestamp,
    undo: Option<String>,
}

impl Notes {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the record says when a phase begins.
    pub fn begin(&self, rollout: &Rollout, since: Timestamp) {
        let mut noted = self.noted();
        noted.rollout.clone_from(rollout);
        noted.since = since;
        (noted.is_unsaved, noted.undo) = (false, None);
    }

    fn rollout(&self) -> Rollout {
        self.noted().rollout.clone()
    }

    fn change(&self, change: impl FnOnce(&mut Rollout)) {
        let mut noted = self.noted();
        change(&mut noted.rollout);
        noted.is_unsaved = true;
    }

    /// Until what was changed is in the record.
    async fn save(&self) {
        loop {
            let saved = self.saved.notified();
            if !self.noted().is_unsaved {
                return;
            }
            self.unsaved.notify_one();
            saved.await;
        }
    }

    /// For the record, where something has changed; [`Notes::recorded`] follows.
    pub fn changed(&self) -> Option<Rollout> {
        let mut noted = self.noted();
        std::mem::take(&mut noted.is_unsaved).then(|| noted.rollout.clone())
    }

    pub fn recorded(&self) {
        self.saved.notify_waiters();
    }

    pub fn ordered(&self, orders: Orders) {
        self.noted().orders = orders;
    }

    fn orders(&self) -> Orders {
        self.noted().orders.clone()
    }

    /// When the phase began, whoever began it.
    fn since(&self) -> Timestamp {
        self.noted().since
    }

    fn go_back(&self, reason: String) {
        self.noted().undo = Some(reason);
    }

    pub fn goes_back(&self) -> Option<String> {
        self.noted().undo.take()
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

    fn hosts(&self) -> Vec<NodeId> {
        self.noted().hosts.clone()
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
        Phase::Validate => job.config.quick,
        Phase::ShiftTraffic if job.is_delete() => job.config.quick,
        Phase::Canary => job.config.hold,
        // A pause may be long.
        Phase::ShiftTraffic if job.notes.orders().paused.is_some() => job.config.hold,
        Phase::ShiftTraffic => job.config.provision,
        // Draining has a bound of its own, after which it stops what still runs.
        Phase::Retire => job.config.hold + job.config.retire + job.config.quick,
        Phase::Rollback => job.config.retire + job.config.quick,
    }
}

pub(crate) async fn run(phase: Phase, job: &Job) -> Result<()> {
    match phase {
        Phase::Validate => validate::run(job).await,
        Phase::Package => package::run(job).await,
        Phase::Provision => provision::run(job).await,
        Phase::HealthCheck => health_check::run(job).await,
        Phase::Canary => rollout::run(job, Stage::Canary).await,
        Phase::ShiftTraffic if job.is_delete() => shift_traffic::nobody(job).await,
        Phase::ShiftTraffic => rollout::run(job, Stage::Shift).await,
        Phase::Retire if job.is_delete() => retire::run(job).await,
        Phase::Retire => {
            rollout::run(job, Stage::Watch).await?;
            rollout::settle(job).await?;
            retire::run(job).await
        }
        Phase::Rollback => rollback::run(job).await,
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
