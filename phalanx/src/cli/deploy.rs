//! `phalanx deploy`: what to send is found out from the file or folder and said; then the rollout is watched to its end.

mod entrypoint;
mod progress;
mod requirements;
mod source;
mod version;

use super::{
    api::{Api, segment},
    out, text,
    trouble::Trouble,
};
use clap::{Args, ValueEnum};
use progress::Progress;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};
use source::Source;
use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

const SEND_WITHIN: Duration = Duration::from_secs(300);
const WATCH_EVERY: Duration = Duration::from_millis(200);
/// Longer than any environment takes to build. The deployment goes on when nobody watches.
const WATCH_FOR: Duration = Duration::from_secs(3600);

/// `--version` is the agent's here, not the program's.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub struct Arguments {
    /// A Python file, or a folder of them
    #[arg(value_name = "FILE|DIR")]
    path: PathBuf,
    /// Name shown to people [default: the agent id]
    #[arg(long)]
    name: Option<String>,
    /// [default: from the file's or folder's name]
    #[arg(long)]
    agent_id: Option<String>,
    /// Semantic version [default: 1.0.0, or the next patch version when the code has changed]
    #[arg(long)]
    version: Option<String>,
    /// function, module:attribute or file.py [default: by a look at the source]
    #[arg(long)]
    entrypoint: Option<String>,
    /// A requirements file, or a requirement as requests>=2.31; may be repeated
    #[arg(long, value_name = "FILE|SPEC")]
    requirements: Vec<String>,
    /// A Python requirement; may be repeated
    #[arg(long, value_name = "SPEC")]
    python_package: Vec<String>,
    /// A Debian package; may be repeated
    #[arg(long, value_name = "NAME")]
    system_package: Vec<String>,
    /// An environment variable of the agent; may be repeated
    #[arg(long, value_name = "NAME=VALUE")]
    env_var: Vec<String>,
    #[arg(long, value_enum, default_value = "dev")]
    env: Environment,
    /// Memory limit of one instance, in MB [default: 128]
    #[arg(long, value_name = "MB")]
    memory: Option<u64>,
    /// Seconds an execution may take [default: 30]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Executions that one instance runs at once [default: 10]
    #[arg(long, value_name = "N")]
    concurrency: Option<u64>,
    /// Instances that always run; 0 is scale to zero [default: 1]
    #[arg(long, value_name = "N")]
    min: Option<u64>,
    /// Instances at most [default: 100]
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    #[arg(long)]
    description: Option<String>,
    /// May be repeated
    #[arg(long)]
    tag: Vec<String>,
    /// Return when the deployment is accepted
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Environment {
    Dev,
    Staging,
    Prod,
}

/// The answer to a deploy, as far as it is shown.
#[derive(Deserialize)]
struct Accepted {
    deployment_id: String,
    agent_id: String,
    status: String,
    api_endpoint: String,
    security: Security,
}

#[derive(Deserialize)]
struct Security {
    api_key: Option<String>,
}

#[derive(Deserialize)]
struct Deployment {
    status: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    phases: Vec<progress::Phase>,
}

pub async fn run(arguments: Arguments, api: &Api) -> Result<ExitCode, Trouble> {
    let source = source::read(&arguments.path)?;
    out::say(&source.words());
    let agent_id = match &arguments.agent_id {
        Some(id) => id.clone(),
        None => source::agent_id(&source.name),
    };
    let entrypoint = arguments
        .entrypoint
        .clone()
        .map_or_else(|| chosen(&source), Ok)?;
    let mut body = body(&arguments, &source, &agent_id, &entrypoint)?;
    let (answer, version) =
        version::send(api, &agent_id, arguments.version.as_deref(), &mut body).await?;
    let accepted: Accepted = answer.read()?;
    out::say(&format!(
        "deploying {agent_id} {version} as {}",
        text::line(&accepted.deployment_id)
    ));
    if arguments.no_wait {
        return told(api, &accepted, &answer.0, None, &entrypoint);
    }
    let last = watch(api, &accepted, accepted.status != "deploying").await?;
    told(api, &accepted, &answer.0, Some(&last), &entrypoint)
}

fn chosen(source: &Source) -> Result<String, Trouble> {
    let choice = entrypoint::choose(source)?;
    out::say(&format!(
        "entrypoint {} ({})",
        choice.entrypoint, choice.why
    ));
    Ok(choice.entrypoint)
}

fn body(
    arguments: &Arguments,
    source: &Source,
    agent_id: &str,
    entrypoint: &str,
) -> Result<Value, Trouble> {
    let mut python = requirements::read(&arguments.requirements)?;
    python.extend(arguments.python_package.iter().cloned());
    let mut variables = Map::new();
    for pair in &arguments.env_var {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| Trouble::usage(format!("--env-var {pair:?} is no NAME=VALUE")))?;
        variables.insert(name.to_owned(), value.into());
    }
    let environment = match arguments.env {
        Environment::Dev => "dev",
        Environment::Staging => "staging",
        Environment::Prod => "prod",
    };
    Ok(json!({
        "agent_metadata": given([
            ("agent_id", Some(agent_id.into())),
            ("name", Some(arguments.name.as_deref().unwrap_or(agent_id).into())),
            ("description", arguments.description.clone().map(Value::from)),
            ("tags", Some(arguments.tag.clone().into())),
        ]),
        "agent_code": {
            "source_code": source.encoded(),
            "dependencies": { "python": python, "system": arguments.system_package },
            "entrypoint": entrypoint,
            "configuration": given([
                ("memory_limit", arguments.memory.map(Value::from)),
                ("timeout", arguments.timeout.map(Value::from)),
                ("concurrent_executions", arguments.concurrency.map(Value::from)),
            ]),
        },
        "deployment_config": {
            "environment": environment,
            "auto_scaling": given([
                ("min_instances", arguments.min.map(Value::from)),
                ("max_instances", arguments.max.map(Value::from)),
            ]),
            "security": { "environment_variables": variables },
        },
    }))
}

/// What was not given is left to the API's own defaults.
fn given<const N: usize>(pairs: [(&str, Option<Value>); N]) -> Value {
    let pairs = pairs
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(pairs.collect())
}

/// Follows the deployment to its end; gives its last document. One that had ended before is not told again.
async fn watch(api: &Api, accepted: &Accepted, ended: bool) -> Result<String, Trouble> {
    let path = format!(
        "/api/v1/agents/{}/deployments/{}",
        segment(&accepted.agent_id),
        segment(&accepted.deployment_id)
    );
    let started = Instant::now();
    let mut progress = Progress::new();
    loop {
        let body = api.get(&path).await?;
        let deployment: Deployment = body.read()?;
        if !ended {
            progress.show(&deployment.phases);
        }
        if deployment.status != "deploying" {
            progress.finish();
            return Ok(body.0);
        }
        if started.elapsed() > WATCH_FOR {
            progress.finish();
            return Err(Trouble::Failed(format!(
                "{} is still deploying; look again with `phalanx status {} {}`",
                accepted.agent_id, accepted.agent_id, accepted.deployment_id
            )));
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

fn told(
    api: &Api,
    accepted: &Accepted,
    answer: &str,
    last: Option<&str>,
    entrypoint: &str,
) -> Result<ExitCode, Trouble> {
    let deployment: Option<Deployment> = last
        .map(serde_json::from_str)
        .transpose()
        .map_err(Trouble::odd)?;
    if api.json {
        out::json(&with_last(answer, last)?)?;
    }
    let status = deployment
        .as_ref()
        .map_or(accepted.status.as_str(), |deployment| &deployment.status);
    if !matches!(status, "deployed" | "deploying") {
        let why = deployment.as_ref().and_then(|deployment| {
            progress::failed(&deployment.phases).or_else(|| deployment.reason.clone())
        });
        let why = why.unwrap_or_else(|| "its phases do not say why".to_owned());
        return Err(Trouble::Failed(format!(
            "{} is {status}: {why}",
            accepted.agent_id
        )));
    }
    if api.json {
        return Ok(ExitCode::SUCCESS);
    }
    out::line(&format!(
        "{} {}",
        text::line(&accepted.agent_id),
        text::line(status)
    ))?;
    if let Some(key) = &accepted.security.api_key {
        out::line(&format!(
            "its own key, shown this once: {}",
            text::line(key)
        ))?;
        out::line(&format!(
            "its endpoint:                 {}",
            text::line(&accepted.api_endpoint)
        ))?;
    }
    let input = if matches!(entrypoint, "agent" | "team" | "workflow") {
        r#"{"message": "hello"}"#
    } else {
        r#"{"name": "world"}"#
    };
    let place = if api.base() == "http://127.0.0.1:8080" {
        String::new()
    } else {
        format!(" --url {}", api.base())
    };
    out::line(&format!(
        "\nphalanx execute {}{place} '{input}'",
        text::line(&accepted.agent_id)
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// The answer to the deploy, and in it under `deployment` how it ended.
fn with_last(answer: &str, last: Option<&str>) -> Result<String, Trouble> {
    let Some(last) = last else {
        return Ok(answer.to_owned());
    };
    let last: &RawValue = serde_json::from_str(last).map_err(Trouble::odd)?;
    let head = answer
        .trim_end()
        .strip_suffix('}')
        .ok_or_else(|| Trouble::odd("no object"))?;
    Ok(format!("{head},\"deployment\":{last}}}"))
}
