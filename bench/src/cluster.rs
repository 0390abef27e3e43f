//! One process a role over NATS and Postgres: two gateways, a deployer, two executors, a monitor. All on loopback, in a folder of
//! their own, ended with the run.

use crate::{
    backing::{Backing, log_to},
    front::Front,
    http::{Connection, request},
    process::{Process, free_port},
};
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};
use uuid::Uuid;

const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// Gateways first: they leave first, so that nothing new comes.
const ROLES: [(&str, usize); 4] = [
    ("gateway", 2),
    ("deployer", 1),
    ("executor", 2),
    ("monitor", 1),
];

// Fields are dropped in this order: the parts before what they stand on, the folder at last.
pub struct Cluster {
    parts: Vec<Part>,
    pub backing: Backing,
    pub front: Front,
    dir: Folder,
}

struct Part {
    process: Process,
    log: PathBuf,
    ready: SocketAddr,
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

impl Cluster {
    pub async fn start(program: &Path) -> Result<Self> {
        let dir = Folder(std::env::temp_dir().join(format!("phalanx-bench-{}", Uuid::new_v4())));
        fs::create_dir(&dir.0)?;
        let backing = Backing::start(&dir.0).await?;
        let mut cluster = Self {
            parts: Vec::new(),
            backing,
            front: Front::default(),
            dir,
        };
        cluster.spawn(program)?;
        cluster.ready().await?;
        Ok(cluster)
    }

    fn spawn(&mut self, program: &Path) -> Result<()> {
        let dir = &self.dir.0;
        let file = |name: &str, text: &str| -> Result<String> {
            let path = dir.join(name);
            fs::write(&path, text)?;
            Ok(path.display().to_string())
        };
        let random = || Uuid::new_v4().simple().to_string();
        let (key, monitor) = (format!("akc_{}{}", random(), random()), at(free_port()?));
        let common = [
            ("STORE__URL", self.backing.postgres_url.clone()),
            ("BUS__URL", self.backing.nats_url.clone()),
            (
                "MASTER_KEY_FILE",
                file("master.key", &(random() + &random()))?,
            ),
            ("GATEWAY__ADMIN_KEY_FILE", file("admin.key", &key)?),
            ("GATEWAY__MONITORS", monitor.to_string()),
            ("DEPLOYER__MONITORS", monitor.to_string()),
            ("LOG__LEVEL", "warn".to_owned()),
            // Nobody takes over what is hosted when all of it ends.
            ("EXECUTOR__DRAIN_S", "2".to_owned()),
        ];
        let mut addresses = Vec::new();
        for (role, count) in ROLES {
            for place in 1..=count {
                let (name, ready) = (format!("{role}-{place}"), at(free_port()?));
                let mut command = Command::new(program);
                command.args([role, "--data-dir"]).arg(dir.join(&name));
                for (setting, value) in &common {
                    command.env(format!("PHALANX__{setting}"), value);
                }
                if role == "gateway" {
                    command.args(["--listen", &ready.to_string()]);
                    addresses.push(ready);
                } else {
                    command.env("PHALANX__OPS__LISTEN", ready.to_string());
                }
                if role == "monitor" {
                    command.env("PHALANX__GRPC__LISTEN", monitor.to_string());
                }
                let log = dir.join(format!("{name}.log"));
                log_to(&mut command, &log)?;
                let process = Process::start(&mut command, Signal::SIGTERM)?;
                self.parts.push(Part {
                    process,
                    log,
                    ready,
                });
            }
        }
        self.front = Front { addresses, key };
        Ok(())
    }

    async fn ready(&mut self) -> Result<()> {
        let began = Instant::now();
        for part in &mut self.parts {
            while !is_ready(part.ready).await {
                if part.process.has_ended() || began.elapsed() > STARTS_WITHIN {
                    let log = fs::read_to_string(&part.log).context("its log")?;
                    bail!("a part of the cluster did not start:\n{log}");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }
}

async fn is_ready(address: SocketAddr) -> bool {
    let Ok(mut connection) = Connection::open(address).await else {
        return false;
    };
    let asked = request("GET", "/readyz", address, None, "");
    let answer = tokio::time::timeout(Duration::from_secs(5), connection.send(&asked)).await;
    matches!(answer, Ok(Ok(answer)) if answer.status == 200)
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}
