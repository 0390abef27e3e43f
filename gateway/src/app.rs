//! What every handler shares.

use crate::{
    config::Config, hosts::Hosts, keys::Keys, known::Agents, limits::Meters, meter::Meter,
    ready::Readiness,
};
use bus::Bus;
use domain::Timestamp;
use proto::peer::Peers;
use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};
use store::Store;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

pub type Page = Box<dyn Fn() -> String + Send + Sync>;

#[derive(Clone)]
pub struct App(Arc<Shared>);

pub struct Shared {
    pub config: Config,
    pub store: Store,
    pub bus: Bus,
    pub peers: Peers,
    pub monitors: Vec<String>,
    /// What clients call us by, `…/api/v1`.
    pub base_url: String,
    /// Tells this gateway from the others.
    pub instance: Uuid,
    pub started_at: Timestamp,
    pub keys: Keys,
    pub agents: Agents,
    pub limits: Meters,
    pub hosts: Hosts,
    pub meter: Meter,
    /// What `/metrics` shows, once it was told.
    pub page: OnceLock<Page>,
    pub readiness: Readiness,
    /// Changes that go on when their caller hangs up.
    pub changes: TaskTracker,
    /// Says to those who only follow that we go.
    pub closing: CancellationToken,
    pub estimates: crate::estimate::Estimates,
    /// An execution has ended whose caller is to be told.
    pub owed: tokio::sync::Notify,
}

impl App {
    pub fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    pub fn agent_url(&self, agent: &domain::id::AgentId) -> String {
        format!("{}/agents/{agent}", self.base_url)
    }

    pub fn endpoint_of(&self, agent: &domain::id::AgentId) -> String {
        format!("{}/execute", self.agent_url(agent))
    }

    /// Where people look at its figures, where this installation has such a page.
    pub fn dashboard_of(&self, agent: &domain::id::AgentId) -> Option<String> {
        let page = self.config.dashboard_url.as_ref()?;
        Some(page.replace("{agent_id}", agent.as_str()))
    }
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}
