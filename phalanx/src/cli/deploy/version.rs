//! Which version is sent. A named one is sent as it is; else 1.0.0 first, then the newest, and when that has other content
//! the one after it.

use crate::cli::{
    api::{Api, Body, segment},
    out,
    trouble::Trouble,
};
use semver::{BuildMetadata, Prerelease, Version};
use serde_json::Value;

/// Others may deploy the same agent meanwhile.
const TRIES: u32 = 5;

pub async fn send(
    api: &Api,
    agent_id: &str,
    named: Option<&str>,
    body: &mut Value,
) -> Result<(Body, String), Trouble> {
    if let Some(version) = named {
        return Ok((post(api, body, version).await?, version.to_owned()));
    }
    let mut version = newest(api, agent_id)
        .await?
        .unwrap_or(Version::new(1, 0, 0));
    for _ in 0..TRIES {
        let conflict = match post(api, body, &version.to_string()).await {
            Ok(answer) => return Ok((answer, version.to_string())),
            Err(Trouble::Refused(refusal)) if refusal.status == 409 => refusal,
            Err(trouble) => return Err(trouble),
        };
        // A conflict about something else than the version is not cured by another version.
        let Some(newest) = newest(api, agent_id)
            .await?
            .filter(|newest| *newest >= version)
        else {
            return Err(Trouble::Refused(conflict));
        };
        let next = after(&newest);
        out::say(&format!(
            "version {version} has other content; this becomes {next}"
        ));
        version = next;
    }
    Err(Trouble::Failed(format!(
        "{agent_id} is being deployed by others again and again; name a --version"
    )))
}

async fn post(api: &Api, body: &mut Value, version: &str) -> Result<Body, Trouble> {
    body["agent_metadata"]["version"] = version.into();
    api.post("/api/v1/agents/deploy", body, super::SEND_WITHIN)
        .await
}

async fn newest(api: &Api, agent_id: &str) -> Result<Option<Version>, Trouble> {
    let body = match api
        .get(&format!(
            "/api/v1/agents/{}/versions?limit=200",
            segment(agent_id)
        ))
        .await
    {
        Ok(body) => body,
        Err(Trouble::Refused(refusal)) if refusal.status == 404 => return Ok(None),
        Err(trouble) => return Err(trouble),
    };
    let body = body.value()?;
    let listed = body["versions"]
        .as_array()
        .ok_or_else(|| Trouble::odd("there is no list of versions"))?;
    let versions = listed
        .iter()
        .filter_map(|entry| entry["version"].as_str()?.parse::<Version>().ok());
    Ok(versions.max())
}

fn after(version: &Version) -> Version {
    let mut next = version.clone();
    if next.pre.is_empty() {
        next.patch += 1;
    }
    next.pre = Prerelease::EMPTY;
    next.build = BuildMetadata::EMPTY;
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_version_is_newer() {
        for (given, wanted) in [
            ("1.0.0", "1.0.1"),
            ("1.2.9+b", "1.2.10"),
            ("2.0.0-rc.1", "2.0.0"),
        ] {
            let given: Version = given.parse().expect("a version");
            assert_eq!(after(&given).to_string(), wanted);
        }
    }
}
