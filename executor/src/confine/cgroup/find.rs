//! Which control groups there are for us.

use std::fs;
use std::path::{Path, PathBuf};

use super::{CONTROLLERS, Hierarchy, Version};

/// Where the executor itself lives in a delegated v2 subtree.
const OWN_LEAF: &str = "phalanx.executor";

impl Hierarchy {
    /// Tries for real: a controller counts when a group can be made and removed in its hierarchy.
    pub fn find(node: &str) -> Self {
        let mounts = mounts();
        let v1 = CONTROLLERS.iter().filter_map(|controller| {
            let mount = mounts
                .iter()
                .find(|m| m.kind == "cgroup" && m.options.split(',').any(|o| o == *controller))?;
            let dir = mount.at.join("phalanx").join(node);
            writable(&dir).then_some((*controller, dir))
        });
        let v1: Vec<_> = v1.collect();
        if v1.iter().any(|(c, _)| matches!(*c, "memory" | "pids")) {
            return Hierarchy {
                version: Version::V1,
                nodes: v1,
            };
        }
        let v2 = mounts
            .iter()
            .find(|m| m.kind == "cgroup2")
            .and_then(|m| delegated(m, node));
        match v2 {
            Some(nodes) if !nodes.is_empty() => Hierarchy {
                version: Version::V2,
                nodes,
            },
            _ => Hierarchy::none(),
        }
    }
}

pub(super) struct Mount {
    /// What of the hierarchy is mounted, and where.
    root: String,
    pub at: PathBuf,
    pub kind: String,
    options: String,
}

/// proc_pid_mountinfo(5): `id parent dev root at options [tags] - kind source options`.
pub(super) fn mounts() -> Vec<Mount> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
        let (root, at) = (left.next()?.to_owned(), PathBuf::from(left.next()?));
        let (kind, _source, options) = (
            right.next()?.to_owned(),
            right.next()?,
            right.next()?.to_owned(),
        );
        Some(Mount {
            root,
            at,
            kind,
            options,
        })
    };
    text.lines()
        .filter_map(mount)
        .filter(|m| m.kind.starts_with("cgroup"))
        .collect()
}

pub(super) fn writable(dir: &Path) -> bool {
    let probe = dir.join(format!("probe-{}", std::process::id()));
    fs::create_dir_all(&probe).is_ok() && fs::remove_dir(&probe).is_ok()
}

/// Our own v2 group made into a parent of leaves, if we may and if it has a controller to offer.
fn delegated(mount: &Mount, node: &str) -> Option<Vec<(&'static str, PathBuf)>> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let own = own
        .strip_prefix(mount.root.trim_end_matches('/'))
        .unwrap_or(own);
    let own = own.strip_suffix(OWN_LEAF).unwrap_or(own);
    let base = mount.at.join(own.trim_matches('/'));
    let offered = fs::read_to_string(base.join("cgroup.controllers")).ok()?;
    let wanted: Vec<_> = CONTROLLERS
        .into_iter()
        .filter(|c| offered.split_whitespace().any(|o| o == *c))
        .collect();
    if !wanted.iter().any(|c| matches!(*c, "memory" | "pids")) {
        return None;
    }
    let enable = wanted
        .iter()
        .map(|c| format!("+{c}"))
        .collect::<Vec<_>>()
        .join(" ");
    if fs::write(base.join("cgroup.subtree_control"), &enable).is_err() {
        let leaf = base.join(OWN_LEAF);
        fs::create_dir_all(&leaf).ok()?;
        fs::write(leaf.join("cgroup.procs"), std::process::id().to_string()).ok()?;
        fs::write(base.join("cgroup.subtree_control"), &enable).ok()?;
    }
    let dir = base.join("phalanx").join(node);
    fs::create_dir_all(&dir).ok()?;
    fs::write(base.join("phalanx/cgroup.subtree_control"), &enable).ok()?;
    fs::write(dir.join("cgroup.subtree_control"), &enable).ok()?;
    writable(&dir).then(|| wanted.into_iter().map(|c| (c, dir.clone())).collect())
}
