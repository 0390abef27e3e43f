//! What a cluster stands on: a NATS server and a Postgres of its own on loopback, both writing to disk as they do in earnest.
//! Their programs are on the PATH: `bench/run` puts them there.

use crate::process::{Process, free_port};
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use std::{
    fs::{self, File, Permissions},
    net::TcpStream,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// Postgres refuses to run as root; Debian's package makes this user.
const POSTGRES_USER: &str = "postgres";

pub struct Backing {
    nats: Process,
    postgres: Process,
    pub nats_url: String,
    pub postgres_url: String,
}

impl Backing {
    pub async fn start(dir: &Path) -> Result<Self> {
        let (nats_port, postgres_port) = (free_port()?, free_port()?);
        let mut backing = Self {
            nats: nats(dir, nats_port)?,
            postgres: postgres(dir, postgres_port)?,
            nats_url: format!("nats://127.0.0.1:{nats_port}"),
            postgres_url: format!("postgres://postgres@127.0.0.1:{postgres_port}/postgres"),
        };
        backing.ready(nats_port).await?;
        Ok(backing)
    }

    async fn ready(&mut self, nats_port: u16) -> Result<()> {
        let began = Instant::now();
        loop {
            let asked = Command::new("psql")
                .args([&self.postgres_url, "-X", "-q", "-c", "SELECT 1"])
                .output()
                .context("psql cannot be run: install postgresql")?;
            if asked.status.success() && TcpStream::connect(("127.0.0.1", nats_port)).is_ok() {
                return Ok(());
            }
            if self.postgres.has_ended() || self.nats.has_ended() {
                bail!("Postgres or NATS ended at its start");
            }
            if began.elapsed() > STARTS_WITHIN {
                bail!("Postgres and NATS did not start");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn nats(dir: &Path, port: u16) -> Result<Process> {
    let mut command = Command::new("nats-server");
    command.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]);
    command.arg(dir.join("nats"));
    log_to(&mut command, &dir.join("nats.log"))?;
    Process::start(&mut command, Signal::SIGTERM)
}

fn postgres(dir: &Path, port: u16) -> Result<Process> {
    let home = dir.join("postgres");
    fs::create_dir(&home)?;
    let user = if nix::unistd::geteuid().is_root() {
        let user = nix::unistd::User::from_name(POSTGRES_USER)?;
        let user = user.with_context(|| format!("there is no user {POSTGRES_USER}"))?;
        nix::unistd::chown(&home, Some(user.uid), Some(user.gid))?;
        // It has to come through here.
        fs::set_permissions(dir, Permissions::from_mode(0o711))?;
        Some(user)
    } else {
        None
    };
    let as_postgres = |program: &str| {
        let mut command = Command::new(program);
        if let Some(user) = &user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command.current_dir("/");
        command
    };
    let mut made = as_postgres("initdb");
    made.arg("-D").arg(home.join("data"));
    made.args(["-U", "postgres", "-A", "trust", "--no-sync"]);
    let made = made
        .output()
        .context("initdb cannot be run: install postgresql")?;
    if !made.status.success() {
        bail!("initdb: {}", String::from_utf8_lossy(&made.stderr));
    }
    let mut command = as_postgres("postgres");
    command.arg("-D").arg(home.join("data"));
    command.args(["-p", &port.to_string(), "-k"]).arg(&home);
    command.args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=on"]);
    log_to(&mut command, &dir.join("postgres.log"))?;
    // Its fast shutdown.
    Process::start(&mut command, Signal::SIGINT)
}

pub fn log_to(command: &mut Command, log: &Path) -> Result<()> {
    let log = File::create(log)?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    Ok(())
}
