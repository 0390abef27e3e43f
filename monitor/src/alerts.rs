//! Judges the minutes before now by each agent's policy, and writes what follows: alerts, and what is sent of them.
//!
//! In one monitor at a time, under the lease `roller`. What is kept in memory only saves reading it again.

mod history;

use crate::{Config, tail::Tail};
use domain::{
    Result, Timestamp,
    alert::{self, Alert, MOST_MINUTES, Policy, Rule, Seen, Step, Verdict},
    id::{AccountId, AgentId, AlertId, DeliveryId},
};
use history::{History, Whose};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};
use store::{
    Store,
    alerts::{Kept, KeptPolicy},
    deliveries::New,
    leases::Lease,
};
use tokio::{sync::Notify, time::Instant};

/// Farther apart, the clock has jumped or nobody has looked.
const JUMP: Duration = Duration::from_secs(30);
/// An alert that is over for longer does not come back, by any policy.
const BACK: Duration = Duration::from_secs(2 * 60 * 60);

pub struct Watch {
    config: Config,
    store: Store,
    due: Arc<Notify>,
    tail: Tail,
    history: History,
    next: Instant,
    /// Since when, and the last look: by the clock that does not jump and by the one that everybody goes by.
    steady: Option<(Instant, Instant, Timestamp)>,
}

/// What one round goes by.
struct Known {
    policies: HashMap<(AccountId, Option<AgentId>), KeptPolicy>,
    standard: Policy,
}

/// What one round judges: minutes that began before `to`, as if it were `at`.
#[derive(Clone, Copy)]
struct Look {
    at: Timestamp,
    to: Timestamp,
    /// For how long somebody has looked.
    steady: Duration,
    /// Nobody looked then.
    missed: bool,
}

impl Known {
    fn policy(&self, (account, agent): &Whose) -> Option<&KeptPolicy> {
        let own = self.policies.get(&(account.clone(), Some(agent.clone())));
        own.or_else(|| self.policies.get(&(account.clone(), None)))
    }

    fn rules(&self, whose: &Whose) -> &Policy {
        self.policy(whose)
            .map_or(&self.standard, |kept| &kept.policy)
    }
}

impl Watch {
    pub fn new(config: &Config, store: &Store, due: Arc<Notify>) -> Self {
        Self {
            config: config.clone(),
            store: store.clone(),
            due,
            tail: Tail::new(store, config.most_rows),
            history: History::default(),
            next: Instant::now(),
            steady: None,
        }
    }

    /// It is another monitor's work.
    pub fn away(&mut self) {
        self.steady = None;
        self.history = History::default();
    }

    /// Judges, if it is time.
    pub async fn turn(&mut self, lease: &Lease) -> Result<()> {
        if Instant::now() < self.next {
            return Ok(());
        }
        self.next = Instant::now() + self.config.judge_every;
        let known = self.known().await?;
        if !self.catch_up(lease, &known).await? {
            return Ok(());
        }
        let now = self.store.now();
        let look = Look {
            at: now,
            to: Timestamp(i64::MAX),
            steady: self.steady_for(now),
            missed: false,
        };
        if self.round(lease, &known, look).await? {
            self.store.alerts_are_judged(lease, now).await?;
        }
        Ok(())
    }

    /// Judges the minutes that no monitor has judged, as if each were now. `false`: somebody else does.
    async fn catch_up(&mut self, lease: &Lease, known: &Known) -> Result<bool> {
        let now = self.store.now();
        let Some(judged) = self.store.alerts_judged().await? else {
            return Ok(true);
        };
        let back = alert::minutes(MOST_MINUTES) + Duration::from_secs(120);
        let since = Timestamp(judged.0.saturating_sub(millis(back)));
        let first = self.store.first_end_since(since).await?;
        let missed = alert::missed(judged, first.unwrap_or(now), now);
        if missed.len() > 1 {
            let minutes = missed.len();
            tracing::info!(minutes, since = %judged, "minutes that nobody has judged are judged now");
        }
        for at in missed {
            let look = Look {
                at,
                to: at,
                steady: at.since(judged),
                missed: true,
            };
            if !self.round(lease, known, look).await? {
                return Ok(false);
            }
            self.store.alerts_are_judged(lease, at).await?;
        }
        Ok(true)
    }

    /// `false`: the roller wrote meanwhile.
    async fn round(&mut self, lease: &Lease, known: &Known, look: Look) -> Result<bool> {
        let (rows, now) = ((&self.store, &self.tail), self.store.now());
        if !self.history.refresh(rows, look.at, now).await? {
            return Ok(false);
        }
        let at_work = self
            .store
            .alerts_at_work(Timestamp(look.at.0 - millis(BACK)))
            .await?;
        let mut newest: HashMap<(Whose, Rule), Kept> = HashMap::new();
        // Oldest first: the newest stays.
        for one in at_work {
            let whose = (one.account.clone(), one.agent_id.clone());
            newest.insert((whose, one.rule), one);
        }
        let open = newest.keys().map(|(whose, _)| whose.clone());
        let all: BTreeSet<Whose> = self.history.agents().chain(open).collect();
        for whose in all {
            for rule in Rule::ALL {
                let before = newest.remove(&(whose.clone(), *rule));
                self.judge(lease, known, &whose, (*rule, before), look)
                    .await?;
            }
        }
        Ok(true)
    }

    async fn known(&self) -> Result<Known> {
        let policies = self.store.alert_policies().await?.into_iter();
        Ok(Known {
            policies: policies
                .map(|kept| ((kept.account.clone(), kept.agent_id.clone()), kept))
                .collect(),
            standard: Policy::default(),
        })
    }

    fn steady_for(&mut self, now: Timestamp) -> Duration {
        let at = Instant::now();
        if let Some((since, last, seen)) = self.steady {
            let (by_one, by_other) = (at.duration_since(last), now.since(seen));
            let apart = by_one.abs_diff(by_other);
            if apart < JUMP && by_one < self.config.judge_every + JUMP {
                self.steady = Some((since, at, now));
                return at.duration_since(since);
            }
        }
        self.steady = Some((at, at, now));
        Duration::ZERO
    }

    async fn judge(
        &self,
        lease: &Lease,
        known: &Known,
        whose: &Whose,
        (rule, before): (Rule, Option<Kept>),
        look: Look,
    ) -> Result<()> {
        let now = look.at;
        let rules = known.rules(whose);
        let limit = rules.limit(rule);
        let verdict = if limit.enabled {
            let window = self.history.of(whose, alert::window(limit, now), look.to);
            alert::judge(rule, limit, &window, now)
        } else {
            Verdict::Unknown
        };
        let open = before
            .as_ref()
            .is_some_and(|one| one.alert.resolved_at.is_none());
        if !open && !matches!(verdict, Verdict::Bad(_)) {
            return Ok(());
        }
        let living = self.store.agent(&whose.0, &whose.1).await?;
        // What was missed may be of one before.
        let living = living.filter(|agent| agent.created_at <= now);
        let incarnation = living.map(|agent| agent.incarnation);
        // Of an agent that was deployed anew since, an alert that is over is none of this one's.
        let before = before.filter(|one| open || Some(&one.incarnation) == incarnation.as_ref());
        let same = before
            .as_ref()
            .is_none_or(|one| Some(&one.incarnation) == incarnation.as_ref());
        let silent = look.missed.then(|| rules.missed());
        let step = alert::decide(
            &Seen {
                alert: before.as_ref().map(|one| one.alert),
                verdict,
                policy: silent.as_ref().unwrap_or(rules),
                watched: limit.enabled && same && incarnation.is_some(),
                steady: look.steady,
            },
            now,
        );
        let (next, levels, event) = match step {
            Step::Nothing => return Ok(()),
            Step::Open(next) => {
                let opened = Kept {
                    id: AlertId::from_uuid(uuid::Uuid::now_v7()),
                    account: whose.0.clone(),
                    agent_id: whose.1.clone(),
                    incarnation: incarnation.unwrap_or_default(),
                    rule,
                    alert: next,
                    acknowledged_by: None,
                    note: None,
                    rev: 0,
                };
                tracing::info!(alert.id = %opened.id, agent.id = %whose.1, rule = %rule, value = next.figures.value, "an alert rises");
                self.store.write_alert(lease, &opened, &[]).await?;
                return Ok(());
            }
            Step::Change(next) => (next, 0..0, ""),
            Step::Escalate(next) => (next, next.level..next.level + 1, "alert.escalated"),
            Step::Resolve(next) => (next, 1..next.level + 1, "alert.resolved"),
        };
        let Some(before) = before else {
            return Ok(());
        };
        let after = Kept {
            alert: next,
            ..before
        };
        let mut messages = Vec::new();
        for level in levels {
            messages.extend(messages_of(known, &after, (level, event), now));
        }
        // Where somebody answered meanwhile, nothing is written: the next round sees it.
        if self.store.write_alert(lease, &after, &messages).await? && !event.is_empty() {
            self.due.notify_one();
            tracing::info!(alert.id = %after.id, agent.id = %whose.1, rule = %rule, level = next.level, receivers = messages.len(), "{event}");
        }
        Ok(())
    }
}

/// What a level's receivers are sent.
fn messages_of(known: &Known, of: &Kept, (level, event): (u8, &str), now: Timestamp) -> Vec<New> {
    let whose = (of.account.clone(), of.agent_id.clone());
    let Some(kept) = known.policy(&whose) else {
        return Vec::new();
    };
    let Some(receivers) = kept.policy.levels.get(usize::from(level) - 1) else {
        return Vec::new();
    };
    let body = body(of, level, event, now);
    let message = |url: &String| New {
        id: DeliveryId::from_uuid(uuid::Uuid::now_v7()),
        account: of.account.clone(),
        subject: of.id.to_string(),
        callback: None,
        event: event.to_owned(),
        level,
        round: of.alert.returns,
        url: url.clone(),
        body: body.clone(),
        secret: kept.secret.clone(),
        sealed_for: kept.id.clone(),
        created_at: now,
    };
    receivers.webhooks.iter().map(message).collect()
}

/// `type`, `timestamp` and `data`, as Standard Webhooks recommends.
fn body(of: &Kept, level: u8, event: &str, now: Timestamp) -> String {
    let Alert {
        opened_at,
        resolved_at,
        returns,
        figures,
        ..
    } = of.alert;
    serde_json::json!({
        "type": event,
        "timestamp": now,
        "data": {
            "alert_id": of.id,
            "agent_id": of.agent_id,
            "rule": of.rule,
            "status": of.alert.status(),
            "level": level,
            "figures": figures,
            "opened_at": opened_at,
            "resolved_at": resolved_at,
            "returns": returns,
        },
    })
    .to_string()
}

fn millis(duration: Duration) -> i64 {
    crate::roll::millis(duration)
}
