//! What this host can do, found once at start-up by doing it.

use std::fmt;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde::Serialize;

use super::cgroup::{Hierarchy, Version};
use super::error::Error;
use super::plan::Report;
use super::remains::Graveyard;
use super::root;
use super::spec;
use super::standby::Standby;
use super::start::Helper;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// All or nothing: a host that cannot confine runs no worker.
    Namespaces,
    /// Plain child processes. Never a fallback: somebody must have asked for it.
    None,
}

#[derive(Debug, Clone)]
pub struct Config {
    /// The program whose `main` calls [`super::helper_main`] when it is given `helper_args`. This very binary, even when it is replaced on disk.
    pub helper: PathBuf,
    pub helper_args: Vec<String>,
    /// Names the groups of this executor: `phalanx/<node>/`. One executor per node name and host.
    pub node: String,
    pub isolation: Isolation,
    /// Whether to use control groups where they are to be had.
    pub cgroups: bool,
    /// Identities on the host that workers of a root executor get, in turn: no two instances share one (nor its kernel quotas).
    /// The default lies in what systemd's UIDS-GIDS document leaves unused.
    pub worker_uids: Range<u32>,
    /// Sandboxes that wait for the next instance, made as far as that can be without knowing it.
    pub standby: usize,
    pub start_within: Duration,
    pub kill_within: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            helper: PathBuf::from("/proc/self/exe"),
            helper_args: vec!["__confine".to_owned()],
            node: "local".to_owned(),
            isolation: Isolation::Namespaces,
            cgroups: true,
            worker_uids: 1_900_000_000..1_900_065_536,
            standby: 2,
            start_within: Duration::from_secs(10),
            kill_within: Duration::from_secs(5),
        }
    }
}

/// What a worker on this host is confined by. Cheap to clone; `spawn` and `sweep` take it.
#[derive(Debug, Clone, Serialize)]
pub struct Level {
    pub isolation: Isolation,
    /// Of `user, pid, mount, net, ipc, uts, cgroup`: those the kernel grants.
    pub namespaces: Vec<String>,
    /// We are root, and each worker runs as a uid of its own. Else as ours (which is not the host's root).
    pub root: bool,
    /// The sandbox has a /proc of its own. Without: none at all.
    pub proc: bool,
    /// The version of Landlock that the kernel has, as a second wall about the files; 0: none.
    pub landlock: u32,
    pub cgroup: Version,
    pub controllers: Vec<String>,
    /// `cgroup` or `rlimit_data`: then each process is bounded by the kernel, and their sum is watched.
    pub memory: &'static str,
    /// `cgroup`, `rlimit_nproc` or `none`.
    pub processes: &'static str,
    /// Why the host cannot confine.
    pub failure: Option<String>,
    #[serde(skip)]
    pub(super) host: Arc<Host>,
}

/// What all instances of one executor share.
#[derive(Debug)]
pub(super) struct Host {
    pub config: Config,
    pub hierarchy: Hierarchy,
    pub graveyard: Graveyard,
    pub standby: Standby,
    /// Tells our groups from those of an earlier life.
    pub token: String,
    /// We may open trees to be bound, and so show an instance what is its own after the old root has gone.
    pub hands_trees: bool,
    /// `None`: workers are mapped to ourselves.
    uids: Option<Range<u32>>,
    next: AtomicU32,
}

impl Host {
    pub fn leaf(&self) -> String {
        format!(
            "{}-{}",
            self.token,
            self.next.fetch_add(1, Ordering::Relaxed)
        )
    }

    /// As root the next of the workers', else ours.
    pub fn worker_ids(&self) -> (u32, u32) {
        let Some(uids) = &self.uids else {
            return (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            );
        };
        let offset = self.next.fetch_add(1, Ordering::Relaxed) % (uids.end - uids.start).max(1);
        (uids.start + offset, uids.start + offset)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.standby.clear();
        self.hierarchy.leave();
    }
}

impl Level {
    /// Workers cannot reach the host.
    pub fn is_confined(&self) -> bool {
        self.isolation == Isolation::Namespaces && self.failure.is_none()
    }

    /// What is forked from a template must be bounded, counted and ended alone, by control groups of its own. `None`: it can be.
    pub fn cannot_fork(&self) -> Option<&'static str> {
        let has = |controller: &str| self.controllers.iter().any(|c| c == controller);
        if !self.is_confined() {
            Some("not confined")
        } else if !self.proc {
            Some("no /proc")
        } else if !has("memory") || !has("pids") {
            Some("no control groups for memory and processes")
        } else {
            None
        }
    }

    /// Sandboxes that stand ready for the next instance.
    pub fn standing(&self) -> usize {
        self.host.standby.grounded()
    }

    pub(super) fn watches_memory(&self) -> bool {
        self.memory == "rlimit_data"
    }

    pub(super) fn limits_processes_itself(&self) -> bool {
        self.processes == "rlimit_nproc"
    }

    /// Kills what an earlier life of this node's executor left in its control groups, and removes them. Answers how many there were.
    /// At most `kill_within`. Call it before the first spawn.
    pub async fn sweep(&self) -> usize {
        let host = Arc::clone(&self.host);
        let sweep = move || {
            host.hierarchy.sweep(
                |leaf| leaf.starts_with(&host.token),
                host.config.kill_within,
            )
        };
        tokio::task::spawn_blocking(sweep).await.unwrap_or(0)
    }
}

/// `confined (user pid mount net ipc uts cgroup; own /proc; a uid of its own; seccomp; Landlock 7; cgroup v1: …)`
impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.failure, self.isolation) {
            (Some(failure), _) => write!(
                f,
                "cannot confine ({failure}; granted: {}",
                self.namespaces.join(" ")
            )?,
            (None, Isolation::None) => write!(f, "not confined (isolation = none")?,
            (None, Isolation::Namespaces) => {
                let proc = if self.proc { "own /proc" } else { "no /proc" };
                let uid = if self.root {
                    "a uid of its own"
                } else {
                    "our uid"
                };
                write!(
                    f,
                    "confined ({}; {proc}; {uid}; seccomp",
                    self.namespaces.join(" ")
                )?;
                match self.landlock {
                    0 => write!(f, "; no Landlock")?,
                    version => write!(f, "; Landlock {version}")?,
                }
            }
        }
        match self.cgroup {
            Version::V1 => write!(f, "; cgroup v1: {}", self.controllers.join(" "))?,
            Version::V2 => write!(f, "; cgroup v2: {}", self.controllers.join(" "))?,
            Version::None => write!(f, "; no cgroup")?,
        }
        write!(
            f,
            "; memory by {}, processes by {}; ",
            self.memory, self.processes
        )?;
        match self.cannot_fork() {
            None => write!(f, "warm starts)"),
            Some(why) => write!(f, "no warm starts: {why})"),
        }
    }
}

/// Tries everything once, in a child that is thrown away. Never fails: what it could not do is in the level.
pub async fn probe(config: Config) -> Level {
    let probing = tokio::task::spawn_blocking(move || try_host(config));
    #[expect(
        clippy::expect_used,
        reason = "a panic in the probe is a bug, and start-up is the time to see it"
    )]
    probing.await.expect("the probe does not panic")
}

fn try_host(config: Config) -> Level {
    let hierarchy = if config.cgroups {
        Hierarchy::find(&config.node)
    } else {
        Hierarchy::none()
    };
    let has = |controller| hierarchy.has(controller);
    let memory = if has("memory") {
        "cgroup"
    } else {
        "rlimit_data"
    };
    let processes = match (has("pids"), config.isolation) {
        (true, _) => "cgroup",
        (false, Isolation::Namespaces) if counts_processes_per_namespace() => "rlimit_nproc",
        // It would count every process of the user on the host.
        (false, _) => "none",
    };
    let (cgroup, controllers, isolation) =
        (hierarchy.version, hierarchy.controllers(), config.isolation);
    let host = Arc::new(Host {
        hands_trees: config.isolation == Isolation::Namespaces && root::hands_trees(),
        uids: spare_ids(&config.worker_uids),
        token: uuid::Uuid::new_v4().simple().to_string()[..8].to_owned(),
        next: AtomicU32::new(0),
        graveyard: Graveyard::default(),
        standby: Standby::default(),
        hierarchy,
        config,
    });
    let mut level = Level {
        isolation,
        namespaces: Vec::new(),
        root: host.uids.is_some(),
        proc: false,
        landlock: 0,
        cgroup,
        controllers,
        memory,
        processes,
        failure: None,
        host,
    };
    if isolation == Isolation::Namespaces {
        level.failure = try_namespaces(&mut level).err().map(|e| e.to_string());
    }
    level
}

fn try_namespaces(level: &mut Level) -> Result<(), Error> {
    let mut helper = Helper::start(&level.host)?;
    let (ground, plan) = spec::probe(level.host.worker_ids(), level.host.hands_trees);
    helper.tell_ground(ground)?;
    helper.tell(&plan, &[])?;
    while let Some(report) = helper.hear()? {
        if let Report::Probed {
            proc,
            landlock,
            namespaces,
        } = report
        {
            (level.proc, level.landlock, level.namespaces) = (proc, landlock, namespaces);
        }
    }
    if level.namespaces.is_empty() {
        return Err(Error::Helper("no answer to the probe".to_owned()));
    }
    Ok(())
}

/// What a root executor has for its workers: the configured identities if our user namespace has them; else (Docker with remapped
/// users) nobody; else (a rootless container) none, and then root in here is an ordinary user of the host anyway.
fn spare_ids(configured: &Range<u32>) -> Option<Range<u32>> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let has = |ids: &Range<u32>| ["uid_map", "gid_map"].iter().all(|map| maps(map, ids));
    [configured.clone(), 65_534..65_535]
        .into_iter()
        .find(|ids| !ids.is_empty() && has(ids))
}

/// user_namespaces(7): `first-inside first-outside count` a line.
fn maps(map: &str, ids: &Range<u32>) -> bool {
    let map = fs::read_to_string(format!("/proc/self/{map}")).unwrap_or_default();
    map.lines().any(|line| {
        let mut numbers = line
            .split_whitespace()
            .map(|n| n.parse::<u64>().unwrap_or(0));
        let (first, _, count) = (
            numbers.next().unwrap_or(0),
            numbers.next(),
            numbers.next().unwrap_or(0),
        );
        u64::from(ids.start) >= first && u64::from(ids.end) <= first + count
    })
}

/// Since Linux 5.14 RLIMIT_NPROC counts per user namespace.
fn counts_processes_per_namespace() -> bool {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 14)
}
