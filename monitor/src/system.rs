//! The whole, probed for real: every component is asked when the question comes, at most once a second.

mod host;

use crate::{Config, Deps, look::Eyes};
use domain::{Result, Timestamp, health::Health, id::AccountId, liveness::Liveness};
use host::Host;
use proto::v1::{Component, NodeLevel, SystemReply};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};
use store::{leases::KEEPER, nodes::Node};
use tokio::{sync::Semaphore, time::Instant};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// The window of the rate of log lines.
const LOG_WINDOW: Duration = Duration::from_secs(10);
/// Figures are rolled up every few seconds; whose roll-up is behind for longer has nobody, or too much, to do it.
const PILED_UP: Duration = Duration::from_secs(60);

pub struct System {
    config: Config,
    deps: Deps,
    eyes: Eyes,
    host: Host,
    known: Mutex<HashMap<AccountId, (Instant, SystemReply)>>,
    /// One looks, the others wait for what it saw.
    looking: Semaphore,
}

impl System {
    pub fn new(config: Config, deps: Deps, eyes: Eyes) -> Self {
        Self {
            config,
            deps,
            eyes,
            host: Host::new(),
            known: Mutex::default(),
            looking: Semaphore::new(1),
        }
    }

    pub async fn look(&self, account: &AccountId) -> Result<SystemReply> {
        if let Some(known) = self.known(account) {
            return Ok(known);
        }
        let _turn = self.looking.acquire().await.ok();
        if let Some(known) = self.known(account) {
            return Ok(known);
        }
        let reply = self.probe(account).await;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (at, _)| at.elapsed() < self.config.system_cache);
        known.insert(account.clone(), (Instant::now(), reply.clone()));
        Ok(reply)
    }

    fn known(&self, account: &AccountId) -> Option<SystemReply> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, reply) = known.get(account)?;
        (at.elapsed() < self.config.system_cache).then(|| reply.clone())
    }

    /// Whatever cannot be learned is left out; the components say why.
    async fn probe(&self, account: &AccountId) -> SystemReply {
        let store = &self.deps.store;
        let limit = self.config.probe;
        let at = self.deps.store.now();
        let ago = |time: Duration| Timestamp(at.0 - time.as_millis() as i64);
        let (database, bus, nodes, kept, behind, agents, executions, lines) = tokio::join!(
            timed(limit, store.ping()),
            timed(limit, async {
                self.deps.bus.ping().await.map_err(domain::Error::from)
            }),
            within(limit, store.nodes()),
            within(limit, store.is_leased(KEEPER)),
            within(limit, self.behind()),
            within(limit, store.count_agents(account)),
            within(
                limit,
                store.count_ended_executions(ago(Duration::from_secs(60)), at)
            ),
            within(limit, store.count_logs(ago(LOG_WINDOW), at)),
        );
        let nodes: Vec<Node> = nodes
            .unwrap_or_default()
            .into_iter()
            .filter(|node| !node.capacity.left)
            .filter(|node| at.since(node.heartbeat_at) < self.config.forgotten_after)
            .collect();
        let mut components = vec![
            component("database", &database, at),
            component("bus", &bus, at),
            counting(behind.as_ref().ok().copied(), at),
        ];
        components.extend(kept.ok().map(|held| self.deployers(held, at)));
        components.extend(self.executors(&nodes, at).await);
        let (total_agents, active_agents) = agents.unwrap_or_default();
        let used = self.host.used();
        SystemReply {
            components,
            total_agents,
            active_agents,
            executions_last_minute: executions.unwrap_or_default(),
            cpu: used.cpu,
            memory: used.memory,
            // What the network could carry is not known to a host, so no share of it is either.
            network: None,
            database_ms: database.ok(),
            database_connections: Some(store.connections()),
            metrics_lag_s: behind.ok().map(|behind| behind.as_secs_f64()),
            logs_per_s: lines
                .ok()
                .map(|lines| lines as f64 / LOG_WINDOW.as_secs_f64()),
            nodes: nodes
                .iter()
                .map(|node| NodeLevel {
                    node_id: node.id.to_string(),
                    isolation: node.capacity.isolation.clone(),
                    system_packages: node.capacity.system_packages.clone(),
                })
                .collect(),
        }
    }

    /// How long ago the first execution ended that is in no roll-up yet. Answers count it all the same, at a price that grows with it.
    async fn behind(&self) -> Result<Duration> {
        let store = &self.deps.store;
        let position = store.rollup_position().await?;
        let first = store.first_end_since(position.at).await?;
        Ok(first.map_or(Duration::ZERO, |first| store.now().since(first)))
    }

    /// Any of them drives deployments; the one that holds the lease says that there is one.
    fn deployers(&self, held: bool, at: Timestamp) -> Component {
        let (health, message) = match self.eyes.deployers(held, at) {
            Liveness::Alive => (Health::Healthy, "one holds the lease"),
            Liveness::Late => (Health::Degraded, "none holds the lease at the moment"),
            Liveness::Lost => (Health::Unhealthy, "none holds the lease; start one"),
        };
        Component {
            name: "deployer".into(),
            status: health.as_str().into(),
            response_ms: None,
            checked_at_ms: at.0,
            message: message.into(),
        }
    }

    async fn executors(&self, nodes: &[Node], at: Timestamp) -> Vec<Component> {
        let probes = nodes.iter().map(|node| self.executor(node));
        let mut components = futures::future::join_all(probes).await;
        if nodes.is_empty() {
            components.push(Component {
                name: "executor".into(),
                status: Health::Unhealthy.as_str().into(),
                response_ms: None,
                checked_at_ms: at.0,
                message: "no executor has been heard of; start one".into(),
            });
        }
        components
    }

    /// Its beat says that it lives, its answer that it can be reached.
    async fn executor(&self, node: &Node) -> Component {
        let at = self.deps.store.now();
        let silent = at.since(node.heartbeat_at).as_secs();
        let liveness = node.judge(self.eyes.sight(), at);
        let name = format!("executor/{}", node.id);
        if liveness == Liveness::Lost {
            return Component {
                name,
                status: Health::Unhealthy.as_str().into(),
                response_ms: None,
                checked_at_ms: at.0,
                message: format!("has not been heard of for {silent} s"),
            };
        }
        let asked = timed(self.config.probe, self.ask(node)).await;
        let mut component = component(&name, &asked, at);
        let word = match liveness {
            Liveness::Late => format!("answers, and has not beaten for {silent} s"),
            Liveness::Alive | Liveness::Lost if node.capacity.draining => {
                "answers, and is leaving".to_owned()
            }
            Liveness::Alive | Liveness::Lost => return component,
        };
        if asked.is_ok() {
            component.status = Health::Degraded.as_str().into();
            component.message = word;
        }
        component
    }

    async fn ask(&self, node: &Node) -> Result<()> {
        let channel = self.deps.peers.channel(&node.address)?;
        let request = HealthCheckRequest::default();
        let answer = HealthClient::new(channel)
            .check(request)
            .await
            .map_err(|status| proto::status::from_status(&status))?;
        if answer.into_inner().status() == ServingStatus::Serving {
            return Ok(());
        }
        Err(domain::Error::unavailable("says that it does not serve"))
    }
}

async fn within<T>(limit: Duration, probe: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, probe).await {
        Ok(answer) => answer,
        Err(_) => Err(domain::Error::new(
            domain::Kind::Timeout,
            format!("did not answer within {limit:?}"),
        )),
    }
}

/// How many milliseconds it took.
async fn timed<T>(limit: Duration, probe: impl Future<Output = Result<T>>) -> Result<f64> {
    let begun = Instant::now();
    within(limit, probe).await?;
    Ok(begun.elapsed().as_secs_f64() * 1000.0)
}

/// The monitors: one answers, and what they have to count does not pile up.
fn counting(behind: Option<Duration>, at: Timestamp) -> Component {
    let mut component = component("monitor", &Ok(0.0), at);
    if let Some(behind) = behind.filter(|behind| *behind > PILED_UP) {
        component.status = Health::Degraded.as_str().into();
        component.message = format!(
            "answers, and is {} s behind with its counting",
            behind.as_secs()
        );
    }
    component
}

fn component(name: &str, probed: &Result<f64>, at: Timestamp) -> Component {
    let (health, message) = match probed {
        Ok(_) => (Health::Healthy, "answers".to_owned()),
        Err(error) => (Health::Unhealthy, error.message.clone()),
    };
    Component {
        name: name.to_owned(),
        status: health.as_str().to_owned(),
        response_ms: probed.as_ref().ok().copied(),
        checked_at_ms: at.0,
        message,
    }
}
