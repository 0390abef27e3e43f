//! What Phalanx says of itself: log lines on stderr, and to an OpenTelemetry collector its spans and figures.

mod export;
mod figures;
mod otlp;
mod push;

pub use export::Exporter;
pub use figures::Figures;

use crate::settings::{Log, LogFormat, Settings};
use anyhow::{Context, Result};
use proto::trace::TARGET;
use tracing::Subscriber;
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets, filter_fn},
    fmt,
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// Begins to log, and to export as `phalanx-<role>` where a collector is named. Called within the runtime that exports.
pub fn start(settings: &Settings, role: &str) -> Result<Exporter> {
    let level = &settings.log.level;
    let lines: Targets = level
        .parse()
        .with_context(|| format!("log.level {level:?} cannot be used"))?;
    // Spans are no log lines.
    let lines = lines.with_target(TARGET, LevelFilter::OFF);
    let exporter = Exporter::new(&settings.telemetry.otlp_endpoint, role)?;
    let started = match exporter.tracer() {
        // One filter for all: a span that nobody takes is not made, which costs a look at a flag.
        None => tracing_subscriber::registry()
            .with(lines)
            .with(writer(&settings.log))
            .try_init(),
        Some(tracer) => {
            let spans = tracing_opentelemetry::layer()
                .with_tracer(tracer)
                .with_context_activation(false)
                .with_tracked_inactivity(false)
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_level(false)
                .with_filter(filter_fn(|about| about.target() == TARGET));
            tracing_subscriber::registry()
                .with(spans)
                .with(writer(&settings.log).with_filter(lines))
                .try_init()
        }
    };
    started.context("logging cannot be started")?;
    Ok(exporter)
}

fn writer<S>(log: &Log) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let lines = fmt::layer().with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().boxed(),
    }
}
