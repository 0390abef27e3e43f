//! Both sides as child processes on loopback, in folders of their own, ended with the run.

use crate::http::{Answer, Connection, request};
use anyhow::{Context, Result, bail};
use base64::Engine as _;
use serde_json::{Value, json};
use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const STARTS_WITHIN: Duration = Duration::from_secs(60);

pub struct Phalanx {
    child: Child,
    dir: PathBuf,
    pub address: SocketAddr,
    pub key: String,
}

pub struct Peer {
    child: Child,
    pub address: SocketAddr,
}

impl Phalanx {
    pub async fn start(program: &Path) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("phalanx-bench-{}", uuid::Uuid::new_v4()));
        let child = Command::new(program)
            .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&dir)
            .env("PHALANX__LOG__LEVEL", "warn")
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("{} cannot be run", program.display()))?;
        let began = Instant::now();
        loop {
            let address = fs::read_to_string(dir.join("address"))
                .ok()
                .and_then(|text| text.trim().strip_prefix("http://")?.parse().ok());
            if let Some(address) = address {
                let key = fs::read_to_string(dir.join("admin.key"))?.trim().to_owned();
                return Ok(Self {
                    child,
                    dir,
                    address,
                    key,
                });
            }
            if began.elapsed() > STARTS_WITHIN {
                bail!("Phalanx did not start");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        Connection::open(self.address)
            .await?
            .send(&request(method, path, self.address, Some(&self.key), body))
            .await
    }

    /// Deploys one Python file and waits until it answers.
    pub async fn deploy(
        &self,
        agent: &str,
        source: &str,
        concurrency: u32,
        (min, max): (u32, u32),
    ) -> Result<()> {
        let source = base64::engine::general_purpose::STANDARD.encode(source);
        let body = json!({
            "agent_metadata": {"agent_id": agent, "name": agent, "version": "1.0.0"},
            "agent_code": {"source_code": source, "entrypoint": "handler", "configuration": {"memory_limit": 512, "timeout": 120, "concurrent_executions": concurrency}},
            "deployment_config": {"environment": "dev", "auto_scaling": {"min_instances": min, "max_instances": max, "target_utilization": 1.0}},
        });
        let answer = self
            .ask("POST", "/api/v1/agents/deploy", &body.to_string())
            .await?;
        let deployed: Value = serde_json::from_slice(&answer.body)?;
        let id = deployed["deployment_id"]
            .as_str()
            .with_context(|| format!("not accepted: {deployed}"))?
            .to_owned();
        let began = Instant::now();
        loop {
            let answer = self
                .ask(
                    "GET",
                    &format!("/api/v1/agents/{agent}/deployments/{id}"),
                    "",
                )
                .await?;
            let state: Value = serde_json::from_slice(&answer.body)?;
            match state["status"].as_str() {
                Some("deployed") => return Ok(()),
                Some("deploying") if began.elapsed() < STARTS_WITHIN => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                _ => bail!("not deployed: {state}"),
            }
        }
    }

    pub fn execute(&self, agent: &str, parameters: &Value) -> Vec<u8> {
        let body = json!({"input_data": {"parameters": parameters}}).to_string();
        request(
            "POST",
            &format!("/api/v1/agents/{agent}/execute"),
            self.address,
            Some(&self.key),
            &body,
        )
    }

    pub async fn instances(&self, agent: &str) -> Result<Vec<Value>> {
        let answer = self
            .ask("GET", &format!("/api/v1/agents/{agent}/instances"), "")
            .await?;
        let listed: Value = serde_json::from_slice(&answer.body)?;
        Ok(listed["instances"].as_array().cloned().unwrap_or_default())
    }
}

impl Drop for Phalanx {
    fn drop(&mut self) {
        end(&mut self.child);
        fs::remove_dir_all(&self.dir).ok();
    }
}

impl Peer {
    pub async fn start(python: &Path, file: &str) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("peer")
            .join(file);
        let child = Command::new(python)
            .arg(file)
            .env("PORT", port.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let began = Instant::now();
        while Connection::open(address).await.is_err() {
            if began.elapsed() > STARTS_WITHIN {
                bail!("the peer did not start");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { child, address })
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

impl Drop for Peer {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(10) {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().ok();
    child.wait().ok();
}
