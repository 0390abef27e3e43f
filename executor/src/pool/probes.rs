//! Looks after the health of instances: a probe every interval, one that is ill is replaced, and starts that lead nowhere wait
//! longer and longer.

use super::{Instance, Leaving, Pool, State};
use domain::{
    execution::{Failure, FailureCode, FailurePhase},
    health::{Condition, Crashes, End, Health, Probe, Sign},
    instance,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use store::crash_loops::CrashLoop;

/// How long an answer may take; what has not come by then may come to the next.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Less of a core than this is no sign of life.
const COMPUTES: f64 = 0.005;
/// Between two tries of an application that has started and is not healthy yet.
pub(crate) const RETRY: Duration = Duration::from_millis(250);

impl Instance {
    /// Asks it how it is doing: the frame for all, and the path where an ASGI application has one.
    pub async fn probe(&self, path: Option<&str>, in_flight: u32) -> Probe {
        let path = path.filter(|_| self.is_asgi);
        let (begun, cpu_us) = (Instant::now(), self.cpu_us());
        self.link.was_heard();
        let pong = match self.link.ping(path) {
            Ok(pong) => tokio::time::timeout(ANSWERS_WITHIN, pong).await,
            Err(_) => return Probe::default(),
        };
        let pong = pong.ok().and_then(Result::ok);
        let used = self.cpu_us().saturating_sub(cpu_us) as f64;
        Probe {
            answered: pong.is_some(),
            status: pong.and_then(|pong| pong.status),
            heard: self.link.was_heard(),
            computed: used / begun.elapsed().as_micros().max(1) as f64 >= COMPUTES,
            in_flight,
        }
    }
}

impl Pool {
    /// Until the instance is gone, or is to be replaced because it is ill.
    pub(super) async fn watch_health(self: &Arc<Self>, instance: &Arc<Instance>) {
        let check = &self.version.spec.health_check;
        if !check.enabled {
            return instance.link.closed().await;
        }
        let mut tick = tokio::time::interval(Duration::from_secs(u64::from(check.interval_s)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // It was probed before it became ready.
        tick.tick().await;
        let mut condition = Condition::default();
        loop {
            tokio::select! {
                () = instance.link.closed() => return,
                _ = tick.tick() => {}
            }
            let in_flight = self.in_flight_of(instance);
            let probe = tokio::select! {
                () = instance.link.closed() => return,
                probe = instance.probe(Some(&check.path), in_flight) => probe,
            };
            let sign = probe.sign();
            let before = condition.health();
            condition = condition.after(sign);
            let health = condition.health();
            let failed = matches!(sign, Sign::Ill(_) | Sign::Silent);
            if health == before && !failed {
                continue;
            }
            let complaint = complaint(&check.path, sign);
            tracing::info!(instance.id = %instance.id, agent.id = %self.version.spec.agent_id, health = health.as_str(), complaint, "an instance changed its health");
            self.note_health(instance, health, complaint, failed).await;
            if health == Health::Unhealthy {
                self.replace(instance, sign);
            }
        }
    }

    fn in_flight_of(&self, instance: &Arc<Instance>) -> u32 {
        let state = self.state();
        let mut seats = state.seats.iter();
        seats
            .find(|seat| Arc::ptr_eq(&seat.instance, instance))
            .map_or(0, |seat| seat.in_flight)
    }

    async fn note_health(
        &self,
        instance: &Arc<Instance>,
        health: Health,
        complaint: Option<String>,
        failed: bool,
    ) {
        let seen = {
            let mut state = self.state();
            let mut seats = state.seats.iter_mut();
            let seat = seats.find(|seat| Arc::ptr_eq(&seat.instance, instance));
            seat.map(|seat| {
                (seat.health, seat.complaint) = (health, complaint);
                seat.failed_checks += u32::from(failed);
                seat.ready_at
            })
        };
        if let Some(ready_at) = seen {
            self.keep(instance, instance::State::Ready, ready_at, None)
                .await;
        }
    }

    /// It takes no more work, and ends with what runs in it; at once, where nothing does.
    fn replace(self: &Arc<Self>, instance: &Arc<Instance>, sign: Sign) {
        let mut state = self.state();
        let mut seats = state.seats.iter_mut();
        if let Some(seat) = seats.find(|seat| Arc::ptr_eq(&seat.instance, instance)) {
            seat.leaving = Leaving::Quarantined;
            if seat.in_flight == 0 || sign == Sign::Silent {
                self.end(instance);
            }
        }
        self.scale_with(&mut state);
    }

    /// What follows from an end that nobody wanted: how long the next start waits.
    pub(super) fn crashed(self: &Arc<Self>, state: &mut State, end: End) {
        state.crashes = state.crashes.after(end);
        let wait = state.crashes.wait();
        if wait.is_zero() {
            return;
        }
        state.not_before = Some(Instant::now() + wait);
        let (pool, stop) = (Arc::clone(self), self.stop.clone());
        self.common.grounds.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => pool.scale(),
            }
        });
    }

    /// An instance has lived for so long that starting leads somewhere.
    pub(super) async fn steady(&self) {
        let was_loop = {
            let mut state = self.state();
            state.crashes = Crashes::default();
            state.loop_since.take()
        };
        if was_loop.is_some() {
            self.end_loop().await;
        }
    }

    /// Keeps the loop, where there is one.
    pub(super) async fn note_loop(&self, failure: Failure) {
        let now = self.common.grounds.store.now();
        let seen = {
            let mut state = self.state();
            let wait = state.crashes.wait();
            let crashes = state.crashes.count();
            state.crashes.is_loop().then(|| {
                state.loop_failure = Some(failure.clone());
                let since = *state.loop_since.get_or_insert(now);
                (since, crashes, now + wait)
            })
        };
        let Some((since, crashes, retry_at)) = seen else {
            return;
        };
        let version = &self.version;
        let row = CrashLoop {
            version_id: version.id.clone(),
            node_id: self.common.node_id.clone(),
            account: version.account.clone(),
            agent_id: version.spec.agent_id.clone(),
            crashes,
            since,
            retry_at,
            failure,
        };
        tracing::warn!(version.id = %row.version_id, agent.id = %row.agent_id, crashes, "a version crashes at every start");
        if let Err(error) = self.common.grounds.store.keep_crash_loop(&row).await {
            tracing::warn!(error = ?error, "a crash loop was not kept");
        }
    }

    pub(super) async fn end_loop(&self) {
        let store = &self.common.grounds.store;
        let ended = store.end_crash_loop(&self.version.id, &self.common.node_id);
        if let Err(error) = ended.await {
            tracing::warn!(error = ?error, "the end of a crash loop was not kept");
        }
    }
}

fn complaint(path: &str, sign: Sign) -> Option<String> {
    match sign {
        Sign::Well | Sign::Loaded => None,
        Sign::Ill(status) => Some(format!("GET {path} answered {status}")),
        Sign::Silent => Some(format!(
            "it neither answered within {} s nor did anything else",
            ANSWERS_WITHIN.as_secs()
        )),
    }
}

/// It was imported and initialised, and its application never said that it is well.
pub(crate) fn never_healthy(path: &str, status: Option<u16>, within: Duration) -> Failure {
    let said = status.map_or("did not answer".to_owned(), |status| {
        format!("answered {status}")
    });
    let message = format!(
        "it started and did not become healthy within {} s: GET {path} {said}",
        within.as_secs()
    );
    Failure::new(FailureCode::InitFailed, FailurePhase::Init, message)
}
