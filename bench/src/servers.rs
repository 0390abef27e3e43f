//! Both sides as child processes on loopback, in folders of their own, ended with the run.

use crate::{
    front::Front,
    http::{Connection, request},
    process::{Process, free_port},
};
use anyhow::{Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// One process that does everything.
pub struct Phalanx {
    program: PathBuf,
    settings: Vec<(String, String)>,
    dir: PathBuf,
    process: Option<Process>,
    pub front: Front,
}

pub struct Peer {
    _process: Process,
    pub address: SocketAddr,
}

impl Phalanx {
    pub async fn start(program: &Path) -> Result<Self> {
        Self::start_with(program, &[]).await
    }

    /// Settings as variables of its environment.
    pub async fn start_with(program: &Path, settings: &[(&str, &str)]) -> Result<Self> {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let mut phalanx = Self {
            program: program.to_owned(),
            settings: settings.iter().map(owned).collect(),
            dir: std::env::temp_dir().join(format!("phalanx-bench-{}", uuid::Uuid::new_v4())),
            process: None,
            front: Front::default(),
        };
        phalanx.start_again().await?;
        Ok(phalanx)
    }

    pub fn database(&self) -> PathBuf {
        self.dir.join("phalanx.db")
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    pub fn stop(&mut self) {
        self.process = None;
    }

    /// On the directory of the run before, if there was one; at another address.
    pub async fn start_again(&mut self) -> Result<()> {
        fs::remove_file(self.dir.join("address")).ok();
        let mut command = Command::new(&self.program);
        command
            .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&self.dir)
            .env("PHALANX__LOG__LEVEL", "warn")
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null());
        self.process = Some(Process::start(&mut command, Signal::SIGTERM)?);
        let began = Instant::now();
        loop {
            let address = fs::read_to_string(self.dir.join("address"))
                .ok()
                .and_then(|text| text.trim().strip_prefix("http://")?.parse().ok());
            if let Some(address) = address {
                let key = fs::read_to_string(self.dir.join("admin.key"))?;
                self.front = Front {
                    addresses: vec![address],
                    key: key.trim().to_owned(),
                };
                return Ok(());
            }
            if began.elapsed() > STARTS_WITHIN {
                bail!("Phalanx did not start");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Phalanx {
    fn drop(&mut self) {
        self.stop();
        fs::remove_dir_all(&self.dir).ok();
    }
}

impl Peer {
    pub async fn start(python: &Path, file: &str) -> Result<Self> {
        let port = free_port()?;
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("peer")
            .join(file);
        let mut command = Command::new(python);
        command
            .arg(file)
            .env("PORT", port.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Process::start(&mut command, Signal::SIGTERM)?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let began = Instant::now();
        while Connection::open(address).await.is_err() {
            if began.elapsed() > STARTS_WITHIN {
                bail!("the peer did not start");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self {
            _process: process,
            address,
        })
    }

    pub fn invoke(&self, parameters: &Value) -> Vec<u8> {
        request(
            "POST",
            "/invocations",
            self.address,
            None,
            &parameters.to_string(),
        )
    }
}
