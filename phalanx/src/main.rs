//! Phalanx: deploys, runs, scales and watches AI agents written in Python. The only main.

mod cli;
mod data_dir;
mod settings;
mod telemetry;
mod up;
mod welcome;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use settings::Overrides;
use std::{io::Write, path::PathBuf, process::ExitCode};

/// Deploys, runs, scales and watches AI agents written in Python.
#[derive(Parser)]
#[command(name = "phalanx", version, propagate_version = true)]
struct Arguments {
    #[command(flatten)]
    global: cli::Global,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, at the start")]
enum Command {
    /// Run Phalanx here: all services in one process, no outside service (what `phalanx` alone does).
    Up(Up),
    #[command(flatten)]
    Client(cli::Command),
}

#[derive(clap::Args, Default)]
struct Up {
    /// Where clients reach the REST API; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<std::net::SocketAddr>,
    /// A TOML file over the built-in defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    // The sandbox's helper must come first: it runs on one thread, without a runtime.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == "__confine")
    {
        executor::confine::helper_main();
    }
    match begin() {
        Ok(code) => code,
        Err(error) => {
            // Nobody reads it: then the exit code has to do.
            writeln!(std::io::stderr(), "phalanx: {error:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn begin() -> Result<ExitCode> {
    let mut arguments = Arguments::parse();
    arguments.global.root = Some(Arguments::command());
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        anyhow::bail!("TLS was set up twice");
    }
    let threads = std::thread::available_parallelism()
        .map_or(2, usize::from)
        .max(2);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .context("no runtime")?;
    let up = match arguments.command {
        Some(Command::Client(command)) => {
            return runtime.block_on(cli::run(command, arguments.global));
        }
        Some(Command::Up(up)) => up,
        None => Up::default(),
    };
    let overrides = Overrides {
        config: up.config,
        listen: up.listen,
        data_dir: arguments.global.data_dir,
    };
    let settings = settings::load(overrides)?;
    telemetry::start(&settings.log)?;
    raise_open_files();
    runtime.block_on(up::run(settings))?;
    // What is left of blocking work (a package that is being unpacked) may not hold the exit up.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Ten thousand callers are ten thousand descriptors.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "the limit of open files stays at {soft}");
    }
}
