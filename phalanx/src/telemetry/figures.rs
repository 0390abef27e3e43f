//! The figures of this process and of every role in it, as one page for Prometheus.
//!
//! What a role counts it gives as its `meter()`; here they are only joined. Labels are words of ours: never an id.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, prometheus_text},
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};
use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

/// Cheap to clone; all clones are one page.
#[derive(Debug, Clone)]
pub struct Figures(Arc<Registry>);

impl Figures {
    /// This process, and what `roles` register besides.
    pub fn new(role: &'static str, roles: impl FnOnce(&mut Registry)) -> Self {
        let mut registry = Registry::default();
        let about = [("version", env!("CARGO_PKG_VERSION")), ("role", role)];
        registry.register("phalanx_build", "What runs here", Info::new(about));
        registry.register_collector(Box::new(Process::new()));
        roles(&mut registry);
        Self(Arc::new(registry))
    }

    /// Prometheus' text format 0.0.4, as it is now.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(32 * 1024);
        if let Err(error) = prometheus_text::encode(&mut text, &self.0) {
            tracing::warn!(%error, "a figure could not be written");
        }
        text
    }
}

/// What the kernel says of this process, under the names that every Prometheus client uses.
#[derive(Debug)]
struct Process {
    started_at: f64,
}

impl Process {
    fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            started_at: since.unwrap_or_default().as_secs_f64(),
        }
    }
}

/// Resident bytes.
fn memory() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: i64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024)
}

fn descriptors() -> Option<i64> {
    // One of them is the folder that is being read.
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    i64::try_from(open.saturating_sub(1)).ok()
}

/// In user and in kernel mode, together.
fn cpu_seconds() -> Option<f64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let times = [usage.user_time(), usage.system_time()];
    Some(
        times
            .iter()
            .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
            .sum(),
    )
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut one = |name, help, figure: &dyn Figure| {
            figure.write(encoder.encode_descriptor(name, help, None, figure.kind())?)
        };
        if let Some(bytes) = memory() {
            let help = "Resident memory of this process in bytes";
            one(
                "process_resident_memory_bytes",
                help,
                &ConstGauge::new(bytes),
            )?;
        }
        if let Some(open) = descriptors() {
            one(
                "process_open_fds",
                "Open file descriptors",
                &ConstGauge::new(open),
            )?;
        }
        if let Some(seconds) = cpu_seconds() {
            let help = "User and system time of this process in seconds";
            one("process_cpu_seconds", help, &ConstCounter::new(seconds))?;
        }
        let help = "When this process started, in seconds since 1970";
        one(
            "process_start_time_seconds",
            help,
            &ConstGauge::new(self.started_at),
        )
    }
}

/// One figure of a collector, whatever its kind.
trait Figure {
    fn kind(&self) -> prometheus_client::metrics::MetricType;
    fn write(&self, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> fmt::Result;
}

impl<M: EncodeMetric> Figure for M {
    fn kind(&self) -> prometheus_client::metrics::MetricType {
        self.metric_type()
    }

    fn write(&self, encoder: prometheus_client::encoding::MetricEncoder<'_>) -> fmt::Result {
        self.encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_on_the_page() {
        let text = Figures::new("test", |_| {}).text();
        let figure = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(name));
            let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
            let value = line.rsplit(' ').next().expect("a value");
            value.parse().expect("a number")
        };
        assert!(figure("process_resident_memory_bytes ") > 1e6);
        assert!(figure("process_open_fds ") >= 3.0);
        assert!(figure("process_cpu_seconds_total ") >= 0.0);
        assert!(figure("process_start_time_seconds ") > 1.7e9);
        assert!(text.contains("role=\"test\""), "{text}");
    }
}
