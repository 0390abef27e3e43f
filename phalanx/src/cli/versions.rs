//! `phalanx versions`

use super::{
    api::{Api, segment},
    out,
    status::word,
    trouble::Trouble,
};
use clap::Args;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct Arguments {
    agent: String,
}

pub async fn run(arguments: Arguments, api: &Api) -> Result<ExitCode, Trouble> {
    let body = api
        .get(&format!(
            "/api/v1/agents/{}/versions",
            segment(&arguments.agent)
        ))
        .await?;
    if api.json {
        out::json(&body.0)?;
        return Ok(ExitCode::SUCCESS);
    }
    let body = body.value()?;
    let versions = body["versions"]
        .as_array()
        .ok_or_else(|| Trouble::odd("there is no list of versions"))?;
    let rows = versions.iter().map(|version| {
        [
            word(&version["version"]),
            word(&version["traffic_percentage"]),
            word(&version["entrypoint"]),
            word(&version["created_at"]),
        ]
    });
    out::table(["VERSION", "TRAFFIC %", "ENTRYPOINT", "CREATED"], rows)?;
    out::pages(&body["pagination"]);
    Ok(ExitCode::SUCCESS)
}
