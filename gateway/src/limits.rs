//! Limits of keys and agents. Each gateway takes some of them in advance (`domain::limit`), so a request pays no round trip but
//! the first of a while; a subject without limits is never looked up here.

use crate::{error::Refusal, known::Agent};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use domain::{
    Error, Kind, Result,
    id::AccountId,
    key::Key,
    limit::{Amount, Cost, Limits, Purse, Refused, Standing, Take, Window},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use store::Store;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// As draft-ietf-httpapi-ratelimit-headers-11 names them.
pub const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub const STANDING: HeaderName = HeaderName::from_static("ratelimit");

/// How long somebody waits for what must be taken first.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at what nobody needed.
const SWEEP: Duration = Duration::from_millis(500);
/// Nobody asked for so long.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// What limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kin {
    Key,
    Agent,
}

/// Whose limits they are: a key's, by its id, or an agent's, by its incarnation.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    pub kin: Kin,
    pub account: &'a AccountId,
    pub id: &'a str,
    pub limits: &'a Limits,
}

impl<'a> Subject<'a> {
    pub fn of_key(key: &'a Key) -> Self {
        Self {
            kin: Kin::Key,
            account: &key.account,
            id: key.id.as_str(),
            limits: &key.limits,
        }
    }

    pub fn of_agent(account: &'a AccountId, agent: &'a Agent) -> Self {
        Self {
            kin: Kin::Agent,
            account,
            id: &agent.incarnation,
            limits: &agent.limits,
        }
    }
}

pub struct Meters {
    began: Instant,
    purses: Mutex<HashMap<(AccountId, String), Arc<Shared>>>,
    /// Questions that nobody waits for.
    asking: TaskTracker,
}

struct Shared {
    account: AccountId,
    id: String,
    purse: Mutex<Purse>,
    /// Who wait for what must be taken first.
    waiting: AtomicU32,
    /// One question at a time.
    turn: tokio::sync::Mutex<()>,
}

/// What was taken, of whom; to be put back where it was not needed after all.
pub struct Taken {
    of: Arc<Shared>,
    cost: Cost,
    kin: Kin,
    back: AtomicBool,
}

impl Default for Meters {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            purses: Mutex::default(),
            asking: TaskTracker::new(),
        }
    }
}

impl Meters {
    /// `None`: it is not limited.
    pub async fn take(
        &self,
        store: &Store,
        subject: Subject<'_>,
        cost: Cost,
    ) -> Result<Option<Taken>, Refusal> {
        if subject.limits.is_empty() {
            return Ok(None);
        }
        let shared = self.shared(&subject);
        let taking = self.until_taken(store, &shared, subject.limits, cost);
        match tokio::time::timeout(PATIENCE, taking).await {
            Ok(Ok(None)) => Ok(Some(Taken {
                of: shared,
                cost,
                kin: subject.kin,
                back: AtomicBool::new(false),
            })),
            Ok(Ok(Some(refused))) => Err(self.refusal(&shared, subject.kin, refused)),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Error::unavailable("limits cannot be read in time; try again").into()),
        }
    }

    async fn until_taken(
        &self,
        store: &Store,
        shared: &Arc<Shared>,
        limits: &Limits,
        cost: Cost,
    ) -> Result<Option<Refused>> {
        loop {
            let take = shared.purse().take(limits, cost, self.now());
            match take {
                Take::Granted { low } => {
                    if low {
                        self.ask_ahead(store, shared, cost);
                    }
                    return Ok(None);
                }
                Take::Refused(refused) => return Ok(Some(refused)),
                Take::Ask => {
                    let _waits = Waits::new(&shared.waiting);
                    let _turn = shared.turn.lock().await;
                    // Whoever had the turn before may have brought enough for us.
                    if shared.purse().lacks(cost, self.now()) {
                        self.ask(store, shared, cost).await?;
                    }
                }
            }
        }
    }

    /// Takes more while there is still some; nobody waits for it.
    fn ask_ahead(&self, store: &Store, shared: &Arc<Shared>, cost: Cost) {
        if shared.turn.try_lock().is_err() || self.asking.is_closed() {
            return;
        }
        let (store, shared, began) = (store.clone(), Arc::clone(shared), self.began);
        self.asking.spawn(async move {
            let Ok(_turn) = shared.turn.try_lock() else {
                return;
            };
            if let Err(error) = ask(&store, &shared, cost, began).await {
                tracing::debug!(error = ?error, "limits were not taken in advance");
            }
        });
    }

    async fn ask(&self, store: &Store, shared: &Shared, cost: Cost) -> Result<()> {
        ask(store, shared, cost, self.began).await
    }

    fn refusal(&self, shared: &Shared, kin: Kin, refused: Refused) -> Refusal {
        let limits = *shared.purse().limits();
        let message = match refused.window {
            Window::Rate => {
                let rate = limits
                    .rate
                    .map_or(0.0, |rate| f64::from(rate.per_1000_s) / 1000.0);
                let burst = limits.rate.map_or(0, |rate| rate.burst);
                let what = match kin {
                    Kin::Key => "this key may make",
                    Kin::Agent => "this agent may be executed by",
                };
                format!(
                    "{what} {rate} requests a second, {burst} at once; wait as Retry-After says"
                )
            }
            Window::Day | Window::Month => {
                let (many, word) = match refused.window {
                    Window::Month => (limits.executions_per_month, "month"),
                    _ => (limits.executions_per_day, "day"),
                };
                let whose = match kin {
                    Kin::Key => "this key",
                    Kin::Agent => "this agent",
                };
                let many = many.unwrap_or(0);
                format!(
                    "the {many} executions a {word} of {whose} are used up; the next {word} (UTC) has as many"
                )
            }
        };
        let seconds = u32::try_from(seconds(refused.wait).max(1)).unwrap_or(u32::MAX);
        let mut headers = HeaderMap::new();
        self.write(shared, kin, true, &mut headers);
        Refusal::from(Error::new(Kind::RateLimited, message))
            .retry_after(seconds)
            .with_headers(headers)
    }

    /// Says how the limits stand, beside what is said already.
    pub fn tell(&self, taken: &Taken, headers: &mut HeaderMap) {
        self.write(&taken.of, taken.kin, taken.cost.execution, headers);
    }

    fn write(&self, shared: &Shared, kin: Kin, executions: bool, headers: &mut HeaderMap) {
        let standings = shared.purse().standings(self.now());
        for standing in standings {
            if standing.window != Window::Rate && !executions {
                continue;
            }
            let (policy, now) = words(kin, &standing);
            // Lists may come in several lines (RFC 9651, 3.1); who said it first knows it best.
            for (name, value) in [(POLICY, policy), (STANDING, now)] {
                if let Ok(value) = HeaderValue::from_str(&value)
                    && !said(headers, &name, &value)
                {
                    headers.append(name, value);
                }
            }
        }
    }

    /// Gives back what nobody needed, until told to stop, and then all of it.
    pub async fn sweep(&self, store: &Store, stop: CancellationToken) {
        let mut over = false;
        while !over {
            over = tokio::time::timeout(SWEEP, stop.cancelled()).await.is_ok();
            let now = if over { Duration::MAX } else { self.now() };
            let all: Vec<Arc<Shared>> = self.all().values().cloned().collect();
            for shared in all {
                let (back, limits) = {
                    let mut purse = shared.purse();
                    (purse.expired(now), *purse.limits())
                };
                if back == Amount::NOTHING {
                    continue;
                }
                let subject = (&shared.account, shared.id.as_str());
                if let Err(error) = store
                    .lease_limits(subject, &limits, back, Amount::NOTHING)
                    .await
                {
                    tracing::debug!(error = ?error, "what was taken of limits is not given back");
                }
            }
            let now = self.now();
            self.all().retain(|_, shared| {
                Arc::strong_count(shared) > 1 || !shared.purse().is_idle(now, FORGOTTEN)
            });
        }
        self.asking.close();
        self.asking.wait().await;
    }

    fn shared(&self, subject: &Subject<'_>) -> Arc<Shared> {
        let key = (subject.account.clone(), subject.id.to_owned());
        let mut all = self.all();
        let shared = all.entry(key).or_insert_with(|| {
            Arc::new(Shared {
                account: subject.account.clone(),
                id: subject.id.to_owned(),
                purse: Mutex::default(),
                waiting: AtomicU32::new(0),
                turn: tokio::sync::Mutex::default(),
            })
        });
        Arc::clone(shared)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<(AccountId, String), Arc<Shared>>> {
        self.purses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Under the turn.
async fn ask(store: &Store, shared: &Shared, cost: Cost, began: Instant) -> Result<()> {
    let (limits, back, want) = {
        let mut purse = shared.purse();
        let waiting = shared.waiting.load(Ordering::Relaxed);
        let (back, want) = purse.question(cost, waiting, began.elapsed());
        (*purse.limits(), back, want)
    };
    let subject = (&shared.account, shared.id.as_str());
    let lease = store.lease_limits(subject, &limits, back, want).await?;
    shared.purse().fill(cost, lease, began.elapsed());
    Ok(())
}

impl Shared {
    fn purse(&self) -> MutexGuard<'_, Purse> {
        self.purse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// What it was taken for did not come to pass. Once.
    pub fn put_back(&self) {
        if !self.back.swap(true, Ordering::Relaxed) {
            self.of.purse().put_back(self.cost);
        }
    }
}

struct Waits<'a>(&'a AtomicU32);

impl<'a> Waits<'a> {
    fn new(waiting: &'a AtomicU32) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One policy and how it stands, as structured fields.
fn words(kin: Kin, standing: &Standing) -> (String, String) {
    let kin = match kin {
        Kin::Key => "key",
        Kin::Agent => "agent",
    };
    let name = match standing.window {
        Window::Rate => format!("\"{kin}\""),
        Window::Day => format!("\"{kin}-day\""),
        Window::Month => format!("\"{kin}-month\""),
    };
    let (quota, window) = (standing.quota, seconds(standing.length).max(1));
    let (remaining, reset) = (standing.remaining, seconds(standing.reset));
    (
        format!("{name};q={quota};w={window}"),
        format!("{name};r={remaining};t={reset}"),
    )
}

/// Whether this policy was told already.
fn said(headers: &HeaderMap, name: &HeaderName, value: &HeaderValue) -> bool {
    let policy = |value: &HeaderValue| {
        value
            .to_str()
            .ok()
            .and_then(|text| text.split(';').next().map(str::to_owned))
    };
    headers
        .get_all(name)
        .iter()
        .any(|one| policy(one) == policy(value))
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// What one execution was admitted by: its key's quota and its agent's limits.
#[derive(Clone, Default)]
pub struct Admitted(Vec<Arc<Taken>>);

impl Admitted {
    /// All of them, or none.
    pub async fn by(
        meters: &Meters,
        store: &Store,
        subjects: [(Subject<'_>, Cost); 2],
    ) -> Result<Self, Refusal> {
        let mut admitted = Self::default();
        for (subject, cost) in subjects {
            match meters.take(store, subject, cost).await {
                Ok(taken) => admitted.0.extend(taken.map(Arc::new)),
                Err(refusal) => {
                    admitted.put_back();
                    return Err(refusal);
                }
            }
        }
        Ok(admitted)
    }

    /// It was not accepted, or is one that was admitted before.
    pub fn put_back(&self) {
        for taken in &self.0 {
            taken.put_back();
        }
    }

    pub fn tell(&self, meters: &Meters, headers: &mut HeaderMap) {
        for taken in &self.0 {
            meters.tell(taken, headers);
        }
    }
}
