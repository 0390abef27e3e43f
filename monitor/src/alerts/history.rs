//! The minutes that rules look at: cells, and what is in no cell yet. Minutes that nothing will be added to are read once.

use crate::{memory::Limits, tail::Tail};
use domain::{
    Result, Timestamp,
    alert::{MOST_MINUTES, Minute},
    id::{AccountId, AgentId, VersionId},
    rollup::{Cell, Span},
};
use std::collections::{BTreeMap, HashMap};
use store::Store;

pub type Whose = (AccountId, AgentId);
type Minutes = HashMap<Whose, Minute>;

const MINUTE: i64 = 60_000;
/// Executions that become visible later than that raise no alert any more.
const SETTLED: i64 = 3 * MINUTE;

#[derive(Default)]
pub struct History {
    settled: BTreeMap<Timestamp, Minutes>,
    fresh: BTreeMap<Timestamp, Minutes>,
    limits: Limits,
}

impl History {
    /// What rules look at that judge `at`; `false`: the roller wrote meanwhile; what there is is of before.
    pub async fn refresh(
        &mut self,
        (store, tail): (&Store, &Tail),
        at: Timestamp,
        now: Timestamp,
    ) -> Result<bool> {
        let recent = tail.recent().await?;
        let last = Span::Minute.start(at);
        let first = Timestamp(last.0 - (MOST_MINUTES as i64 + 2) * MINUTE);
        self.settled = self.settled.split_off(&first);
        // A clock that was set back.
        self.settled.retain(|start, _| *start <= last);
        let (mut fresh, mut settled) = (BTreeMap::new(), Vec::new());
        let mut start = first;
        while start <= last {
            let end = start.0 + MINUTE;
            if !self.settled.contains_key(&start) {
                let mut minutes = Minutes::new();
                for (of, cell) in store.minute_cells(start).await? {
                    self.add(
                        store,
                        &mut minutes,
                        (of.account, of.agent_id),
                        &of.version_id,
                        cell,
                    )
                    .await?;
                }
                if end <= recent.position.at.0 && end + SETTLED <= now.0 {
                    settled.push((start, minutes));
                } else {
                    fresh.insert(start, minutes);
                }
            }
            start = Timestamp(end);
        }
        for (account, agent, rows) in recent.all() {
            let mut cells: HashMap<(Timestamp, &VersionId), Cell> = HashMap::new();
            for (version, ended) in rows {
                let start = Span::Minute.start(ended.completed_at);
                if start >= first {
                    cells.entry((start, version)).or_default().add(ended);
                }
            }
            for ((start, version), cell) in cells {
                let minutes = fresh.entry(start).or_default();
                let whose = (account.clone(), agent.clone());
                self.add(store, minutes, whose, version, cell).await?;
            }
        }
        if !tail.stands(&recent).await? {
            return Ok(false);
        }
        self.settled.extend(settled);
        self.fresh = fresh;
        Ok(true)
    }

    async fn add(
        &mut self,
        store: &Store,
        minutes: &mut Minutes,
        whose: Whose,
        version: &VersionId,
        mut cell: Cell,
    ) -> Result<()> {
        let peak_mb = cell.memory_peak_mb;
        let memory = self.limits.share(store, &whose.0, version, peak_mb).await?;
        // No rule is about these.
        cell.custom.clear();
        cell.queues = Default::default();
        minutes
            .entry(whose)
            .or_default()
            .merge(&Minute { cell, memory });
        Ok(())
    }

    /// Of which anything ended lately.
    pub fn agents(&self) -> impl Iterator<Item = Whose> {
        let minutes = self.settled.values().chain(self.fresh.values());
        minutes.flat_map(|minutes| minutes.keys().cloned())
    }

    /// An agent's minutes that began in `[from, to)`, oldest first.
    pub fn of(&self, whose: &Whose, from: Timestamp, to: Timestamp) -> Vec<&Minute> {
        let mut found: BTreeMap<Timestamp, &Minute> = BTreeMap::new();
        let (settled, fresh) = (self.settled.range(from..to), self.fresh.range(from..to));
        for (start, minutes) in settled.chain(fresh) {
            if let Some(minute) = minutes.get(whose) {
                found.insert(*start, minute);
            }
        }
        found.into_values().collect()
    }
}
