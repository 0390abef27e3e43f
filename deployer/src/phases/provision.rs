//! Instances: every chosen node gets its envelope, and enough of them become ready, or one says why it cannot.

use super::{Job, Pace, package};
use crate::nodes;
use domain::{
    Error, Kind, Result,
    agent::Scaling,
    envelope,
    execution::{Failure, FailureCode},
};
use proto::v1;
use store::{envelopes::Wanted, nodes::Node};

/// Instances in a row that may fail to start before the deployment does.
const MOST_FAILURES: u32 = 2;

pub async fn run(job: &Job) -> Result<()> {
    let version = job.version()?;
    let hosts = job.hosts().await?;
    for node in &hosts {
        package::on(job, node).await?;
    }
    leave_others(job, &hosts).await?;
    let (min, max) = job.bounds()?;
    for (at, node) in hosts.iter().enumerate() {
        let (min, max) = share(min, max, at, hosts.len());
        let wanted = Wanted {
            version_id: &version.id,
            state: envelope::State::Serving,
            min_instances: min,
            max_instances: max,
        };
        // A new generation every time: with it the executor proves anew that the agent starts.
        let generation = job.place(&version.account, &node.id, &wanted).await?;
        nodes::ensure(job.means(), node, &version.account, &version.id, generation).await?;
        job.notes.say(format!(
            "executor {} keeps {min} to {max} instances",
            node.id
        ));
    }
    let needed = min.max(1);
    let mut pace = Pace::new();
    loop {
        let ready = ready(job, &hosts).await?;
        if ready >= needed {
            job.notes.say(format!("{ready} instances are ready"));
            return Ok(());
        }
        job.notes
            .wait_for(format!("{ready} of {needed} instances were ready"));
        pace.wait().await;
    }
}

/// Instances of the version that are ready on these nodes; an error where they cannot start.
pub async fn ready(job: &Job, hosts: &[Node]) -> Result<u32> {
    let version = job.version()?;
    let looks = hosts
        .iter()
        .map(|node| nodes::inspect(job.means(), node, &version.account, &version.id));
    let mut ready = 0;
    for look in futures::future::try_join_all(looks).await? {
        if let Some(error) = refusal(job, &look)? {
            return Err(error);
        }
        let state = domain::instance::State::Ready.as_str();
        ready += look
            .instances
            .iter()
            .filter(|one| one.state == state)
            .count();
    }
    Ok(u32::try_from(ready).unwrap_or(u32::MAX))
}

/// Why the agent cannot start, once that is certain: its import or its start raised, or nothing else helped.
fn refusal(job: &Job, look: &v1::InspectReply) -> Result<Option<Error>> {
    if look.failure.is_empty() {
        return Ok(None);
    }
    let failure: Failure = serde_json::from_slice(&look.failure)
        .map_err(|error| Error::internal("an executor sent a bad failure").because(error))?;
    if failure.code != FailureCode::InitFailed && look.failures < MOST_FAILURES {
        return Ok(None);
    }
    for line in &look.logs {
        job.notes.say(format!("{} {}", line.level, line.message));
    }
    for line in failure.traceback.iter().flat_map(|text| text.lines()) {
        job.notes.say(line);
    }
    let what = failure
        .exception_type
        .map_or(String::new(), |name| format!("{name}: "));
    Ok(Some(Error::new(
        Kind::Conflict,
        format!(
            "the agent cannot start ({}): {what}{}",
            failure.phase, failure.message
        ),
    )))
}

/// Serves on between other bounds, where it serves. What cannot be reached reads its row with its next beat.
pub async fn hold(job: &Job, min: u32, max: u32) -> Result<()> {
    let version = job.version()?;
    let store = &job.deps.store;
    let mut placed = store
        .envelopes_of_version(&version.account, &version.id)
        .await?;
    placed.retain(|placed| placed.envelope.state == envelope::State::Serving);
    placed.sort_by(|one, other| one.node_id.cmp(&other.node_id));
    let of = placed.len();
    for (at, placed) in placed.into_iter().enumerate() {
        let (min, max) = share(min, max.max(min), at, of);
        let had = &placed.envelope;
        if (had.min_instances, had.max_instances) == (min, max) {
            continue;
        }
        let wanted = Wanted {
            version_id: &version.id,
            state: envelope::State::Serving,
            min_instances: min,
            max_instances: max,
        };
        let generation = job
            .place(&version.account, &placed.node_id, &wanted)
            .await?;
        if let Some(node) = nodes::alive(job.means(), &placed.node_id).await?
            && let Err(error) = nodes::ensure(
                job.means(),
                &node,
                &version.account,
                &version.id,
                generation,
            )
            .await
        {
            job.notes.say(error.to_string());
        }
    }
    Ok(())
}

/// Without scaling the number is fixed.
pub fn bounds(scaling: &Scaling) -> (u32, u32) {
    if scaling.enabled {
        (scaling.min_instances, scaling.max_instances.max(1))
    } else {
        let fixed = scaling.min_instances.max(1);
        (fixed, fixed)
    }
}

/// One node's part of an envelope: the first ones take what is left over, and nobody's maximum is zero.
pub fn share(min: u32, max: u32, at: usize, of: usize) -> (u32, u32) {
    let (at, of) = (
        u32::try_from(at).unwrap_or(0),
        u32::try_from(of).unwrap_or(1).max(1),
    );
    let part = |all: u32| all / of + u32::from(at < all % of);
    (part(min), part(max).max(1).max(part(min)))
}

/// Nodes that hosted the version and shall not any more.
async fn leave_others(job: &Job, hosts: &[Node]) -> Result<()> {
    let version = job.version()?;
    let store = &job.deps.store;
    for placed in store
        .envelopes_of_version(&version.account, &version.id)
        .await?
    {
        if hosts.iter().all(|node| node.id != placed.node_id) {
            super::take_down::let_go(job, &placed).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_up() {
        for (min, max, of) in [(0, 1, 1), (1, 100, 3), (7, 10, 4), (0, 2, 3)] {
            let shares: Vec<_> = (0..of).map(|at| share(min, max, at, of)).collect();
            assert_eq!(shares.iter().map(|(min, _)| min).sum::<u32>(), min);
            assert!(shares.iter().map(|(_, max)| max).sum::<u32>() >= max);
            assert!(shares.iter().all(|(min, max)| min <= max && *max > 0));
        }
    }

    #[test]
    fn without_scaling_the_number_is_fixed() {
        let scaling = |enabled, min_instances| Scaling {
            enabled,
            min_instances,
            max_instances: 9,
            target_utilization: 0.7,
        };
        assert_eq!(bounds(&scaling(true, 0)), (0, 9));
        assert_eq!(bounds(&scaling(false, 0)), (1, 1));
        assert_eq!(bounds(&scaling(false, 4)), (4, 4));
    }
}
