//! `phalanx agents`

use super::{
    api::{Api, query},
    out,
    status::word,
    trouble::Trouble,
};
use clap::Args;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct Arguments {
    /// dev, staging or prod
    #[arg(long)]
    environment: Option<String>,
    /// active, inactive, failed, deploying or deleting
    #[arg(long)]
    status: Option<String>,
    /// Only agents with this tag; repeated: with all of them
    #[arg(long)]
    tag: Vec<String>,
    #[arg(long)]
    limit: Option<u32>,
    #[arg(long)]
    page: Option<u32>,
}

pub async fn run(arguments: Arguments, api: &Api) -> Result<ExitCode, Trouble> {
    let tags = arguments.tag.into_iter().map(|tag| ("tag", Some(tag)));
    let query = query(tags.chain([
        ("environment", arguments.environment),
        ("status", arguments.status),
        ("limit", arguments.limit.map(|n| n.to_string())),
        ("page", arguments.page.map(|n| n.to_string())),
    ]));
    let body = api.get(&format!("/api/v1/agents{query}")).await?;
    if api.json {
        out::json(&body.0)?;
        return Ok(ExitCode::SUCCESS);
    }
    let body = body.value()?;
    let agents = body["agents"]
        .as_array()
        .ok_or_else(|| Trouble::odd("there is no list of agents"))?;
    if agents.is_empty() {
        out::say("no agents; deploy one with `phalanx deploy FILE`");
        return Ok(ExitCode::SUCCESS);
    }
    let rows = agents.iter().map(|agent| {
        let figures = &agent["performance_metrics"];
        [
            word(&agent["agent_id"]),
            word(&agent["name"]),
            word(&agent["version"]),
            word(&agent["status"]),
            word(&agent["health_status"]),
            word(&figures["total_requests"]),
            word(&figures["avg_response_time"]),
            word(&agent["last_updated"]),
        ]
    });
    out::table(
        [
            "AGENT", "NAME", "VERSION", "STATUS", "HEALTH", "REQUESTS", "AVG MS", "UPDATED",
        ],
        rows,
    )?;
    out::pages(&body["pagination"]);
    Ok(ExitCode::SUCCESS)
}
