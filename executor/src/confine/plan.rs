//! What the executor tells its helper, and what the helper answers. Pure values; `wire` carries them.

use serde::{Deserialize, Serialize};

/// The port inside the sandbox on which the executor's egress proxy listens.
pub const EGRESS_PORT: u16 = 3128;

/// The numeric identity of the worker inside its user namespace, whatever it is outside.
pub const INSIDE_ID: u32 = 1000;

/// What is told first: a sandbox as far as it can be made before anybody knows for which instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ground {
    pub mode: Mode,
    /// The worker's identity inside: [`INSIDE_ID`], or 0 where packages are installed.
    pub inside_id: u32,
    /// The worker's identity on the host.
    pub uid: u32,
    pub gid: u32,
    pub hostname: String,
    /// In order: parents before children. The helper opens them.
    pub entries: Vec<Entry>,
    /// Whether to mount a new /proc. A probe finds out whether that is possible.
    pub proc: bool,
}

/// All the rest, told second. It travels over the control socket, never over argv: it may hold secrets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The instance's own, after those of the ground: binds only, which the executor has opened. Their trees are the first descriptors.
    pub entries: Vec<Entry>,
    pub tmp_mb: u64,
    pub shm_mb: u64,
    pub argv: Vec<String>,
    pub env: Vec<String>,
    pub cwd: String,
    pub limits: Limits,
    /// Roots for what the worker forks, each with scratch of its own; 0: the worker is no template.
    pub slots: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    Confine,
    /// Confined alike, but it believes to be root: what installs packages gives files to others, which is answered and not done.
    Install,
    /// Everything up to the worker, which is not started.
    Probe,
    /// `isolation = none`: a child process with rlimits.
    Plain,
}

/// Resource limits of the worker process and its children. `None`: a cgroup bounds it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Limits {
    pub open_files: u64,
    pub data_bytes: Option<u64>,
    pub processes: Option<u64>,
}

/// One thing to be seen in the sandbox's file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    Bind {
        host: String,
        inside: String,
        kind: Bind,
    },
    /// Several folders seen as one, the first one on top.
    Overlay {
        inside: String,
        lower: Vec<String>,
        /// Where changes go; without, there can be none.
        upper: Option<Upper>,
    },
    Symlink {
        inside: String,
        target: String,
    },
    File {
        inside: String,
        text: String,
    },
    Dir {
        inside: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Bind {
    Tree,
    Device,
    /// Only where packages are installed: a folder of that one build.
    Writable,
}

/// A folder of the host that holds both, as overlayfs demands: what is changed, and where it prepares a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upper {
    pub host: String,
    pub changes: String,
    pub work: String,
}

/// What the executor asks of a template's first process while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Make a root with scratch of its own; answered by `Opened` or `NotOpened`.
    Open { slot: u32 },
    /// Take it away with all that is in it; not answered.
    Close { slot: u32 },
    /// Say how this process ends, by its number in the sandbox.
    Watch { pid: i32 },
}

/// What comes back, in this order. `Listening` carries a descriptor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Report {
    /// The sandbox's first process exists; its pid as the executor sees it.
    Born {
        pid: i32,
    },
    /// The egress listener, bound inside the sandbox's network.
    Listening,
    /// All of the ground is made.
    Grounded,
    /// The worker has been executed.
    Running,
    /// Ends a probe.
    Probed {
        proc: bool,
        /// The version of Landlock that is in force; 0: none.
        landlock: u32,
        namespaces: Vec<String>,
    },
    Failed {
        step: String,
        errno: i32,
    },
    Exited {
        code: Option<i32>,
        signal: Option<i32>,
    },
    Opened {
        slot: u32,
    },
    NotOpened {
        slot: u32,
        failure: String,
    },
    /// A process that was to be watched.
    Ended {
        pid: i32,
        code: Option<i32>,
        signal: Option<i32>,
    },
}
