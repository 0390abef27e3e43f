//! What is left of a Phalanx on its host: processes and control groups that carry the name of its node or of its directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// How deep below a hierarchy's mount a node's group may lie.
const DEEPEST: usize = 6;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    pub words: String,
}

/// Living processes whose control group or command line names one of `marks`.
pub fn processes(marks: &[&str]) -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let own = std::process::id();
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| marked(pid, marks))
        .collect()
}

fn marked(pid: u32, marks: &[&str]) -> Option<Process> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    // "pid (name) state …": one that is dead and not yet reaped holds nothing.
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    if stat
        .rsplit(')')
        .next()?
        .trim_start()
        .starts_with(['Z', 'X'])
    {
        return None;
    }
    let groups = fs::read_to_string(dir.join("cgroup")).unwrap_or_default();
    let read = |name: &str| {
        String::from_utf8_lossy(&fs::read(dir.join(name)).unwrap_or_default()).replace('\0', " ")
    };
    let (line, environment) = (read("cmdline"), read("environ"));
    let found = marks
        .iter()
        .any(|mark| groups.contains(mark) || line.contains(mark) || environment.contains(mark));
    found.then(|| Process {
        pid,
        words: format!("{} {}", line.trim(), groups.replace('\n', " ")),
    })
}

/// The folders of a node in the hierarchies of control groups.
pub fn homes(node: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    find(Path::new("/sys/fs/cgroup"), node, DEEPEST, &mut found);
    found
}

/// The control groups within them: one an instance.
pub fn groups(node: &str) -> Vec<PathBuf> {
    let within = homes(node)
        .into_iter()
        .flat_map(|home| fs::read_dir(home).into_iter().flatten().flatten());
    within
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// Whether no process is in this group; one that is being removed has none.
pub fn is_empty(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|pids| pids.trim().is_empty())
}

fn find(dir: &Path, node: &str, deeper: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        if entry.file_name() == node {
            found.push(entry.path());
        } else if deeper > 0 {
            find(&entry.path(), node, deeper - 1, found);
        }
    }
}

/// Ends what is left, so that one failed test does not fail those after it.
pub fn clear(node: &str, marks: &[&str]) {
    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };
    for process in processes(marks) {
        if let Ok(pid) = i32::try_from(process.pid) {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    crate::wait::blocking(std::time::Duration::from_secs(5), || {
        let all = groups(node).into_iter().chain(homes(node));
        all.map(fs::remove_dir)
            .all(|removed| removed.is_ok())
            .then_some(())
    });
}
