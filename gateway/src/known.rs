//! Agents as executing them needs them: remembered for seconds, dropped by the event that changes them.

use crate::{
    cache::{Cache, Life},
    error::{Answer, Refusal},
};
use domain::{
    Error, Result,
    agent::Environment,
    deployment::{Kind, Status},
    id::{AccountId, AgentId, NodeId, VersionId},
    limit::Limits,
    traffic::{Route, Traffic},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use store::{Store, deployments::Deployment};

#[derive(Debug)]
pub struct Agent {
    pub incarnation: String,
    pub limits: Limits,
    traffic: Traffic,
    /// Beside the routes: what an execution takes from its version's configuration, and who runs it.
    timeouts_s: Vec<u32>,
    hosts: Vec<Arc<[NodeId]>>,
    /// Where nothing answers: the newest deployment.
    newest: Option<Deployment>,
}

/// The version that an execution goes to.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    pub version_id: &'a VersionId,
    pub version: &'a semver::Version,
    pub timeout_s: u32,
    pub hosts: &'a Arc<[NodeId]>,
}

type Key = (AccountId, AgentId);

pub struct Agents {
    serving: Cache<Key, Arc<Agent>>,
    /// Where agents live and lived: for keys that are limited to environments.
    places: Cache<Key, Arc<BTreeSet<Environment>>>,
}

const ANSWERING: Life = Life {
    fresh: Duration::from_secs(5),
    kept: Duration::from_secs(10),
};
const SILENT: Life = Life {
    fresh: Duration::from_millis(500),
    kept: Duration::from_millis(500),
};

impl Default for Agents {
    fn default() -> Self {
        Self {
            serving: Cache::new(20_000),
            places: Cache::new(20_000),
        }
    }
}

impl Agents {
    pub async fn get(
        &self,
        store: &Store,
        account: &AccountId,
        agent: &AgentId,
    ) -> Result<Arc<Agent>> {
        let key = (account.clone(), agent.clone());
        let life = |agent: &Arc<Agent>| {
            if agent.traffic.routes.is_empty() {
                SILENT
            } else {
                ANSWERING
            }
        };
        let found = self
            .serving
            .get(&key, life, async || read(store, account, agent).await)
            .await?;
        found.ok_or_else(|| Error::not_found(format!("agent {agent}")))
    }

    /// Who runs a version now, read anew: what was remembered was not true any more.
    pub async fn hosts_anew(
        &self,
        store: &Store,
        (account, agent): (&AccountId, &AgentId),
        version: &VersionId,
    ) -> Result<Arc<[NodeId]>> {
        self.forget(account.clone(), agent.clone());
        hosts(store, account, version).await
    }

    /// Empty: there never was such an agent.
    pub async fn environments(
        &self,
        store: &Store,
        account: &AccountId,
        agent: &AgentId,
    ) -> Result<Arc<BTreeSet<Environment>>> {
        let key = (account.clone(), agent.clone());
        let read = async || Ok(Some(Arc::new(store.environments_of(account, agent).await?)));
        let found = self.places.get(&key, |_| SILENT, read).await?;
        Ok(found.unwrap_or_default())
    }

    pub fn forget(&self, account: AccountId, agent: AgentId) {
        let key = (account, agent);
        self.serving.forget(&key);
        self.places.forget(&key);
    }

    pub fn forget_all(&self) {
        self.serving.forget_where(|_, _| true);
        self.places.forget_where(|_, _| true);
    }
}

async fn read(store: &Store, account: &AccountId, id: &AgentId) -> Result<Option<Arc<Agent>>> {
    let Some(agent) = store.agent(account, id).await? else {
        return Ok(None);
    };
    let traffic = store.traffic(&agent.incarnation).await?;
    let limits = store.agent_limits(&agent.incarnation).await?;
    let mut timeouts_s = Vec::with_capacity(traffic.routes.len());
    let mut hosting = Vec::with_capacity(traffic.routes.len());
    for route in &traffic.routes {
        hosting.push(hosts(store, account, &route.version_id).await?);
        let version = store.version(account, &route.version_id).await?;
        let version = version
            .ok_or_else(|| Error::internal(format!("agent {id} has a route to no version")))?;
        timeouts_s.push(version.spec.configuration.timeout_s);
    }
    let newest = if traffic.routes.is_empty() {
        store.deployments(&agent.incarnation, 0, 1).await?.0.pop()
    } else {
        None
    };
    Ok(Some(Arc::new(Agent {
        incarnation: agent.incarnation,
        limits,
        traffic,
        timeouts_s,
        hosts: hosting,
        newest,
    })))
}

/// Also those who only finish what comes: an older version listens until its traffic has moved.
async fn hosts(store: &Store, account: &AccountId, version: &VersionId) -> Result<Arc<[NodeId]>> {
    let placed = store.envelopes_of_version(account, version).await?;
    Ok(placed.into_iter().map(|placed| placed.node_id).collect())
}

impl Agent {
    /// Who answers a caller whose draw is `draw`, or why nobody does.
    pub fn pick(&self, id: &AgentId, draw: u64) -> Answer<Chosen<'_>> {
        let Some(route) = self.traffic.pick(draw) else {
            return Err(self.nobody(id));
        };
        let same = |other: &Route| other.version_id == route.version_id;
        let place = self.traffic.routes.iter().position(same).unwrap_or(0);
        let (Some(timeout_s), Some(hosts)) = (self.timeouts_s.get(place), self.hosts.get(place))
        else {
            return Err(Error::internal(format!("a route of agent {id} is half known")).into());
        };
        Ok(Chosen {
            version_id: &route.version_id,
            version: &route.version,
            timeout_s: *timeout_s,
            hosts,
        })
    }

    fn nobody(&self, id: &AgentId) -> Refusal {
        let Some(newest) = &self.newest else {
            return Error::conflict(format!("agent {id} has no deployment; deploy it")).into();
        };
        let name = &newest.id;
        match (newest.kind, newest.state.status) {
            (Kind::Delete, Status::Deploying) => {
                Error::conflict(format!("agent {id} is being deleted by deployment {name}")).into()
            }
            (_, Status::Deploying) => {
                let message = format!(
                    "agent {id} does not answer yet: deployment {name} is not finished; try again"
                );
                Refusal::from(Error::unavailable(message)).retry_after(2)
            }
            (_, Status::Failed) => {
                let reason = newest.state.reason.as_deref().unwrap_or("see its phases");
                let message = format!(
                    "agent {id} does not answer: deployment {name} failed ({reason}); deploy it again"
                );
                Refusal::from(Error::conflict(message)).with_logs(failed_logs(newest))
            }
            (_, status) => Error::conflict(format!(
                "agent {id} does not answer: deployment {name} is {status}; deploy it again"
            ))
            .into(),
        }
    }
}

/// What the phase that failed wrote.
pub fn failed_logs(deployment: &Deployment) -> Vec<String> {
    let failed = deployment
        .state
        .phases
        .iter()
        .find(|phase| phase.status == domain::deployment::PhaseStatus::Failed);
    failed.map_or_else(Vec::new, |phase| phase.logs.clone())
}
