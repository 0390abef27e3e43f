//! `phalanx healthcheck URL`: for containers that have no other HTTP client.

use anyhow::{Context, Result, bail};
use std::{process::ExitCode, time::Duration};

const ANSWERS_WITHIN: Duration = Duration::from_secs(3);

pub async fn run(url: &str) -> Result<ExitCode> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(ANSWERS_WITHIN)
        .build()?;
    let answer = client
        .get(url)
        .send()
        .await
        .with_context(|| format!("{url} does not answer"))?;
    if answer.status() != reqwest::StatusCode::OK {
        bail!("{url} answers {}", answer.status());
    }
    Ok(ExitCode::SUCCESS)
}
