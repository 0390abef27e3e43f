//! Other nodes stand in for those that are lost or leave. No phase of a deployment: the keeper does it while none is on its way.

use super::{Job, Pace, package, provision, retire, shift_traffic::tell, take_down::let_go};
use crate::{chance, nodes};
use domain::{
    Error, Result,
    envelope::State,
    id::NodeId,
    place::{self, Candidate},
};
use proto::v1::{TrafficChanged, event::Event};
use std::time::Duration;
use store::{
    envelopes::{Placed, Wanted},
    nodes::Node,
};
use tokio::time::Instant;

/// How long the instances of a stand-in may take to be ready before those of a lost node are given up without them.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What is on its way out, and need not be waited for by those who stand in for others.
pub(crate) struct Leaving(Vec<Placed>);

/// A node and its part of the envelope.
struct Taker {
    node: Node,
    min: u32,
    max: u32,
}

/// Where every envelope of a version lies.
struct Places {
    kept: Vec<Placed>,
    away: Vec<Placed>,
    retiring: Vec<Placed>,
}

/// Has others host what lost and leaving nodes do, and begins to retire it there.
pub(crate) async fn stand_in(job: &Job) -> Result<Leaving> {
    let version = job.version()?;
    let store = &job.deps.store;
    let nodes = store.nodes().await?;
    let candidates = nodes::candidates(job.means(), &nodes);
    let all = store
        .envelopes_of_version(&version.account, &version.id)
        .await?;
    let places = sorted(all, &candidates);
    let is_nowhere = places.kept.is_empty() && places.retiring.is_empty();
    if places.away.is_empty() && !(is_nowhere && answers(job).await?) {
        return Ok(Leaving(places.retiring));
    }
    let takers = takers(job, &places, &nodes, &candidates)?;
    for taker in &takers {
        package::on(job, &taker.node).await?;
    }
    // What was built meanwhile took its time; who changed the orders since had a reason.
    let now = store
        .envelopes_of_version(&version.account, &version.id)
        .await?;
    if !places.away.iter().all(|placed| now.contains(placed)) {
        return Ok(Leaving(Vec::new()));
    }
    for taker in &takers {
        order(job, taker).await?;
    }
    if takers.is_empty() {
        for placed in &places.kept {
            tell_again(job, placed).await?;
        }
    }
    let ready = ready(job, &places.kept, &takers).await;
    let mut leaving = places.retiring;
    for placed in places.away {
        let alive = nodes::alive(job.means(), &placed.node_id).await?.is_some();
        match (&ready, alive) {
            // It serves until somebody else does.
            (Err(error), true) => return Err(error.clone()),
            (Ok(()), true) => {
                retire::begin(job, &placed).await?;
                leaving.push(placed);
            }
            (_, false) => let_go(job, &placed).await?,
        }
    }
    told(job).await;
    Ok(Leaving(leaving))
}

async fn answers(job: &Job) -> Result<bool> {
    let traffic = job.deps.store.traffic(&job.deployment.incarnation).await?;
    let id = &job.version()?.id;
    let mut routes = traffic.routes.iter();
    Ok(routes.any(|route| route.version_id == *id && route.weight > 0))
}

/// Waits for what still runs where it is leaving, and lets go of it there.
pub(crate) async fn finish(job: &Job, Leaving(leaving): Leaving) -> Result<()> {
    if leaving.is_empty() {
        return Ok(());
    }
    let heard_by = Instant::now() + job.config.settle;
    let deadline = Instant::now() + retire::bound(job, &leaving).await?;
    for placed in &leaving {
        retire::drained(job, placed, heard_by, deadline).await?;
        let_go(job, placed).await?;
    }
    told(job).await;
    Ok(())
}

fn sorted(all: Vec<Placed>, candidates: &[Candidate]) -> Places {
    let stays = |id: &NodeId| candidates.iter().any(|one| one.stays && one.node_id == *id);
    let (serving, retiring): (Vec<Placed>, Vec<Placed>) = all
        .into_iter()
        .partition(|placed| placed.envelope.state == State::Serving);
    let (kept, away) = serving
        .into_iter()
        .partition(|placed| stays(&placed.node_id));
    Places {
        kept,
        away,
        retiring,
    }
}

/// Who takes what the version lacks without those that are away: new nodes up to the number it needs, else one that has it.
fn takers(
    job: &Job,
    places: &Places,
    nodes: &[Node],
    candidates: &[Candidate],
) -> Result<Vec<Taker>> {
    let (min, max) = provision::bounds(&job.version()?.spec.scaling);
    let (mut lack_min, mut lack_max) = (min, max);
    for placed in &places.kept {
        lack_min = lack_min.saturating_sub(placed.envelope.min_instances);
        lack_max = lack_max.saturating_sub(placed.envelope.max_instances);
    }
    if !places.kept.is_empty() && (lack_min, lack_max) == (0, 0) {
        // One that stood in before it could end the others' part: that is all that is left to do.
        return Ok(Vec::new());
    }
    let kept: Vec<NodeId> = places
        .kept
        .iter()
        .map(|placed| placed.node_id.clone())
        .collect();
    let seed = (job.deployment.id.as_str(), job.deps.store.now().0);
    let need = job.need()?;
    let chosen = place::choose(candidates, &kept, need, chance::of(seed));
    let node_of = |id: &NodeId| nodes.iter().find(|node| node.id == *id).cloned();
    let new: Vec<Node> = chosen
        .iter()
        .filter(|id| !kept.contains(id))
        .filter_map(node_of)
        .collect();
    if !new.is_empty() {
        let of = new.len();
        let parts = new.into_iter().enumerate().map(|(at, node)| {
            let (min, max) = provision::share(lack_min, lack_max, at, of);
            Taker { node, min, max }
        });
        return Ok(parts.collect());
    }
    let first = places.kept.iter().find_map(|placed| {
        Some(Taker {
            node: node_of(&placed.node_id)?,
            min: placed.envelope.min_instances + lack_min,
            max: placed.envelope.max_instances + lack_max,
        })
    });
    let taker = first.ok_or_else(|| job.nowhere(candidates))?;
    Ok(vec![taker])
}

async fn order(job: &Job, taker: &Taker) -> Result<()> {
    let version = job.version()?;
    let wanted = Wanted {
        version_id: &version.id,
        state: State::Serving,
        min_instances: taker.min,
        max_instances: taker.max,
    };
    let node = &taker.node;
    let generation = job.place(&version.account, &node.id, &wanted).await?;
    tracing::info!(version.id = %version.id, agent.id = %version.spec.agent_id, node.id = %node.id, "another executor takes over a version");
    ensure(job, node, generation).await
}

/// Whoever placed it may have died before it said so.
async fn tell_again(job: &Job, placed: &Placed) -> Result<()> {
    match nodes::alive(job.means(), &placed.node_id).await? {
        Some(node) => ensure(job, &node, placed.envelope.generation).await,
        None => Ok(()),
    }
}

/// A node that does not hear it reads its row with its next beat.
async fn ensure(job: &Job, node: &Node, generation: i64) -> Result<()> {
    let version = job.version()?;
    if let Err(error) =
        nodes::ensure(job.means(), node, &version.account, &version.id, generation).await
    {
        tracing::warn!(error = ?error, node.id = %node.id, version.id = %version.id, "an executor was not told to take over a version");
    }
    Ok(())
}

/// Until as many instances are ready as the version asks for at least.
async fn ready(job: &Job, kept: &[Placed], takers: &[Taker]) -> Result<()> {
    let (needed, _) = provision::bounds(&job.version()?.spec.scaling);
    if needed == 0 {
        return Ok(());
    }
    let hosts: Vec<Node> = job.deps.store.nodes().await?;
    let hosts: Vec<Node> = hosts
        .into_iter()
        .filter(|node| {
            kept.iter().any(|placed| placed.node_id == node.id)
                || takers.iter().any(|taker| taker.node.id == node.id)
        })
        .collect();
    let deadline = Instant::now() + READY_WITHIN;
    let mut pace = Pace::new();
    loop {
        let looked = provision::ready(job, &hosts).await;
        match looked {
            Ok(ready) if ready >= needed => return Ok(()),
            Ok(ready) if Instant::now() >= deadline => {
                return Err(Error::unavailable(format!(
                    "{ready} of {needed} instances were ready within {READY_WITHIN:?}"
                )));
            }
            Err(error) if Instant::now() >= deadline || !error.kind.is_passing() => {
                return Err(error);
            }
            Ok(_) | Err(_) => pace.wait().await,
        }
    }
}

/// Gateways read anew who hosts the agent.
async fn told(job: &Job) {
    let changed = Event::TrafficChanged(TrafficChanged {
        account: job.deployment.account.to_string(),
        agent_id: job.deployment.agent_id.to_string(),
    });
    tell(job, changed).await;
}
