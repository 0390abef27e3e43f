//! Phalanx: deploys, runs, scales and watches AI agents written in Python. The only main.

mod backing;
mod cli;
mod configs;
mod data_dir;
mod healthcheck;
mod master_keys;
mod roles;
mod sealing;
mod settings;
mod signals;
mod telemetry;
mod up;
mod welcome;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use roles::Role;
use settings::{Overrides, Settings};
use std::{io::Write, path::PathBuf, process::ExitCode};

/// A tenth of an execution's time went to the system's allocator: with this one `bench/run echo` serves 12 to 17 % more.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Run one gateway of a cluster: the REST API
    Gateway(Up),
    /// Run one deployer of a cluster: it changes what should run
    Deployer(Single),
    /// Run one executor of a cluster: it runs agents
    Executor(Single),
    /// Run one monitor of a cluster: it counts
    Monitor(Single),
    /// Print a new key for `gateway.admin_key_file`
    AdminKey,
    /// Print a new key for `master_key_file`, or exchange the keys that are there
    MasterKey(sealing::MasterKey),
    /// Bring the schema of a cluster's database up to date, as its owner, and give each role's user its rights
    Migrate(Migrate),
    /// Seal everything anew by the first key of `master_key_file`, while all runs
    Reseal(sealing::Reseal),
    /// Ask a URL, as http://127.0.0.1:9090/readyz: exit code 0 when it answers 200
    Healthcheck { url: String },
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

#[derive(clap::Args)]
struct Migrate {
    /// A TOML file over the built-in defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Make a role's user as the URL in a file has it, or give it that password: its own process has the same file
    #[arg(long = "user", value_name = "ROLE=FILE", value_parser = role_and_file)]
    users: Vec<(String, PathBuf)>,
    /// Change nothing: print the statements that give the rights
    #[arg(long)]
    say: bool,
}

#[derive(clap::Args)]
struct Single {
    /// A TOML file over the built-in defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What this process is.
enum Part {
    All,
    One(Role),
}

impl Part {
    fn as_str(&self) -> &'static str {
        match self {
            Self::All => "up",
            Self::One(role) => role.as_str(),
        }
    }
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
    let single = |role, single: Single| {
        let config = single.config;
        (Part::One(role), config, None)
    };
    let (part, config, listen) = match arguments.command {
        Some(Command::Client(command)) => {
            return runtime.block_on(cli::run(command, arguments.global));
        }
        Some(Command::AdminKey) => {
            let region = settings::load(Overrides::default())?.region;
            return say(&gateway::key::mint(
                &region,
                &domain::id::AccountId::default_account(),
            ));
        }
        Some(Command::MasterKey(told)) => {
            let settings = told_settings(told.config.clone(), arguments.global.data_dir)?;
            return runtime.block_on(sealing::master_key(told, &settings));
        }
        Some(Command::Migrate(told)) => {
            let settings = told_settings(told.config, arguments.global.data_dir)?;
            return migrate(
                &runtime.block_on(backing::migrate(&settings, &told.users, told.say))?,
                told.say,
            );
        }
        Some(Command::Reseal(told)) => {
            let settings = told_settings(told.config.clone(), arguments.global.data_dir)?;
            return runtime.block_on(sealing::reseal(told, &settings));
        }
        Some(Command::Healthcheck { url }) => return runtime.block_on(healthcheck::run(&url)),
        Some(Command::Up(up)) => (Part::All, up.config, up.listen),
        Some(Command::Gateway(up)) => (Part::One(Role::Gateway), up.config, up.listen),
        Some(Command::Deployer(one)) => single(Role::Deployer, one),
        Some(Command::Executor(one)) => single(Role::Executor, one),
        Some(Command::Monitor(one)) => single(Role::Monitor, one),
        None => (Part::All, None, None),
    };
    let overrides = Overrides {
        config,
        listen,
        data_dir: arguments.global.data_dir,
    };
    let settings = settings::load(overrides)?;
    let mut exporter = {
        let _within = runtime.enter();
        telemetry::start(&settings, part.as_str())?
    };
    raise_open_files();
    keep_memory_private();
    let left = runtime.block_on(async {
        match part {
            Part::All => up::run(settings, &mut exporter).await,
            Part::One(role) => roles::run(role, settings, &mut exporter).await,
        }
    });
    runtime.block_on(exporter.finish());
    left?;
    // What is left of blocking work (a package that is being unpacked) may not hold the exit up.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

fn role_and_file(text: &str) -> Result<(String, PathBuf), String> {
    let (role, file) = text.split_once('=').ok_or("allowed is ROLE=FILE")?;
    Ok((role.to_owned(), file.into()))
}

fn migrate(given: &store::schema::Given, only_say: bool) -> Result<ExitCode> {
    if only_say {
        for statement in &given.statements {
            say(&format!("{statement};"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    say("the schema is up to date")?;
    for user in &given.users {
        say(&format!("{user} has its rights"))?;
    }
    for user in &given.absent {
        say(&format!("{user} is no user of this database server"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn told_settings(config: Option<PathBuf>, data_dir: Option<PathBuf>) -> Result<Settings> {
    settings::load(Overrides {
        config,
        listen: None,
        data_dir,
    })
}

fn say(line: &str) -> Result<ExitCode> {
    writeln!(std::io::stdout(), "{line}").context("nobody reads what was asked for")?;
    Ok(ExitCode::SUCCESS)
}

/// Keys and variables are in it: no core dump, and neither memory nor environment for others of the same user. What this process
/// executes begins anew.
fn keep_memory_private() {
    use nix::sys::resource::{Resource, setrlimit};
    // One byte: 0 would not keep the kernel from handing the dump to a program (core(5)).
    let kept =
        setrlimit(Resource::RLIMIT_CORE, 1, 1).and_then(|()| nix::sys::prctl::set_dumpable(false));
    if let Err(error) = kept {
        tracing::warn!(%error, "a core dump of this process could show its secrets");
    }
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
