//! What has ended and is in no cell yet: read from the executions themselves, once for all who ask at the same time.

use domain::{
    Error, Result, Timestamp,
    id::{AccountId, AgentId, VersionId},
    rollup::Ended,
};
use std::{collections::HashMap, sync::Arc};
use store::{Store, rollups::Position};
use tokio::{sync::Mutex, time::Instant};

/// Reads that the roller overtook.
pub const TRIES: u32 = 8;

pub struct Tail {
    store: Store,
    most: usize,
    newest: Mutex<Option<(Instant, Arc<Recent>)>>,
}

/// Everything that ended at the position or later.
pub struct Recent {
    pub position: Position,
    of: HashMap<AccountId, HashMap<AgentId, Vec<(VersionId, Ended)>>>,
}

impl Recent {
    pub fn of_account(
        &self,
        account: &AccountId,
    ) -> impl Iterator<Item = (&AgentId, &[(VersionId, Ended)])> {
        let agents = self.of.get(account).into_iter().flatten();
        agents.map(|(agent, all)| (agent, all.as_slice()))
    }

    /// Of all accounts.
    pub fn all(&self) -> impl Iterator<Item = (&AccountId, &AgentId, &[(VersionId, Ended)])> {
        let agents = |(account, agents)| of_all(account, agents);
        self.of.iter().flat_map(agents)
    }

    pub fn of_agent(&self, account: &AccountId, agent: &AgentId) -> &[(VersionId, Ended)] {
        let agents = self.of.get(account);
        agents
            .and_then(|agents| agents.get(agent))
            .map_or(&[], Vec::as_slice)
    }
}

fn of_all<'a>(
    account: &'a AccountId,
    agents: &'a HashMap<AgentId, Vec<(VersionId, Ended)>>,
) -> impl Iterator<Item = (&'a AccountId, &'a AgentId, &'a [(VersionId, Ended)])> {
    let each = agents.iter();
    each.map(move |(agent, all)| (account, agent, all.as_slice()))
}

impl Tail {
    pub fn new(store: &Store, most: usize) -> Self {
        Self {
            store: store.clone(),
            most,
            newest: Mutex::new(None),
        }
    }

    /// Whether the cells are still those that `recent` stands beside: then what was read of both counts nothing twice and
    /// misses nothing.
    pub async fn stands(&self, recent: &Recent) -> Result<bool> {
        let position = self.store.rollup_position().await?;
        Ok(position.rev == recent.position.rev)
    }

    /// As of a moment after this was called: who writes and then asks finds what was written.
    pub async fn recent(&self) -> Result<Arc<Recent>> {
        let asked = Instant::now();
        let mut newest = self.newest.lock().await;
        if let Some((begun, recent)) = &*newest
            && *begun > asked
        {
            return Ok(recent.clone());
        }
        let begun = Instant::now();
        let recent = Arc::new(self.read().await?);
        *newest = Some((begun, recent.clone()));
        Ok(recent)
    }

    async fn read(&self) -> Result<Recent> {
        let position = self.store.rollup_position().await?;
        let most = u32::try_from(self.most).unwrap_or(u32::MAX);
        let end = Timestamp(i64::MAX);
        let rows = self.store.ended(position.at, end, most).await?;
        if rows.len() >= self.most {
            return Err(behind());
        }
        let mut recent = Recent {
            position,
            of: HashMap::new(),
        };
        for (of, ended) in rows {
            let agents = recent.of.entry(of.account).or_default();
            let all = agents.entry(of.agent_id).or_default();
            all.push((of.version_id, ended));
        }
        Ok(recent)
    }
}

pub fn behind() -> Error {
    Error::unavailable("figures are still being caught up with; try again")
}
