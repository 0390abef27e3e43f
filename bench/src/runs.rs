//! What is done to either side between measurements, and async executions until their end.

use crate::{
    ECHO,
    front::{Front, Size},
    load::{Figures, Pace, drive},
    parameters,
    rows::{Rows, Summary},
};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Connections of a closed loop.
pub const MANY: usize = 64;
/// An open loop has connections to spare for answers that come late.
const OPEN: usize = 256;
const SERVES_WITHIN: Duration = Duration::from_secs(60);
const DRAINS_WITHIN: Duration = Duration::from_secs(120);
/// Deployments in flight.
const AT_ONCE: usize = 8;

pub async fn deploy_all(front: &Front, names: &[String], size: Size) -> Result<()> {
    for names in names.chunks(AT_ONCE) {
        let mut deployments = JoinSet::new();
        for name in names {
            let (front, name) = (front.clone(), name.clone());
            deployments.spawn(async move { front.deploy(&name, ECHO, size).await });
        }
        while let Some(deployed) = deployments.join_next().await {
            deployed??;
        }
    }
    Ok(())
}

/// Async executions of an agent that had none, until all of them have ended: how they were accepted, and what became of them.
pub async fn in_background(
    front: &Front,
    rows: &Rows,
    agent: &str,
    pace: Pace,
) -> Result<(Figures, Summary)> {
    let body = json!({"input_data": {"parameters": {}}, "execution_options": {"async": true}});
    let connections = match pace {
        Pace::Every { .. } => OPEN,
        Pace::For(_) | Pace::Count(_) => MANY,
    };
    let targets = front.targets(vec![front.post(agent, &body)]);
    let accepted = drive(&targets, connections, pace).await?;
    let began = Instant::now();
    while rows.open()? > 0 {
        if began.elapsed() > DRAINS_WITHIN {
            bail!("not all executions of {agent} have ended within {DRAINS_WITHIN:?}");
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let ended = rows.summary(agent)?;
    let good = accepted.latencies.len() - accepted.failed;
    if ended.ended != good as u64 {
        bail!(
            "{good} executions of {agent} were accepted, {} completed",
            ended.ended
        );
    }
    Ok((accepted, ended))
}

/// The id of one execution that has completed.
pub async fn executed(front: &Front, agent: &str) -> Result<String> {
    let body = json!({"input_data": {"parameters": parameters()}});
    let path = format!("/api/v1/agents/{agent}/execute");
    let answer = front.ask("POST", &path, &body.to_string()).await?;
    let outcome: Value = serde_json::from_slice(&answer.body)?;
    if outcome["status"] != "completed" {
        bail!("{agent} does not answer: {outcome}");
    }
    let id = outcome["execution_id"].as_str();
    Ok(id.context("an execution without an id")?.to_owned())
}

/// Waits until an agent answers again.
pub async fn serves(front: &Front, agent: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        match executed(front, agent).await {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > SERVES_WITHIN => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

pub fn path_of(id: &str) -> String {
    format!("/api/v1/agents/echo/executions/{id}")
}

/// Memory of this machine that is free.
pub fn available_mb() -> Result<u64> {
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let line = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let words = line.and_then(|line| line.split_whitespace().next());
    let kb: u64 = words.context("no MemAvailable")?.parse()?;
    Ok(kb / 1024)
}
