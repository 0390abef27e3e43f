//! The command line: an ordinary REST client of the gateway. It knows what every other client can know and nothing more.
//!
//! In: parsed arguments. Out: what was asked for on standard output, words about it on standard error, an exit code.

mod agents;
mod api;
mod completion;
mod delete;
mod deploy;
mod execute;
mod executions;
mod logs;
mod out;
mod sse;
mod status;
mod text;
mod trouble;
mod versions;

use api::Api;
use clap::{Args, Subcommand};
use std::{path::PathBuf, process::ExitCode};
use trouble::Trouble;

/// What every client command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Where the gateway listens
    #[arg(
        long,
        env = "PHALANX_URL",
        default_value = "http://127.0.0.1:8080",
        global = true
    )]
    pub url: String,
    /// The API key; without one the file admin.key of the data directory is read
    #[arg(long, env = "PHALANX_KEY", hide_env_values = true, global = true)]
    pub key: Option<domain::Secret>,
    /// The server's data directory on this machine [default: ~/.phalanx]
    #[arg(long, env = "PHALANX_DATA_DIR", value_name = "DIR", global = true)]
    pub data_dir: Option<PathBuf>,
    /// Print the API's JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// The whole program's command, which main alone knows: completion is written from it
    #[arg(skip)]
    pub root: Option<clap::Command>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Deploy a Python file or a folder, and wait until it serves
    Deploy(deploy::Arguments),
    /// Execute an agent; standard output is its output
    Execute(execute::Arguments),
    /// Show what an agent, or one of its executions, has logged
    Logs(logs::Arguments),
    /// List agents
    Agents(agents::Arguments),
    /// Show the system, an agent, or one of its deployments or executions
    Status(status::Arguments),
    /// List the executions of an agent
    Executions(executions::Arguments),
    /// Cancel an execution; returns once its work has stopped
    Cancel(executions::CancelArguments),
    /// List the versions of an agent
    Versions(versions::Arguments),
    /// Remove an agent
    Delete(delete::Arguments),
    /// Print a completion script for a shell
    Completion(completion::Arguments),
}

/// Exit codes: 0 done, 1 refused or failed, 2 used wrongly, 3 no server.
pub async fn run(command: Command, global: Global) -> anyhow::Result<ExitCode> {
    match dispatch(command, global).await {
        Ok(code) => Ok(code),
        Err(trouble) => trouble.tell(),
    }
}

async fn dispatch(command: Command, global: Global) -> Result<ExitCode, Trouble> {
    if let Command::Completion(arguments) = command {
        return completion::run(arguments.shell, global.root);
    }
    let api = &Api::new(&global)?;
    match command {
        Command::Deploy(arguments) => deploy::run(arguments, api).await,
        Command::Execute(arguments) => execute::run(arguments, api).await,
        Command::Logs(arguments) => logs::run(arguments, api).await,
        Command::Agents(arguments) => agents::run(arguments, api).await,
        Command::Status(arguments) => status::run(arguments, api).await,
        Command::Executions(arguments) => executions::run(arguments, api).await,
        Command::Cancel(arguments) => executions::cancel(arguments, api).await,
        Command::Versions(arguments) => versions::run(arguments, api).await,
        Command::Delete(arguments) => delete::run(arguments, api).await,
        Command::Completion(_) => Ok(ExitCode::SUCCESS),
    }
}
