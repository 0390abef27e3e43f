//! The environment: resolved to a lock once, on the first node, and built from that lock wherever the version shall run.

use super::Job;
use crate::nodes;
use domain::{Error, Result};
use proto::v1;
use store::{nodes::Node, versions::Lock};

pub async fn run(job: &Job) -> Result<()> {
    for node in job.hosts().await? {
        on(job, &node).await?;
    }
    Ok(())
}

/// Sees to it that a node has the environment. What this process has built already is not asked for again.
pub async fn on(job: &Job, node: &Node) -> Result<()> {
    let version = job.version()?;
    let store = &job.deps.store;
    let place = (node.id.clone(), version.id.clone());
    if job.notes.noted().packaged.contains(&place) {
        return Ok(());
    }
    let kept = store.lock(&version.account, &version.id).await?;
    let request = v1::PackageRequest {
        account: version.account.to_string(),
        version_id: version.id.to_string(),
        lock: kept
            .as_ref()
            .map(|kept| kept.lock.clone())
            .unwrap_or_default(),
        system: kept
            .as_ref()
            .map(|kept| kept.system.clone())
            .unwrap_or_default(),
    };
    job.notes
        .wait_for(format!("executor {} builds the environment", node.id));
    let done = nodes::package(job.means(), node, request, |line| job.notes.say(line)).await?;
    match kept {
        None => {
            let lock = Lock {
                lock: done.lock,
                digest: done.digest.clone(),
                system: done.system,
            };
            store
                .keep_lock(&version.account, &version.id, &lock)
                .await?;
            // The first one stays: another process may have been quicker, with another lock.
            let stays = store.lock(&version.account, &version.id).await?;
            if stays.is_some_and(|stays| stays != lock) {
                return Err(Error::unavailable(
                    "another process resolved the dependencies",
                ));
            }
        }
        Some(kept) if kept.digest != done.digest || kept.system != done.system => {
            return Err(Error::internal(format!(
                "executor {} built another environment than the lock's",
                node.id
            )));
        }
        Some(_) => {}
    }
    if !done.digest.is_empty() {
        let state = if done.reused {
            "there already"
        } else if done.fetched {
            "fetched"
        } else {
            "built"
        };
        let name = done.digest.get(..12).unwrap_or(&done.digest);
        job.notes.say(format!(
            "environment {name} is {state} on executor {}",
            node.id
        ));
    }
    job.notes.noted().packaged.insert(place);
    Ok(())
}
