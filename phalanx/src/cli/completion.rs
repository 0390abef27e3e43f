//! Completion scripts.

use super::{Command, Global, trouble::Trouble};
use clap::{Args as _, Subcommand as _};
use clap_complete::Shell;
use std::{
    io::{self, Write},
    process::ExitCode,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    pub shell: Shell,
}

/// Written for the whole program, or when nobody gave it for the client's commands alone.
pub fn run(shell: Shell, root: Option<clap::Command>) -> Result<ExitCode, Trouble> {
    let client =
        || Command::augment_subcommands(Global::augment_args(clap::Command::new("phalanx")));
    let mut script = Vec::new();
    clap_complete::generate(
        shell,
        &mut root.unwrap_or_else(client),
        "phalanx",
        &mut script,
    );
    io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
