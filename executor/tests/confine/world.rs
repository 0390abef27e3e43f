//! A level of its own for each test, Python in a sandbox, and eyes on the host.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use executor::confine::{Config, Confined, Exit, Level, Spec, probe, spawn};
use serde_json::Value;
use tokio::io::AsyncReadExt;

pub const WITHIN: Duration = Duration::from_secs(20);

/// Cargo builds examples along with the tests, and puts them beside them.
pub fn helper() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let helper = own
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples/confine");
    assert!(
        helper.exists(),
        "no helper at {}: cargo build -p executor --example confine",
        helper.display()
    );
    helper
}

/// Groups that are ours, beneath which nodes have theirs.
pub const GROUPS: &str = "PHALANX_TEST_GROUPS";

pub fn config(node: &str) -> Config {
    // A node of its own for each run: several runs may share a host.
    let own = format!("{node}-{}", std::process::id());
    Config {
        helper: helper(),
        node: match std::env::var(GROUPS) {
            Ok(groups) => format!("{groups}/{own}"),
            Err(_) => own,
        },
        standby: 0,
        ..Config::default()
    }
}

pub async fn level(node: &str) -> Level {
    let level = probe(config(node)).await;
    assert!(
        level.is_confined(),
        "these tests need a host that can confine: {level}"
    );
    level
}

/// Python that says what it has seen, once: `say(anything)`.
pub fn python(code: &str) -> Spec {
    let code = format!(
        "import json, os, sys, time\ndef say(x):\n    os.write(3, json.dumps(x).encode() + b'\\n')\n{code}"
    );
    Spec::new(
        "test",
        ["/usr/bin/python3", "-I", "-c", &code]
            .map(str::to_owned)
            .to_vec(),
    )
}

/// The first line that the worker says.
pub async fn said(worker: &mut Confined) -> Value {
    let socket = worker.socket.as_mut().unwrap();
    let mut line = Vec::new();
    let reading = async {
        while !line.ends_with(b"\n") {
            let byte = socket
                .read_u8()
                .await
                .expect("the worker says something before it ends");
            line.push(byte);
        }
    };
    tokio::time::timeout(WITHIN, reading)
        .await
        .expect("the worker says something in time");
    serde_json::from_slice(&line).unwrap()
}

/// Runs to the end: what was said, and how it ended.
pub async fn run(spec: &Spec, level: &Level) -> (Value, Exit) {
    let mut worker = spawn(spec, level).await.expect("it starts");
    let said = said(&mut worker).await;
    let exit = ended(&worker).await;
    worker.kill().await.expect("nothing is left");
    (said, exit)
}

pub async fn ended(worker: &Confined) -> Exit {
    tokio::time::timeout(WITHIN, worker.wait())
        .await
        .expect("the worker ends in time")
}

/// The process and all its descendants, as the host sees them.
pub fn tree(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        found.extend(
            children
                .split_whitespace()
                .map(|pid| pid.parse::<i32>().unwrap()),
        );
        next += 1;
    }
    found
}

pub fn status(pid: i32, field: &str) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .unwrap_or_default();
    line.split_whitespace().map(str::to_owned).collect()
}

/// Until none of them lives.
pub async fn gone(pids: &[i32]) {
    let deadline = Instant::now() + WITHIN;
    loop {
        let alive: Vec<_> = pids
            .iter()
            .filter(|pid| {
                !matches!(
                    status(**pid, "State").first().map(String::as_str),
                    None | Some("Z")
                )
            })
            .collect();
        if alive.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still alive: {alive:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Control groups of a node that still exist, in any hierarchy.
pub fn groups(node: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let controllers = [
        "memory",
        "pids",
        "cpu",
        "cpuacct",
        "cpu,cpuacct",
        "unified",
        ".",
    ];
    for controller in controllers {
        let dir = Path::new("/sys/fs/cgroup")
            .join(controller)
            .join("phalanx")
            .join(node);
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        found.extend(
            entries
                .filter(|e| e.file_type().unwrap().is_dir())
                .map(|e| e.path()),
        );
    }
    found
}

/// An empty directory, removed again.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("phalanx-confine-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}
