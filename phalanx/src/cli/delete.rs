//! `phalanx delete`

use super::{
    api::{Api, segment},
    out,
    trouble::Trouble,
};
use clap::Args;
use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

#[derive(Debug, Args)]
pub struct Arguments {
    agent: String,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(arguments: Arguments, api: &Api) -> Result<ExitCode, Trouble> {
    if !arguments.yes && !confirmed(&arguments.agent)? {
        return Err(Trouble::Failed("nothing was deleted".to_owned()));
    }
    let body = api
        .delete(&format!("/api/v1/agents/{}", segment(&arguments.agent)))
        .await?;
    if api.json {
        out::json(&body.0)?;
    } else {
        out::line(&format!(
            "{} is being deleted; its executions stay readable",
            arguments.agent
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn confirmed(agent: &str) -> Result<bool, Trouble> {
    if !io::stdin().is_terminal() {
        return Err(Trouble::usage("nobody can be asked here; say --yes"));
    }
    let mut stderr = io::stderr().lock();
    write!(stderr, "delete {agent}? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
