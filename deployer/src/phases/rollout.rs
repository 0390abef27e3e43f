//! Moves callers: measures, has `domain::rollout` decide, does the one thing that it says, and looks again.

use super::{
    Job, Pace, provision, relocate,
    shift_traffic::{self, route},
};
use crate::samples;
use domain::{
    Error, Result, Timestamp,
    envelope::State,
    rollout::{ALL, Held, Orders, Rollout, Seen, Stage, Step, Strategy, decide, is_last},
    traffic::{Route, Traffic},
    verdict::{self, Outcome, Verdict},
};
use proto::{convert::read_sample, v1::SamplesRequest};
use std::time::Duration;
use store::instances::Instance;
use tokio::time::Instant;

/// Nodes are looked after so often while a stage waits: the keeper leaves an agent alone that has a deployment.
const KEEP_EVERY: Duration = Duration::from_secs(2);

/// What was measured last.
#[derive(Default)]
struct Measured {
    at: Option<Instant>,
    kept_at: Option<Instant>,
    verdict: Option<Verdict>,
    breach: Option<String>,
}

pub async fn run(job: &Job, stage: Stage) -> Result<()> {
    let (own, store) = (shift_traffic::own(job)?, &job.deps.store);
    let (mut measured, mut pace) = (Measured::default(), Pace::new());
    if stage == Stage::Shift {
        measure_capacity(job).await?;
    }
    loop {
        let traffic = store.traffic(&job.deployment.incarnation).await?;
        let weight = traffic.weight_of(&own.version_id);
        look(job, stage, weight, &mut measured).await?;
        let ready = match stage {
            Stage::Shift if weight < ALL => provision::ready(job, &job.hosts().await?).await?,
            Stage::Shift | Stage::Canary | Stage::Watch => 0,
        };
        let orders = job.notes.orders();
        show_pause(job, &orders);
        let rollout = job.notes.rollout();
        let seen = Seen {
            rollout: &rollout,
            stage,
            since: job.notes.since(),
            weight,
            ready,
            orders: &orders,
            verdict: measured.verdict.as_ref(),
            breach: measured.breach.as_deref(),
            newer: job.notes.newer().is_some(),
            watch: job.config.watch,
        };
        match decide(&seen, store.now()) {
            Step::Route(weight) => {
                give(job, &rollout, own.clone(), weight).await?;
                pace = Pace::new();
                continue;
            }
            Step::Grow(needed) => {
                let (_, max) = job.bounds()?;
                provision::hold(job, needed.min(max), max).await?;
                let wait = format!("{ready} of {needed} instances are ready");
                job.notes.wait_for(wait);
            }
            Step::Wait(what) => job.notes.wait_for(what),
            Step::Pause(reason) => pause(job, reason),
            Step::RollBack(reason) => {
                job.notes.go_back(reason.clone());
                return Err(Error::conflict(reason));
            }
            Step::Done(why) => {
                if rollout.baseline.is_some() {
                    job.notes.say(why);
                }
                return Ok(());
            }
        }
        pace.wait().await;
    }
}

/// Nothing of the version before is promised from here on, and the new one is kept as its own figures say.
pub async fn settle(job: &Job) -> Result<()> {
    job.notes.change(|rollout| rollout.settled = true);
    job.notes.save().await;
    let (min, max) = provision::bounds(&job.version()?.spec.scaling);
    provision::hold(job, min, max).await
}

/// As many instances as serve now; those of a while ago do not count.
async fn measure_capacity(job: &Job) -> Result<()> {
    let rollout = job.notes.rollout();
    let begun = rollout.weight > rollout.plan.canary.weight || rollout.weight == ALL;
    let Some(baseline) = rollout.baseline.filter(|_| !begun) else {
        return Ok(());
    };
    let capacity = job.capacity(&baseline).await?;
    job.notes.change(|rollout| rollout.capacity = capacity);
    Ok(())
}

impl Job {
    /// Instances that the version must have before the one before it loses its last caller.
    pub async fn capacity(&self, baseline: &Route) -> Result<u32> {
        let (min, max) = provision::bounds(&self.version()?.spec.scaling);
        let ready = self.ready_instances(baseline).await?;
        let serving = u32::try_from(ready.len()).unwrap_or(u32::MAX);
        Ok(serving.max(min).min(max))
    }

    /// As the rows have it.
    pub async fn ready_instances(&self, of: &Route) -> Result<Vec<Instance>> {
        let row = &self.deployment;
        let store = &self.deps.store;
        let mut living = store.living_instances(&row.account, &row.agent_id).await?;
        living.retain(|one| {
            one.version_id == of.version_id && one.state == domain::instance::State::Ready
        });
        Ok(living)
    }
}

async fn give(job: &Job, rollout: &Rollout, own: Route, weight: u32) -> Result<()> {
    let words = format!(
        "version {} answers {} % of the callers",
        own.version,
        f64::from(weight) / 10.0
    );
    let traffic = match &rollout.baseline {
        Some(older) => Traffic::shared(older.clone(), own, weight),
        None => Traffic::all_to(own.version_id, own.version),
    };
    route(job, &traffic).await?;
    let at = job.deps.store.now();
    job.notes.change(|rollout| {
        rollout.weight = weight;
        if weight == ALL {
            rollout.switched_at = Some(at);
        }
        if weight == ALL || rollout.samples.from.is_none() {
            // Those who were counted before had a share, or nobody.
            rollout.samples = domain::rollout::Samples {
                from: Some(at),
                upto: Some(at),
                ..Default::default()
            };
        }
    });
    job.notes.say(words);
    if rollout.plan.strategy == Strategy::Rolling {
        shrink(job, rollout, weight).await?;
    }
    Ok(())
}

/// The version before needs fewer instances with fewer callers; one stays warm for the way back.
async fn shrink(job: &Job, rollout: &Rollout, weight: u32) -> Result<()> {
    let Some(baseline) = &rollout.baseline else {
        return Ok(());
    };
    let account = &job.deployment.account;
    let version = job
        .deps
        .store
        .version(account, &baseline.version_id)
        .await?;
    let Some(version) = version else {
        return Ok(());
    };
    let (min, max) = provision::bounds(&version.spec.scaling);
    let least = (min * (ALL - weight)).div_ceil(ALL).max(1).min(min);
    provision::hold(&job.about(version), least, max).await
}

/// A caller's pause is in the record as well, until it is over.
fn show_pause(job: &Job, orders: &Orders) {
    let held = job.notes.rollout().held;
    match (&orders.paused, held) {
        (Some((by, at)), None) => {
            let (since, reason) = (*at, format!("paused by {by}"));
            job.notes.say(reason.clone());
            let held = Some(Held { since, reason });
            job.notes.change(|rollout| rollout.held = held);
        }
        (None, Some(held)) if orders.has_ended(&held) => {
            job.notes.say("it goes on");
            job.notes.change(|rollout| rollout.held = None);
        }
        _ => {}
    }
}

fn pause(job: &Job, reason: String) {
    let since = job.deps.store.now();
    job.notes.say(format!("paused: {reason}"));
    job.notes.change(|rollout| {
        rollout.errors = 0;
        rollout.held = Some(Held { since, reason });
    });
}

async fn look(job: &Job, stage: Stage, weight: u32, measured: &mut Measured) -> Result<()> {
    let due = |at: Option<Instant>, every| at.is_none_or(|at: Instant| at.elapsed() >= every);
    let rollout = job.notes.rollout();
    let Some(baseline) = &rollout.baseline else {
        return Ok(());
    };
    if due(measured.kept_at, KEEP_EVERY) {
        measured.kept_at = Some(Instant::now());
        keep(job, baseline).await?;
    }
    let Some(from) = rollout.samples.from.filter(|_| weight > 0) else {
        return Ok(());
    };
    // Without a canary and without triggers there is nothing to judge by.
    if !due(measured.at, job.config.judge_every)
        || !(stage == Stage::Canary || rollout.plan.watched)
        || rollout.settled
    {
        return Ok(());
    }
    measured.at = Some(Instant::now());
    let counted = count(job, baseline, from).await;
    let now = job.deps.store.now();
    let version = &job.version()?.id;
    let failures = job.deps.store.failed_checks(version, from).await?;
    let last = is_last(&rollout, &job.notes.orders(), job.notes.since(), now);
    let samples = job.notes.rollout().samples;
    let plan = &rollout.plan;
    measured.breach = verdict::breach(&plan.triggers, &samples.version, failures);
    let said = if let Err(error) = counted {
        Verdict::new(Outcome::MeasurementError, error.message)
    } else {
        let criteria = &plan.canary.criteria;
        verdict::judge(criteria, &samples.version, &samples.baseline, last)
    };
    if stage == Stage::Canary {
        note(job, &said, now);
        measured.verdict = Some(said);
    }
    Ok(())
}

fn note(job: &Job, said: &Verdict, now: Timestamp) {
    let before = job.notes.rollout().verdicts.pop();
    if before.is_none_or(|before| before.outcome != said.outcome) {
        job.notes
            .say(format!("verdict {}: {}", said.outcome, said.reason));
    }
    job.notes.change(|rollout| rollout.note(said, now));
}

/// Adds what has ended since the last look.
async fn count(job: &Job, baseline: &Route, from: Timestamp) -> Result<()> {
    let (row, version) = (&job.deployment, &job.version()?.id);
    let upto = job.notes.rollout().samples.upto.unwrap_or(from);
    let until = samples::until(job.deps.store.now());
    if until <= upto {
        return Ok(());
    }
    let request = SamplesRequest {
        account: row.account.to_string(),
        agent_id: row.agent_id.to_string(),
        version_ids: vec![version.to_string(), baseline.version_id.to_string()],
        since_ms: from.0,
        from_ms: upto.0,
        to_ms: until.0,
    };
    let reply = samples::samples(&job.deps, &job.config, request).await?;
    let mut counted = Vec::new();
    for one in &reply.samples {
        counted.push((one.version_id == version.to_string(), read_sample(one)?));
    }
    job.notes.change(|rollout| {
        for (ours, sample) in &counted {
            let side = if *ours {
                &mut rollout.samples.version
            } else {
                &mut rollout.samples.baseline
            };
            side.merge(sample);
        }
        rollout.samples.upto = Some(Timestamp(reply.upto_ms));
    });
    Ok(())
}

/// Both versions are hosted by others where a node was lost or leaves.
async fn keep(job: &Job, baseline: &Route) -> Result<()> {
    let (store, account) = (&job.deps.store, &job.deployment.account);
    let nodes = store.nodes().await?;
    let candidates = crate::nodes::candidates(job.means(), &nodes);
    let stays = |id| candidates.iter().any(|one| one.stays && one.node_id == id);
    for version in [&job.version()?.id, &baseline.version_id] {
        let placed = store.envelopes_of_version(account, version).await?;
        let away = placed.iter().any(|placed| {
            placed.envelope.state == State::Serving && !stays(placed.node_id.clone())
        });
        if !away || !candidates.iter().any(|one| one.open) {
            continue;
        }
        if let Some(version) = store.version(account, version).await? {
            let about = job.about(version);
            let leaving = relocate::stand_in(&about).await?;
            relocate::finish(&about, leaving).await?;
            job.notes
                .say("an executor was lost or leaves; others host what it hosted");
        }
    }
    Ok(())
}
