//! Version 2 is seldom at hand where these run: its files are imitated, its way of killing is tried where it is mounted.

use super::find::{mounts, writable};
use super::*;

fn imitation(name: &str, version: Version, files: &[(&str, &str)]) -> Groups {
    let dir = std::env::temp_dir().join(format!("phalanx-cgroup-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory");
    for (file, text) in files {
        fs::write(dir.join(file), text).expect("a file");
    }
    Groups {
        version,
        dirs: CONTROLLERS.into_iter().map(|c| (c, dir.clone())).collect(),
    }
}

fn files(groups: &Groups) -> Vec<(String, String)> {
    let dir = groups.dir("memory").expect("a directory");
    let mut all: Vec<_> = fs::read_dir(dir)
        .expect("listed")
        .flatten()
        .map(|e| {
            (
                e.file_name().into_string().expect("UTF-8"),
                fs::read_to_string(e.path()).expect("read"),
            )
        })
        .collect();
    all.sort();
    fs::remove_dir_all(dir).expect("removed");
    all
}

fn texts(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

#[test]
fn v2_reads_its_files() {
    let groups = imitation(
        "reads-2",
        Version::V2,
        &[
            ("memory.current", "1000\n"),
            ("memory.peak", "2000\n"),
            ("memory.stat", "anon 1\ninactive_file 300\nfile 4\n"),
            (
                "memory.events",
                "low 0\noom 3\noom_kill 2\noom_group_kill 0\n",
            ),
            ("cpu.stat", "usage_usec 77\nuser_usec 1\n"),
            ("cgroup.procs", "12\n13\n0\n"),
        ],
    );
    assert_eq!(
        (groups.memory(), groups.oom_kills(), groups.cpu_us()),
        (Some((700, 2000)), 2, Some(77))
    );
    assert_eq!(
        groups.processes(),
        Some(vec![12, 13]),
        "0 is a process that we cannot see"
    );
    files(&groups);
}

#[test]
fn v1_reads_its_files() {
    let groups = imitation(
        "reads-1",
        Version::V1,
        &[
            ("memory.usage_in_bytes", "1000\n"),
            ("memory.max_usage_in_bytes", "2000\n"),
            ("memory.stat", "inactive_file 1\ntotal_inactive_file 400\n"),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
            ),
            ("cpuacct.usage", "77999\n"),
        ],
    );
    assert_eq!(
        (groups.memory(), groups.oom_kills(), groups.cpu_us()),
        (Some((600, 2000)), 1, Some(77))
    );
    files(&groups);
}

#[test]
fn bounds_are_written() {
    let bounds = Bounds {
        memory_bytes: 64,
        processes: 5,
    };
    let v2 = imitation("bounds-2", Version::V2, &[("memory.swap.max", "max")]);
    v2.bound(bounds)
        .and_then(|()| v2.bound_cpu(0.5))
        .expect("written");
    assert_eq!(
        files(&v2),
        texts(&[
            ("cpu.max", "50000 100000"),
            ("memory.max", "64"),
            ("memory.swap.max", "0"),
            ("pids.max", "5")
        ])
    );

    let v1 = imitation(
        "bounds-1",
        Version::V1,
        &[("memory.memsw.limit_in_bytes", "9")],
    );
    v1.bound(bounds)
        .and_then(|()| v1.bound_cpu(2.0))
        .expect("written");
    let expected = [
        ("cpu.cfs_quota_us", "200000"),
        ("memory.limit_in_bytes", "64"),
        ("memory.memsw.limit_in_bytes", "64"),
        ("pids.max", "5"),
    ];
    assert_eq!(files(&v1), texts(&expected));
}

#[test]
fn a_group_is_killed_and_removed() {
    let mounted = mounts()
        .into_iter()
        .find(|m| m.kind == "cgroup2")
        .map(|m| m.at.join("phalanx-test"))
        .filter(|dir| writable(dir));
    let Some(parent) = mounted else {
        // Version 1, or none at all: what the level says then is tried in tests/confine.
        assert_ne!(Hierarchy::find("test").version, Version::V2);
        return;
    };
    let groups = Groups {
        version: Version::V2,
        dirs: vec![("pids", parent.join(std::process::id().to_string()))],
    };
    fs::create_dir(groups.paths().first().expect("one")).expect("made");
    let mut child = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .expect("started");
    groups.join(child.id()).expect("joined");
    assert_eq!(
        groups.processes(),
        Some(vec![i32::try_from(child.id()).expect("a pid")])
    );
    assert!(!groups.remove(), "it is in use");
    assert!(groups.destroy(Instant::now() + Duration::from_secs(5)));
    assert!(!child.wait().expect("reaped").success());
    fs::remove_dir(parent).expect("empty");
}
