//! `phalanx logs`: of an agent or of one execution, once or as they come.

use super::{
    api::{Api, segment},
    out,
    sse::Events,
    status::word,
    text,
    trouble::Trouble,
};
use clap::Args;
use reqwest::Method;
use serde_json::Value;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub struct Arguments {
    agent: String,
    execution: Option<String>,
    /// Go on with new lines as they come
    #[arg(long, short)]
    follow: bool,
}

pub async fn run(arguments: Arguments, api: &Api) -> Result<ExitCode, Trouble> {
    let agent = segment(&arguments.agent);
    let path = match &arguments.execution {
        Some(execution) => format!(
            "/api/v1/agents/{agent}/executions/{}/logs",
            segment(execution)
        ),
        None => format!("/api/v1/agents/{agent}/logs"),
    };
    if arguments.follow {
        return follow(&path, api).await;
    }
    let body = api.get(&path).await?;
    if api.json {
        out::json(&body.0)?;
        return Ok(ExitCode::SUCCESS);
    }
    let body = body.value()?;
    for entry in body["logs"]
        .as_array()
        .ok_or_else(|| Trouble::odd("there is no list of lines"))?
    {
        out::line(&line(entry))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn follow(path: &str, api: &Api) -> Result<ExitCode, Trouble> {
    let response = api
        .stream(Method::GET, &format!("{path}?follow=true"), None::<&Value>)
        .await?;
    let mut events = Events::new(response);
    while let Some(event) = events.next(api).await? {
        if event.name != "log" {
            continue;
        }
        if api.json {
            out::line(&text::line(&event.data))?;
        } else {
            out::line(&line(
                &serde_json::from_str(&event.data).map_err(Trouble::odd)?,
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// One line of a log as people read it.
pub fn line(entry: &Value) -> String {
    let fields = match &entry["context"] {
        Value::Object(fields) if !fields.is_empty() => {
            format!(" {}", Value::Object(fields.clone()))
        }
        _ => String::new(),
    };
    let message = text::lines(&word(&entry["message"]))
        .trim_end()
        .replace('\n', "\n    ");
    format!(
        "{} {:5} {message}{}",
        text::line(&word(&entry["timestamp"])),
        text::line(&word(&entry["level"])),
        text::line(&fields)
    )
}
