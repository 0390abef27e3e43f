//! All of it again in other places: this very test program, run there.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::world::{GROUPS, Scratch, helper};

/// All but this one.
const MODULES: [&str; 5] = ["bounds::", "ending::", "seen::", "warm::", "working::"];

/// Copies of the test and its helper where everyone may execute them, side by side as cargo has them.
fn copies(name: &str) -> (Scratch, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new(name);
    for dir in ["deps", "examples"] {
        std::fs::create_dir(scratch.0.join(dir)).unwrap();
    }
    let test = scratch.0.join("deps/confine");
    std::fs::copy(std::env::current_exe().unwrap(), &test).unwrap();
    std::fs::copy(helper(), scratch.0.join("examples/confine")).unwrap();
    for path in ["", "deps", "deps/confine", "examples", "examples/confine"] {
        std::fs::set_permissions(scratch.0.join(path), std::fs::Permissions::from_mode(0o755))
            .unwrap();
    }
    (scratch, test)
}

fn passes(mut command: Command) {
    let output = command.current_dir("/").output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    assert!(
        out.contains("; 0 failed;") && !out.contains(" 0 passed"),
        "{out}"
    );
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The whole of these tests once more, by user 1000.
fn as_user(test: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=1000", "--regid=1000", "--clear-groups", "--"])
        .arg(test)
        .args(MODULES)
        .arg("--test-threads=2");
    command
}

#[test]
fn as_an_ordinary_user() {
    if !is_root() {
        return; // then every test here is run by one
    }
    let (_scratch, test) = copies("user");
    passes(as_user(&test));
}

/// With control groups that were delegated to the user, as systemd and container engines do it (here those of version 1, by ownership).
#[test]
fn as_an_ordinary_user_with_control_groups() {
    if !is_root() {
        return; // who cannot give them away cannot try
    }
    let delegated = Delegated::new();
    if delegated.dirs.is_empty() {
        return; // a host of version 2 only: there a subtree of the user's own session is used, by every test here
    }
    let (_scratch, test) = copies("delegated");
    let mut command = as_user(&test);
    command.env(GROUPS, &delegated.name);
    passes(command);
}

/// Groups of the user's own, one for each controller; removed again.
struct Delegated {
    name: String,
    dirs: Vec<PathBuf>,
}

impl Delegated {
    fn new() -> Self {
        let name = format!("delegated-{}", std::process::id());
        let mut dirs = Vec::new();
        for controller in ["memory", "pids", "cpu", "cpuacct"] {
            let mount = PathBuf::from("/sys/fs/cgroup").join(controller);
            let dir = mount.join("phalanx").join(&name);
            if mount.join("cgroup.procs").exists() && std::fs::create_dir_all(&dir).is_ok() {
                std::os::unix::fs::chown(&dir, Some(1000), Some(1000)).unwrap();
                dirs.push(dir);
            }
        }
        Self { name, dirs }
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for dir in &self.dirs {
            let nodes = std::fs::read_dir(dir).into_iter().flatten().flatten();
            for node in nodes.filter(|entry| entry.path().is_dir()) {
                let _ = std::fs::remove_dir(node.path());
            }
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// As in a rootless container: uid 0 in name only.
#[test]
fn as_root_of_a_user_namespace() {
    let (_scratch, test) = copies("rootless");
    let mut command = Command::new(if is_root() { "setpriv" } else { "env" });
    command.args(if is_root() {
        &["--reuid=1000", "--regid=1000", "--clear-groups", "--"][..]
    } else {
        &[]
    });
    command
        .args(["unshare", "--user", "--map-root-user", "--"])
        .arg(test)
        .args(MODULES)
        .arg("--test-threads=2");
    passes(command);
}

/// As in Docker and Kubernetes: parts of /proc are covered, so the kernel grants no new one.
#[test]
fn under_a_masked_proc() {
    let (_scratch, test) = copies("masked");
    let script = |run: &str| format!("mount -t tmpfs none /proc/bus && exec {run}");
    let unshare = |script: String| {
        let mut command = Command::new("unshare");
        command.args(if is_root() {
            &["--mount"][..]
        } else {
            &["--mount", "--user", "--map-root-user"]
        });
        command
            .args(["sh", "-c", &script, "sh"])
            .arg(&test)
            .args(MODULES)
            .arg("--test-threads=2");
        command
    };
    let probed = unshare(script(&format!("{} probe", helper().display())))
        .output()
        .unwrap();
    let level = String::from_utf8_lossy(&probed.stdout);
    assert!(
        level.starts_with("confined (") && level.contains("no /proc"),
        "{level} {}",
        String::from_utf8_lossy(&probed.stderr)
    );
    passes(unshare(script("\"$@\"")));
    if is_root() {
        passes(unshare(script(
            "setpriv --reuid=1000 --regid=1000 --clear-groups -- \"$@\"",
        )));
    }
}

/// No more user namespaces for us (a limit of the namespace we are in, not of this host).
#[test]
fn where_nothing_can_be_confined() {
    let script = format!(
        "echo 0 > /proc/sys/user/max_user_namespaces && {0} probe; {0} hold nowhere /bin/true",
        helper().display()
    );
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", &script])
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        out.starts_with("cannot confine (new namespaces: ENOSPC"),
        "{out} {err}"
    );
    assert!(
        !output.status.success() && err.contains("Unconfined"),
        "{out} {err}"
    );
}
