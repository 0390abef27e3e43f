//! What is hosted follows the rows: told by deployer, and with every beat without anybody's telling. A node that was frozen or
//! cut off lets go of what was given to others meanwhile, and takes over what it did not hear of.

use super::{Hosted, Node};
use crate::{beat, inbox, pool::Pool};
use domain::{
    Error, Result,
    envelope::State,
    id::{AccountId, VersionId},
    liveness::BEAT,
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use store::envelopes::Placed;
use tokio::sync::{Notify, OwnedMutexGuard, Semaphore};

/// Versions that are loaded at the same time without having been asked for by name.
const LOADS: usize = 4;
/// Between two tries of a version that cannot be taken over; twice as long each time.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Who changes what is hosted.
pub struct Changes {
    /// One at a time a version: loading it twice would run it twice.
    turns: Mutex<HashMap<VersionId, Arc<tokio::sync::Mutex<()>>>>,
    tries: Mutex<HashMap<VersionId, Try>>,
    loads: Semaphore,
    ended: Notify,
}

/// What became of following a version's row.
struct Try {
    running: bool,
    generation: i64,
    wait: Duration,
    not_before: Instant,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            turns: Mutex::default(),
            tries: Mutex::default(),
            loads: Semaphore::new(LOADS),
            ended: Notify::new(),
        }
    }
}

impl Changes {
    async fn turn(&self, version: &VersionId) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(version.clone()).or_default())
        };
        turn.lock_owned().await
    }

    fn tries(&self) -> MutexGuard<'_, HashMap<VersionId, Try>> {
        self.tries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false`: it is being done, or failed a moment ago. A newer order is a new chance.
    fn begin(&self, version: &VersionId, generation: i64) -> bool {
        let mut tries = self.tries();
        let known = tries.entry(version.clone()).or_insert(Try {
            running: false,
            generation,
            wait: Duration::ZERO,
            not_before: Instant::now(),
        });
        if generation > known.generation {
            (known.generation, known.wait) = (generation, Duration::ZERO);
            known.not_before = Instant::now();
        }
        let begins = !known.running && Instant::now() >= known.not_before;
        known.running |= begins;
        begins
    }

    fn end(&self, version: &VersionId, good: bool) {
        let mut tries = self.tries();
        if good {
            tries.remove(version);
        } else if let Some(known) = tries.get_mut(version) {
            known.running = false;
            known.wait = (known.wait * 2).clamp(RETRY.0, RETRY.1);
            known.not_before = Instant::now() + known.wait;
        }
        drop(tries);
        self.ended.notify_waiters();
    }

    fn are_running(&self) -> bool {
        self.tries().values().any(|one| one.running)
    }
}

/// What differs from its row.
struct Difference {
    account: AccountId,
    version: VersionId,
    generation: i64,
    /// It has to be loaded first.
    load: bool,
}

impl Node {
    /// Does what the envelope's row says, if it is not older than `generation`.
    pub async fn ensure(
        self: &Arc<Self>,
        account: &AccountId,
        version_id: &VersionId,
        generation: i64,
    ) -> Result<()> {
        let _turn = self.changes.turn(version_id).await;
        let placed = self
            .store
            .envelope(account, &self.config.node_id, version_id)
            .await?;
        let placed = placed
            .ok_or_else(|| Error::not_found(format!("an envelope of {version_id} on this node")))?;
        if generation < placed.envelope.generation {
            return Err(Error::conflict(format!(
                "generation {generation} is older than {}",
                placed.envelope.generation
            )));
        }
        self.follow(version_id, Some(placed)).await
    }

    /// Looks for what differs from the rows, and sees to it beside the beat. Nothing changes where they cannot be read.
    pub async fn reconcile(self: &Arc<Self>) -> Result<()> {
        let placed = self.store.envelopes_of_node(&self.config.node_id).await?;
        for difference in self.differences(&placed) {
            if !self
                .changes
                .begin(&difference.version, difference.generation)
            {
                continue;
            }
            let node = Arc::clone(self);
            self.tasks
                .spawn(async move { node.settle(difference).await });
        }
        Ok(())
    }

    /// Takes over all that was placed here. A start that takes long must not look like a death, so it beats meanwhile.
    pub(super) async fn take_over_all(self: &Arc<Self>) -> Result<()> {
        self.reconcile().await?;
        let mut tick = tokio::time::interval(BEAT);
        tick.tick().await;
        loop {
            let ended = self.changes.ended.notified();
            if !self.changes.are_running() {
                return Ok(());
            }
            tokio::select! {
                () = ended => {}
                _ = tick.tick() => if let Err(error) = beat::beat(self).await {
                    tracing::warn!(error = ?error, "the heartbeat was not kept");
                },
            }
        }
    }

    fn differences(&self, placed: &[Placed]) -> Vec<Difference> {
        let hosted = self.hosted();
        let kept: HashSet<&VersionId> = placed
            .iter()
            .map(|placed| &placed.envelope.version_id)
            .collect();
        let gone = hosted
            .iter()
            .filter(|(version, _)| !kept.contains(version))
            .map(|(version, hosted)| Difference {
                account: hosted.pool.version.account.clone(),
                version: version.clone(),
                generation: hosted.pool.generation() + 1,
                load: false,
            });
        let changed = placed.iter().filter_map(|placed| {
            let known = hosted.get(&placed.envelope.version_id);
            let known = known.map(|hosted| hosted.pool.generation());
            known
                .is_none_or(|known| known < placed.envelope.generation)
                .then(|| Difference {
                    account: placed.account.clone(),
                    version: placed.envelope.version_id.clone(),
                    generation: placed.envelope.generation,
                    load: known.is_none(),
                })
        });
        gone.chain(changed).collect()
    }

    async fn settle(self: &Arc<Self>, difference: Difference) {
        let Difference {
            account,
            version,
            load,
            ..
        } = difference;
        let done = async {
            // Closed never: a refused slot would only mean one load more.
            let _slot = if load {
                self.changes.loads.acquire().await.ok()
            } else {
                None
            };
            let _turn = self.changes.turn(&version).await;
            // What was read before the turn came may be told and done by now.
            let id = &self.config.node_id;
            let placed = self.store.envelope(&account, id, &version).await?;
            self.follow(&version, placed).await
        };
        let done: Result<()> = done.await;
        if let Err(error) = &done {
            tracing::warn!(version.id = %version, error = ?error, "what this node hosts cannot follow its row; it is tried again");
        }
        self.changes.end(&version, done.is_ok());
    }

    async fn follow(self: &Arc<Self>, version: &VersionId, placed: Option<Placed>) -> Result<()> {
        match placed {
            Some(placed) if placed.envelope.state != State::Retired => self.take_over(placed).await,
            Some(_) | None => {
                self.let_go(version).await;
                Ok(())
            }
        }
    }

    async fn take_over(self: &Arc<Self>, placed: Placed) -> Result<()> {
        let serving = placed.envelope.state == State::Serving;
        if let Some(pool) = self.pool(&placed.envelope.version_id) {
            if pool.generation() == placed.envelope.generation {
                return Ok(());
            }
            pool.hand_over(!serving && self.is_served_elsewhere(&placed).await?);
            if !pool.order(placed.envelope) {
                return Err(Error::conflict("a newer order is known"));
            }
            if serving {
                pool.prove();
            }
            return Ok(());
        }
        let version = Arc::new(
            self.load(&placed.account, &placed.envelope.version_id)
                .await?,
        );
        let id = version.id.clone();
        let pool = Pool::new(version, placed.envelope, Arc::clone(&self.common));
        let stop = self.stop.child_token();
        if let Err(error) = inbox::serve(self, &pool, &stop).await {
            // Some of its loops may run already.
            stop.cancel();
            return Err(error);
        }
        {
            let mut hosted = self.hosted();
            // Looked at under the lock: who leaves cancels first and then closes what is hosted.
            if self.stop.is_cancelled() {
                return Err(Error::unavailable("this executor is leaving"));
            }
            let pool = Arc::clone(&pool);
            hosted.insert(id, Hosted { pool, stop });
        }
        pool.scale();
        if serving {
            pool.prove();
        }
        Ok(())
    }

    async fn is_served_elsewhere(&self, placed: &Placed) -> Result<bool> {
        let version = &placed.envelope.version_id;
        let all = self
            .store
            .envelopes_of_version(&placed.account, version)
            .await?;
        Ok(all
            .iter()
            .any(|other| other.node_id != placed.node_id && other.envelope.state == State::Serving))
    }

    async fn let_go(&self, version: &VersionId) {
        let hosted = self.hosted().remove(version);
        if let Some(hosted) = hosted {
            hosted.stop.cancel();
            hosted.pool.close().await;
        }
    }
}
