//! Control groups, version 1 and 2, by hand: `<root>/phalanx/<node>/<leaf>`, one leaf per instance.
//!
//! v1: a directory in each controller's own hierarchy (kernel: admin-guide/cgroup-v1). v2: one directory (admin-guide/cgroup-v2), below
//! our own group where we may write; we step into a leaf of it first, for only leaves may hold processes.

mod find;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::process;

const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "cpuacct"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    V1,
    V2,
    None,
}

/// What this node may use. Found once.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    pub version: Version,
    /// Controller and the directory of this node's leaves in its hierarchy.
    nodes: Vec<(&'static str, PathBuf)>,
}

#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub memory_bytes: u64,
    pub processes: u64,
}

/// The groups of one instance.
#[derive(Debug)]
pub struct Groups {
    version: Version,
    dirs: Vec<(&'static str, PathBuf)>,
}

impl Hierarchy {
    pub fn none() -> Self {
        Hierarchy {
            version: Version::None,
            nodes: Vec::new(),
        }
    }

    pub fn controllers(&self) -> Vec<String> {
        self.nodes
            .iter()
            .map(|(controller, _)| (*controller).to_owned())
            .collect()
    }

    pub fn has(&self, controller: &str) -> bool {
        self.nodes.iter().any(|(c, _)| *c == controller)
    }

    /// Removes this node's directories if nothing is left in them.
    pub fn leave(&self) {
        for (_, node) in &self.nodes {
            let _ = fs::remove_dir(node);
        }
    }

    /// On failure nothing is left.
    pub fn create(&self, leaf: &str) -> io::Result<Groups> {
        let groups = Groups {
            version: self.version,
            dirs: self
                .nodes
                .iter()
                .map(|(c, dir)| (*c, dir.join(leaf)))
                .collect(),
        };
        for dir in groups.paths() {
            if let Err(e) = fs::create_dir_all(dir) {
                groups.remove();
                return Err(e);
            }
        }
        Ok(groups)
    }

    /// Kills and removes every leaf of this node that `keep` does not claim. Answers how many are gone.
    pub fn sweep(&self, keep: impl Fn(&str) -> bool, within: Duration) -> usize {
        let deadline = Instant::now() + within;
        let mut leaves = BTreeSet::new();
        for (_, node) in &self.nodes {
            let Ok(entries) = fs::read_dir(node) else {
                continue;
            };
            let dirs = entries
                .flatten()
                .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            leaves.extend(
                dirs.filter_map(|e| e.file_name().into_string().ok())
                    .filter(|leaf| !keep(leaf)),
            );
        }
        let mut swept = 0;
        for leaf in leaves {
            let groups = Groups {
                version: self.version,
                dirs: self
                    .nodes
                    .iter()
                    .map(|(c, dir)| (*c, dir.join(&leaf)))
                    .collect(),
            };
            swept += usize::from(groups.destroy(deadline));
        }
        swept
    }
}

impl Groups {
    fn dir(&self, controller: &str) -> Option<&Path> {
        self.dirs
            .iter()
            .find(|(c, _)| *c == controller)
            .map(|(_, dir)| dir.as_path())
    }

    /// Each once: v2 and co-mounted v1 controllers share a directory.
    fn paths(&self) -> BTreeSet<&Path> {
        self.dirs.iter().map(|(_, dir)| dir.as_path()).collect()
    }

    /// Takes milliseconds when no process has been moved for a while: the kernel waits for an RCU grace period.
    pub fn join(&self, pid: u32) -> io::Result<()> {
        self.paths()
            .iter()
            .try_for_each(|dir| fs::write(dir.join("cgroup.procs"), pid.to_string()))
    }

    pub fn bound(&self, bounds: Bounds) -> io::Result<()> {
        let memory = bounds.memory_bytes.to_string();
        match (self.version, self.dir("memory")) {
            (Version::V1, Some(dir)) => {
                fs::write(dir.join("memory.limit_in_bytes"), &memory)?;
                // With swap accounting: no swap at all. Without: none as long as there is anything else to reclaim.
                write_if_there(&dir.join("memory.memsw.limit_in_bytes"), &memory)?;
                write_if_there(&dir.join("memory.swappiness"), "0")?;
            }
            (Version::V2, Some(dir)) => {
                fs::write(dir.join("memory.max"), &memory)?;
                write_if_there(&dir.join("memory.swap.max"), "0")?;
            }
            (Version::None, _) | (_, None) => {}
        }
        match self.dir("pids") {
            Some(dir) => fs::write(dir.join("pids.max"), bounds.processes.to_string()),
            None => Ok(()),
        }
    }

    /// Nothing more can begin in it: what is killed now stays gone.
    pub fn stop_growing(&self) {
        if let Some(dir) = self.dir("pids") {
            let _ = fs::write(dir.join("pids.max"), "0");
        }
    }

    /// Processor time per time, in cores. After the warm-up: a quota of half a core makes Python's start six times slower.
    pub fn bound_cpu(&self, cores: f64) -> io::Result<()> {
        const PERIOD_US: u32 = 100_000;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float cast saturates, and the kernel refuses nonsense"
        )]
        let quota = (cores * f64::from(PERIOD_US)) as u64;
        match (self.version, self.dir("cpu")) {
            (Version::V1, Some(dir)) => fs::write(dir.join("cpu.cfs_quota_us"), quota.to_string()),
            (Version::V2, Some(dir)) => {
                fs::write(dir.join("cpu.max"), format!("{quota} {PERIOD_US}"))
            }
            (Version::None, _) | (_, None) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Bytes in use that could not be reclaimed at once (without inactive file pages), and the most that ever was.
    pub fn memory(&self) -> Option<(u64, u64)> {
        let dir = self.dir("memory")?;
        let (usage, peak, inactive) = match self.version {
            Version::V1 => (
                "memory.usage_in_bytes",
                "memory.max_usage_in_bytes",
                "total_inactive_file",
            ),
            Version::V2 => ("memory.current", "memory.peak", "inactive_file"),
            Version::None => return None,
        };
        let usage = number(&dir.join(usage))?;
        let current = usage.saturating_sub(keyed(&dir.join("memory.stat"), inactive).unwrap_or(0));
        Some((current, number(&dir.join(peak)).unwrap_or(usage)))
    }

    pub fn cpu_us(&self) -> Option<u64> {
        match self.version {
            Version::V1 => Some(number(&self.dir("cpuacct")?.join("cpuacct.usage"))? / 1000),
            Version::V2 => keyed(&self.dirs.first()?.1.join("cpu.stat"), "usage_usec"),
            Version::None => None,
        }
    }

    /// How many processes the kernel killed because the group was out of memory.
    pub fn oom_kills(&self) -> u64 {
        let file = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
            Version::None => return 0,
        };
        self.dir("memory")
            .and_then(|dir| keyed(&dir.join(file), "oom_kill"))
            .unwrap_or(0)
    }

    /// `None` without cgroups.
    pub fn processes(&self) -> Option<Vec<i32>> {
        if self.dirs.is_empty() {
            return None;
        }
        let lists = self
            .paths()
            .into_iter()
            .filter_map(|dir| fs::read_to_string(dir.join("cgroup.procs")).ok());
        let pids: BTreeSet<i32> = lists
            .flat_map(|l| {
                l.lines()
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<_>>()
            })
            .collect();
        Some(pids.into_iter().filter(|pid| *pid > 0).collect())
    }

    pub fn kill(&self) {
        if self.version == Version::V2
            && self
                .paths()
                .iter()
                .all(|dir| fs::write(dir.join("cgroup.kill"), "1").is_ok())
        {
            return;
        }
        self.processes()
            .unwrap_or_default()
            .into_iter()
            .for_each(process::kill);
    }

    /// Whether no directory of it is left. A group that still has a process stays.
    pub fn remove(&self) -> bool {
        let gone = |dir: &&Path| match fs::remove_dir(dir) {
            Ok(()) => true,
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        };
        self.paths().iter().filter(|dir| !gone(dir)).count() == 0
    }

    /// Kills until it can be removed or the time is over. Blocks.
    pub fn destroy(&self, deadline: Instant) -> bool {
        loop {
            self.kill();
            if self.remove() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn keyed(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        line.strip_prefix(key)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

/// Without O_CREAT, which cgroupfs answers with EACCES where a file is missing.
fn write_if_there(file: &Path, text: &str) -> io::Result<()> {
    match fs::OpenOptions::new().write(true).truncate(true).open(file) {
        Ok(mut file) => file.write_all(text.as_bytes()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests;
