//! `phalanx execute`: standard output is the agent's output and nothing else.

use super::{
    api::{Api, EXECUTION_WITHIN, segment},
    logs, out,
    sse::Events,
    text,
    trouble::Trouble,
};
use clap::Args;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use std::{
    io::Read,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub struct Arguments {
    agent: String,
    /// What the handler gets, as JSON [default: {}]
    #[arg(value_name = "INPUT_JSON", conflicts_with = "input")]
    json_input: Option<String>,
    /// Read the input from a file, or with - from standard input
    #[arg(long, value_name = "FILE|-")]
    input: Option<PathBuf>,
    /// Return at once with the execution's id
    #[arg(long = "async")]
    queued: bool,
    /// Print what the agent yields as it comes, one JSON value a line
    #[arg(long, conflicts_with = "queued")]
    stream: bool,
    /// With --async: wait for the end all the same
    #[arg(long, requires = "queued")]
    wait: bool,
    /// Seconds it may take [default: the agent's own]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// low, normal or high
    #[arg(long)]
    priority: Option<String>,
    /// Name the execution: a second call with the same name and input is the same execution
    #[arg(long, value_name = "ID")]
    id: Option<String>,
}

/// An execution's answer and its status document alike, as far as it is shown.
#[derive(Deserialize)]
struct Execution<'a> {
    execution_id: String,
    status: String,
    #[serde(borrow, default)]
    result: Option<Outcome<'a>>,
    #[serde(default)]
    performance: Option<Performance>,
    #[serde(default)]
    logs: Vec<Value>,
}

#[derive(Deserialize)]
struct Outcome<'a> {
    #[serde(borrow, default)]
    output: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    code: String,
    message: String,
    #[serde(default)]
    details: Value,
}

#[derive(Deserialize)]
struct Performance {
    duration: Option<f64>,
    queue_time: Option<f64>,
}

pub async fn run(arguments: Arguments, api: &Api) -> Result<ExitCode, Trouble> {
    let body = body(&arguments)?;
    let path = format!("/api/v1/agents/{}/execute", segment(&arguments.agent));
    if arguments.stream {
        return stream(&path, &body, api).await;
    }
    let answer = api.post(&path, &body, EXECUTION_WITHIN).await?;
    if !arguments.queued {
        return told(&answer.0, false, api);
    }
    let execution: Execution<'_> = serde_json::from_str(&answer.0).map_err(Trouble::odd)?;
    if !arguments.wait {
        let id = text::line(&execution.execution_id);
        out::say(&format!(
            "{}; see it with `phalanx status {} {id}`",
            text::line(&execution.status),
            arguments.agent
        ));
        if api.json {
            out::json(&answer.0)?;
        } else {
            out::line(&id)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let last = wait(&arguments.agent, &execution.execution_id, api).await?;
    told(&last, false, api)
}

/// The body of an execution. Its parameters go as they were typed: no digit and no order is lost.
#[derive(Serialize)]
struct Call {
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_id: Option<String>,
    input_data: Input,
    execution_options: Map<String, Value>,
}

#[derive(Serialize)]
struct Input {
    parameters: Box<RawValue>,
    context: Map<String, Value>,
}

fn body(arguments: &Arguments) -> Result<Call, Trouble> {
    let mut options = Map::new();
    options.insert("async".to_owned(), arguments.queued.into());
    if let Some(timeout) = arguments.timeout {
        options.insert("timeout".to_owned(), timeout.into());
    }
    if let Some(priority) = &arguments.priority {
        options.insert("priority".to_owned(), priority.as_str().into());
    }
    let mut context = Map::new();
    if let Some(session) = &arguments.session {
        context.insert("session_id".to_owned(), session.as_str().into());
    }
    Ok(Call {
        execution_id: arguments.id.clone(),
        input_data: Input {
            parameters: input(arguments)?,
            context,
        },
        execution_options: options,
    })
}

fn input(arguments: &Arguments) -> Result<Box<RawValue>, Trouble> {
    let (text, from) = match (&arguments.json_input, &arguments.input) {
        (Some(text), _) => (text.clone(), "the input".to_owned()),
        (None, Some(path)) if path.as_os_str() == "-" => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            (text, "standard input".to_owned())
        }
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Trouble::usage(format!("{} cannot be read: {error}", path.display()))
            })?;
            (text, path.display().to_string())
        }
        (None, None) => ("{}".to_owned(), "nothing".to_owned()),
    };
    serde_json::from_str(&text).map_err(|error| {
        Trouble::usage(format!(
            "{from} is not JSON ({error}); quote it for the shell, as '{{\"name\": \"world\"}}'"
        ))
    })
}

async fn wait(agent: &str, id: &str, api: &Api) -> Result<String, Trouble> {
    let path = format!(
        "/api/v1/agents/{}/executions/{}",
        segment(agent),
        segment(id)
    );
    let started = Instant::now();
    loop {
        let body = api.get(&path).await?;
        let execution: Execution<'_> = serde_json::from_str(&body.0).map_err(Trouble::odd)?;
        if !matches!(execution.status.as_str(), "queued" | "running") {
            return Ok(body.0);
        }
        if started.elapsed() > EXECUTION_WITHIN {
            return Err(Trouble::Failed(format!(
                "{id} is still {}",
                execution.status
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn stream(path: &str, body: &Call, api: &Api) -> Result<ExitCode, Trouble> {
    let mut events = Events::new(api.stream(Method::POST, path, Some(body)).await?);
    let mut chunks = false;
    while let Some(event) = events.next(api).await? {
        match event.name.as_str() {
            "chunk" => {
                chunks = true;
                out::line(&text::line(&event.data))?;
            }
            "log" => out::say(&logs::line(
                &serde_json::from_str(&event.data).map_err(Trouble::odd)?,
            )),
            "result" => return told(&event.data, chunks, api),
            _ => {}
        }
    }
    Err(Trouble::Unreachable(
        "the stream ended before the result; `phalanx executions` shows how it ended".to_owned(),
    ))
}

/// Shows how an execution ended; what was streamed already is not shown again.
fn told(document: &str, streamed: bool, api: &Api) -> Result<ExitCode, Trouble> {
    let execution: Execution<'_> = serde_json::from_str(document).map_err(Trouble::odd)?;
    let (output, error) = execution
        .result
        .map_or((None, None), |outcome| (outcome.output, outcome.error));
    if !streamed {
        for entry in &execution.logs {
            out::say(&logs::line(entry));
        }
    }
    let took = execution
        .performance
        .as_ref()
        .map_or_else(String::new, |performance| {
            let ms = |value: Option<f64>| {
                value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"))
            };
            format!(
                " in {}, queued {}",
                ms(performance.duration),
                ms(performance.queue_time)
            )
        });
    out::say(&format!(
        "{} {}{took}",
        text::line(&execution.execution_id),
        text::line(&execution.status)
    ));
    if api.json && !streamed {
        out::json(document)?;
    }
    if execution.status == "completed" {
        if !api.json && !streamed {
            out::json(output.map_or("null", RawValue::get))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let words = error.map_or_else(
        || "it has no outcome".to_owned(),
        |failure| {
            let traceback = failure.details["traceback"]
                .as_str()
                .map(|lines| format!("\n{}", lines.trim_end()))
                .unwrap_or_default();
            format!("{}: {}{traceback}", failure.code, failure.message)
        },
    );
    Err(Trouble::Failed(words))
}
