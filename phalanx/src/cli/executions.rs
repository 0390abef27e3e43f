//! `phalanx executions` and `phalanx cancel`

use super::{
    api::{Api, query, segment},
    out,
    status::word,
    trouble::Trouble,
};
use clap::Args;
use serde_json::json;
use std::{process::ExitCode, time::Duration};

/// A cancel answers when the work has stopped.
const STOP_WITHIN: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub struct Arguments {
    agent: String,
    /// queued, running, completed, failed, timeout or cancelled
    #[arg(long)]
    status: Option<String>,
    #[arg(long)]
    session: Option<String>,
    #[arg(long)]
    limit: Option<u32>,
    #[arg(long)]
    page: Option<u32>,
}

#[derive(Debug, Args)]
pub struct CancelArguments {
    agent: String,
    execution: String,
}

pub async fn run(arguments: Arguments, api: &Api) -> Result<ExitCode, Trouble> {
    let query = query([
        ("status", arguments.status),
        ("session_id", arguments.session),
        ("limit", arguments.limit.map(|n| n.to_string())),
        ("page", arguments.page.map(|n| n.to_string())),
    ]);
    let body = api
        .get(&format!(
            "/api/v1/agents/{}/executions{query}",
            segment(&arguments.agent)
        ))
        .await?;
    if api.json {
        out::json(&body.0)?;
        return Ok(ExitCode::SUCCESS);
    }
    let body = body.value()?;
    let executions = body["executions"]
        .as_array()
        .ok_or_else(|| Trouble::odd("there is no list of executions"))?;
    let rows = executions.iter().map(|execution| {
        [
            word(&execution["execution_id"]),
            word(&execution["status"]),
            word(&execution["started_at"]),
            word(&execution["duration"]),
            word(&execution["queue_time"]),
        ]
    });
    out::table(["EXECUTION", "STATUS", "STARTED", "MS", "QUEUED MS"], rows)?;
    out::pages(&body["pagination"]);
    Ok(ExitCode::SUCCESS)
}

pub async fn cancel(arguments: CancelArguments, api: &Api) -> Result<ExitCode, Trouble> {
    let path = format!(
        "/api/v1/agents/{}/executions/{}/cancel",
        segment(&arguments.agent),
        segment(&arguments.execution)
    );
    let body = api.post(&path, &json!({}), STOP_WITHIN).await?;
    if api.json {
        out::json(&body.0)?;
    } else {
        out::line(&format!(
            "{} {}",
            arguments.execution,
            word(&body.value()?["status"])
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
