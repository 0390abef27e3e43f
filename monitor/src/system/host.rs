//! What this host uses of itself, from /proc; nothing where there is none.

use std::sync::{Mutex, PoisonError};

/// Shares from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    /// Of all CPUs, since the last look.
    pub cpu: Option<f64>,
    pub memory: Option<f64>,
}

/// Remembers the counters of the last look.
pub struct Host(Mutex<Option<Ticks>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    all: u64,
    idle: u64,
}

impl Host {
    pub fn new() -> Self {
        Self(Mutex::new(read("/proc/stat").as_deref().and_then(ticks)))
    }

    pub fn used(&self) -> Used {
        let current = read("/proc/stat").as_deref().and_then(ticks);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cpu = last
            .zip(current)
            .and_then(|(last, current)| share(last, current));
        *last = current;
        Used {
            cpu,
            memory: read("/proc/meminfo").as_deref().and_then(memory),
        }
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// proc_stat(5): user nice system idle iowait irq softirq steal; guests are counted in user already.
fn ticks(stat: &str) -> Option<Ticks> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let counts: Vec<u64> = line
        .split_whitespace()
        .take(8)
        .map_while(|count| count.parse().ok())
        .collect();
    Some(Ticks {
        all: counts.iter().sum(),
        idle: counts.get(3)? + counts.get(4)?,
    })
}

fn share(last: Ticks, current: Ticks) -> Option<f64> {
    let all = current.all.checked_sub(last.all).filter(|all| *all > 0)?;
    let idle = current.idle.saturating_sub(last.idle).min(all);
    Some((all - idle) as f64 / all as f64)
}

fn memory(meminfo: &str) -> Option<f64> {
    let kilobytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok()
    };
    let (all, free) = (kilobytes("MemTotal:")?, kilobytes("MemAvailable:")?);
    (all > 0.0).then(|| ((all - free) / all).clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let at = |line: &str| ticks(&format!("cpu  {line}\ncpu0 1 2 3\n")).expect("counts");
        let (last, current) = (
            at("100 0 100 700 100 0 0 0 0 0"),
            at("150 0 150 770 130 0 0 0 0 0"),
        );
        assert_eq!(share(last, current), Some(0.5));
        assert_eq!(share(last, last), None, "nothing passed");
        assert_eq!(
            memory("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  250 kB\n"),
            Some(0.75)
        );
        assert_eq!((ticks(""), memory("")), (None, None));
    }
}
