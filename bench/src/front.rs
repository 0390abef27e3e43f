//! The REST API of what was started: one address, or one of several gateways.

use crate::{
    http::{Answer, Connection, request},
    load::Target,
};
use anyhow::{Context, Result, bail};
use base64::Engine as _;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

const STARTS_WITHIN: Duration = Duration::from_secs(180);

#[derive(Clone, Default)]
pub struct Front {
    pub addresses: Vec<SocketAddr>,
    pub key: String,
}

/// Of an agent's instances.
#[derive(Clone, Copy)]
pub struct Size {
    pub concurrency: u32,
    pub memory_mb: u32,
    pub min: u32,
    pub max: u32,
}

impl Front {
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The same requests for every address.
    pub fn targets(&self, requests: Vec<Vec<u8>>) -> Vec<Target> {
        let requests: std::sync::Arc<[Vec<u8>]> = requests.into();
        let targets = self.addresses.iter().map(|address| Target {
            address: *address,
            requests: std::sync::Arc::clone(&requests),
        });
        targets.collect()
    }

    pub fn get(&self, path: &str) -> Vec<u8> {
        request("GET", path, self.address(), Some(&self.key), "")
    }

    pub async fn ask(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        Connection::open(self.address())
            .await?
            .send(&request(
                method,
                path,
                self.address(),
                Some(&self.key),
                body,
            ))
            .await
    }

    /// Deploys one Python file and waits until it answers.
    pub async fn deploy(&self, agent: &str, source: &str, size: Size) -> Result<()> {
        let code = json!({
            "source_code": source, "entrypoint": "handler",
            "configuration": {"memory_limit": size.memory_mb, "timeout": 120, "concurrent_executions": size.concurrency},
        });
        self.deploy_code(agent, code, size).await
    }

    /// The same of an `agent_code`, with its source as text.
    pub async fn deploy_code(&self, agent: &str, mut code: Value, size: Size) -> Result<()> {
        let source = code["source_code"].as_str().unwrap_or_default();
        code["source_code"] = base64::engine::general_purpose::STANDARD
            .encode(source)
            .into();
        let Size { min, max, .. } = size;
        let body = json!({
            "agent_metadata": {"agent_id": agent, "name": agent, "version": "1.0.0"},
            "agent_code": code,
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
        self.post(agent, &json!({"input_data": {"parameters": parameters}}))
    }

    /// An execution of that body.
    pub fn post(&self, agent: &str, body: &Value) -> Vec<u8> {
        request(
            "POST",
            &format!("/api/v1/agents/{agent}/execute"),
            self.address(),
            Some(&self.key),
            &body.to_string(),
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
