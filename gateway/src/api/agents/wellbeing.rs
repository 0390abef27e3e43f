//! How agents are doing: by their deployments, their instances, and whether starting goes round in a loop.

use crate::{app::App, error::Answer};
use domain::{
    agent::Status,
    health::{Health, Serving},
    id::{AccountId, AgentId},
    instance::State,
};
use std::collections::{HashMap, HashSet};
use store::{agents::Listed, crash_loops::CrashLoop, instances::Instance};

/// Of the agents of one account.
pub struct Wellbeing {
    /// Ready instances, and those of them that are not healthy.
    ready: HashMap<String, (u32, u32)>,
    loops: HashSet<String>,
}

fn of_agents(loops: &[CrashLoop]) -> HashSet<String> {
    loops.iter().map(|one| one.agent_id.to_string()).collect()
}

impl Wellbeing {
    pub async fn of(app: &App, account: &AccountId) -> Answer<Self> {
        let (ready, loops) = tokio::join!(
            app.store.ready_instances(account),
            app.store.crash_loops(account, None)
        );
        Ok(Self {
            ready: ready?,
            loops: of_agents(&loops?),
        })
    }

    /// Of one agent alone.
    pub fn of_agent(agent: &AgentId, living: &[Instance], loops: &[CrashLoop]) -> Self {
        let ready = living.iter().filter(|one| one.state == State::Ready);
        let counted = ready.fold((0, 0), |(ready, ill), one| {
            (ready + 1, ill + u32::from(one.health != Health::Healthy))
        });
        Self {
            ready: HashMap::from([(agent.to_string(), counted)]),
            loops: of_agents(loops),
        }
    }

    /// Whether it answers, and whether it will go on to.
    pub fn health(&self, one: &Listed) -> Health {
        let answers = !one.traffic.routes.is_empty();
        match one.status {
            Status::Active => self.serving(one).health(),
            Status::Deploying if answers => self.serving(one).health(),
            Status::Deploying | Status::Deleting => Health::Degraded,
            Status::Failed | Status::Inactive => Health::Unhealthy,
        }
    }

    fn serving(&self, one: &Listed) -> Serving {
        let id = one.agent.agent_id.as_str();
        let (ready, not_healthy) = self.ready.get(id).copied().unwrap_or_default();
        let scaling = &one.spec.scaling;
        Serving {
            wanted: if scaling.enabled {
                scaling.min_instances
            } else {
                scaling.min_instances.max(1)
            },
            ready,
            not_healthy,
            crash_looping: self.loops.contains(id),
        }
    }
}
