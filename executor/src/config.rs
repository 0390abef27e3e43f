//! What an executor is told at its start.

use crate::confine;
use domain::{id::NodeId, log, session};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

#[derive(Debug, Clone)]
pub struct Config {
    /// Where code, environments and the worker lie; this executor alone writes there.
    pub data_dir: PathBuf,
    /// Kept over restarts: instances and envelopes belong to it.
    pub node_id: NodeId,
    /// What deployers choose this node by.
    pub labels: BTreeMap<String, String>,
    /// The interpreter that agents run on: a path, or a name to be found.
    pub python: String,
    /// `None`: found on the PATH, else installed into the data directory.
    pub uv: Option<PathBuf>,
    /// What the resolver has downloaded already; `None` is a folder of the data directory.
    pub uv_cache: Option<PathBuf>,
    /// What apt has downloaded already; `None` is a folder of the data directory.
    pub apt_cache: Option<PathBuf>,
    pub confine: confine::Config,
    /// No other process shares the store and the bus: what an earlier run held is lost for certain.
    pub alone: bool,
    pub result_bytes: usize,
    pub logs: log::Bounds,
    /// Executions of one version that may wait for a slot.
    pub queue: usize,
    /// The stable window of the scaling: what load says over so long counts, and half as long again before anything is let go.
    pub idle: Duration,
    /// When a session with an instance of its own is over.
    pub sessions: session::Limits,
    /// Instances that start at the same time; more wait their turn.
    pub starts: usize,
    /// From the order to start until the agent is imported and initialised.
    pub start_within: Duration,
    /// How long a call may take to stop after it was told to, before its instance is killed.
    pub stop_within: Duration,
    /// How long running executions may go on when this executor is told to leave.
    pub drain_within: Duration,
    pub processes: u64,
    pub open_files: u64,
    pub tmp_mb: u64,
    /// Processor time that one instance may have at most, in cores, once it is ready. `None`: its share among all.
    pub cpus: Option<f64>,
    /// Whether further instances of a version are forked from one that has imported it.
    pub templates: bool,
    /// A template that nobody has needed for so long ends.
    pub template_idle: Duration,
    /// Of each template: what has been forked ahead.
    pub spares: usize,
    /// Code and packages that no version has needed for so long are removed.
    pub unused: Duration,
    /// Networks that agents may connect to although they are private, or this host's own.
    pub egress_private: Vec<domain::egress::Rule>,
}

impl Config {
    pub fn new(data_dir: PathBuf, node_id: NodeId) -> Self {
        let confine = confine::Config {
            node: node_id.as_str().to_owned(),
            ..confine::Config::default()
        };
        Self {
            data_dir,
            node_id,
            labels: BTreeMap::new(),
            python: "python3".to_owned(),
            uv: None,
            uv_cache: None,
            apt_cache: None,
            confine,
            alone: true,
            result_bytes: 16 * 1024 * 1024,
            logs: log::Bounds::default(),
            queue: 20_000,
            idle: Duration::from_secs(60),
            sessions: session::Limits::default(),
            starts: 4,
            start_within: Duration::from_secs(60),
            stop_within: Duration::from_millis(200),
            drain_within: Duration::from_secs(30),
            processes: 256,
            open_files: 4096,
            tmp_mb: 64,
            cpus: None,
            templates: true,
            template_idle: Duration::from_secs(900),
            spares: 1,
            unused: Duration::from_secs(24 * 3600),
            egress_private: Vec::new(),
        }
    }
}
