//! Log lines of the platform itself, on stderr.

use crate::settings::{Log, LogFormat};
use anyhow::{Context, Result};
use tracing_subscriber::{filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

pub fn start(log: &Log) -> Result<()> {
    let filter: Targets = log
        .level
        .parse()
        .with_context(|| format!("log.level {:?} cannot be used", log.level))?;
    let registry = tracing_subscriber::registry().with(filter);
    match log.format {
        LogFormat::Text => registry
            .with(fmt::layer().with_writer(std::io::stderr).with_target(false))
            .try_init(),
        LogFormat::Json => registry
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init(),
    }
    .context("logging cannot be started")
}
