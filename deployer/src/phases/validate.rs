//! Whether what was accepted can be deployed: the agent lives, its code is there and whole.

use super::Job;
use domain::{Error, Result, artifact};

pub async fn run(job: &Job) -> Result<()> {
    let version = job.version()?;
    let store = &job.deps.store;
    let agent = store
        .agent(&version.account, &version.spec.agent_id)
        .await?;
    if agent.is_none_or(|agent| agent.incarnation != version.incarnation) {
        return Err(Error::conflict("the agent was deleted meanwhile"));
    }
    let bytes = store
        .artifact(&version.account, &version.artifact)
        .await?
        .ok_or_else(|| Error::not_found("the code of this version"))?;
    let size = bytes.len();
    let (limits, entrypoint) = (job.config.artifact, version.spec.entrypoint.to_string());
    let looked = tokio::task::spawn_blocking(move || look(&bytes, limits, &entrypoint)).await;
    let digest = looked
        .map_err(|error| Error::internal("the code could not be looked at").because(error))?
        .map_err(|faults| Error::conflict(format!("the code: {}", faults.join("; "))))?;
    if digest != version.artifact {
        return Err(Error::conflict("the code is not what was accepted"));
    }
    job.notes.say(format!(
        "the code is whole: {size} bytes, sha256 {}",
        &digest[..digest.len().min(12)]
    ));
    Ok(())
}

/// Its digest, or everything that is wrong. Modules may come from a dependency and are proven by the import; a named file
/// must be there.
fn look(bytes: &[u8], limits: artifact::Limits, entrypoint: &str) -> Result<String, Vec<String>> {
    let inspected = artifact::inspect(bytes, limits)?;
    let file = entrypoint.split(':').next().unwrap_or_default();
    if inspected.kind == artifact::ArtifactKind::Zip && file.ends_with(".py") {
        let mut found = false;
        artifact::unpack(bytes, file, limits, |entry| {
            found |= entry.path == file;
            Ok(())
        })?;
        if !found {
            return Err(vec![format!(
                "the entrypoint names {file}, which is not in the zip"
            )]);
        }
    }
    Ok(inspected.digest)
}
