//! Keeps what serves on nodes that are there: whatever lost and leaving nodes host, others host instead.
//!
//! Every deployer looks; the one that holds the lease acts, and writes nothing once it does not hold it any more. It remembers
//! nothing that matters: what it has to do is read from the rows with every look, so another one may go on at any moment.

use crate::{
    drive::Driver,
    nodes,
    phases::{Job, relocate},
};
use domain::{
    Error, Kind, Result,
    envelope::State,
    id::{AccountId, NodeId, VersionId},
    liveness::{BEAT, LOST_AFTER},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use store::{
    envelopes::Placed,
    leases::{KEEPER, Lease},
};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A keeper that is gone is followed a look later than this. Renewed with every look.
const TTL: Duration = LOST_AFTER;
/// Versions that are moved at the same time.
const AT_ONCE: usize = 4;
/// After a version could not be moved.
const AGAIN_AFTER: Duration = Duration::from_secs(4);
/// Giving the lease back must not hold up the leaving.
const RELEASED_WITHIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(driver: &Driver, stop: &CancellationToken, tasks: &TaskTracker) {
    let keeper = Keeper {
        driver: driver.clone(),
        holder: format!("deployer_{}", uuid::Uuid::now_v7().as_simple()),
        moving: Arc::default(),
        slots: Arc::new(Semaphore::new(AT_ONCE)),
        stop: stop.clone(),
        tasks: tasks.clone(),
    };
    let mut lease = None;
    let mut tick = tokio::time::interval(BEAT);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = tick.tick() => {}
        }
        let looked = keeper.look(&mut lease).await;
        if let Err(error) = &looked {
            tracing::warn!(error = ?error, "what nodes host could not be looked at");
        }
        driver
            .eyes()
            .note(looked.is_ok(), driver.deps().store.now());
    }
    if let Some(lease) = lease {
        let released = driver.deps().store.release(&lease);
        tokio::time::timeout(RELEASED_WITHIN, released).await.ok();
    }
}

#[derive(Clone)]
struct Keeper {
    driver: Driver,
    holder: String,
    /// Versions that are moved, or could not be and are tried again at some time.
    moving: Arc<Mutex<HashMap<VersionId, Option<Instant>>>>,
    slots: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Keeper {
    async fn look(&self, lease: &mut Option<Lease>) -> Result<()> {
        let store = &self.driver.deps().store;
        let holds = match lease {
            Some(held) => store.renew(held, TTL).await?,
            None => false,
        };
        if !holds {
            *lease = store.acquire(KEEPER, &self.holder, TTL).await?;
            if lease.is_some() {
                tracing::info!("this deployer moves what lost and leaving executors host");
            }
        }
        let nodes = store.nodes().await?;
        let Some(lease) = lease else { return Ok(()) };
        let candidates = nodes::candidates(self.driver.means(), &nodes);
        let stays: HashSet<&NodeId> = candidates
            .iter()
            .filter(|one| one.stays)
            .map(|one| &one.node_id)
            .collect();
        let mut versions: BTreeMap<VersionId, Vec<Placed>> = BTreeMap::new();
        for placed in store.envelopes().await? {
            let version = placed.envelope.version_id.clone();
            versions.entry(version).or_default().push(placed);
        }
        let open = candidates.iter().any(|one| one.open);
        // What answers is hosted, even if all its orders are gone.
        for (account, version) in store.versions_in_traffic().await? {
            if open && !versions.contains_key(&version) && self.begin(&version) {
                tracing::warn!(version.id = %version, "a version that answers has no host");
                self.spawn(lease.clone(), account, version);
            }
        }
        for (version, all) in versions {
            let there = |placed: &Placed| stays.contains(&placed.node_id);
            let serves = |placed: &&Placed| placed.envelope.state == State::Serving;
            let away = all.iter().filter(serves).any(|placed| !there(placed));
            let movable = open || all.iter().filter(serves).any(there);
            // Retiring without a deployment: whoever began it is gone.
            let begun = all.iter().any(|placed| !serves(&placed));
            if ((away && movable) || begun)
                && let Some(placed) = all.first()
                && self.begin(&version)
            {
                self.spawn(lease.clone(), placed.account.clone(), version);
            }
        }
        Ok(())
    }

    fn spawn(&self, lease: Lease, account: AccountId, version: VersionId) {
        let keeper = self.clone();
        self.tasks.spawn(async move {
            let moved = tokio::select! {
                () = keeper.stop.cancelled() => Ok(()),
                moved = keeper.relocate(lease, &account, &version) => moved,
            };
            match &moved {
                Ok(()) => {}
                // Another keeper or a deployment has the word.
                Err(error) if error.kind == Kind::Conflict => {
                    tracing::debug!(version.id = %version, error = ?error, "a version was not moved");
                }
                Err(error) => {
                    tracing::warn!(version.id = %version, error = ?error, "a version could not be moved away; it is tried again");
                }
            }
            keeper.end(&version, moved.is_ok());
        });
    }

    async fn relocate(&self, lease: Lease, account: &AccountId, id: &VersionId) -> Result<()> {
        let store = &self.driver.deps().store;
        let slot = self.slots.acquire().await;
        let slot = slot.map_err(|_| Error::unavailable("the service is shutting down"))?;
        let version = store.version(account, id).await?;
        let version = version.ok_or_else(|| Error::not_found(format!("version {id}")))?;
        let unfinished = store
            .unfinished_deployments_of(&version.incarnation)
            .await?;
        let Some(deployment) = store
            .deployment_of(id)
            .await?
            .filter(|_| unfinished.is_empty())
        else {
            return Ok(());
        };
        let mut job = Job::new(&self.driver, deployment, Some(version));
        job.fence = Some(lease);
        let within = self.driver.config().package + self.driver.config().provision;
        let leaving = tokio::time::timeout(within, relocate::stand_in(&job))
            .await
            .map_err(|_| {
                Error::new(Kind::Timeout, format!("it was not moved within {within:?}"))
            })??;
        // Those that finish what runs may take long, and need no place among those that move.
        drop(slot);
        relocate::finish(&job, leaving).await
    }

    fn moving(&self) -> MutexGuard<'_, HashMap<VersionId, Option<Instant>>> {
        self.moving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false`: it is being moved, or could not be a moment ago.
    fn begin(&self, version: &VersionId) -> bool {
        let mut moving = self.moving();
        let now = Instant::now();
        moving.retain(|_, again| again.is_none_or(|again| again > now));
        if moving.contains_key(version) {
            return false;
        }
        moving.insert(version.clone(), None);
        true
    }

    fn end(&self, version: &VersionId, good: bool) {
        let mut moving = self.moving();
        if good {
            moving.remove(version);
        } else {
            moving.insert(version.clone(), Some(Instant::now() + AGAIN_AFTER));
        }
    }
}
