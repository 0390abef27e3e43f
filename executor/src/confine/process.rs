//! What /proc says about a process and its descendants: the count, the memory and the time where no cgroup counts them.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The process and its living descendants. In a sandbox orphans become children of its process 1, so nothing escapes this walk.
pub fn tree(root: i32) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let mut children = children(*pid);
        found.append(&mut children);
        next += 1;
    }
    found.retain(|pid| alive(*pid));
    found
}

fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let mut pids = Vec::new();
    for task in tasks.flatten() {
        if let Ok(list) = fs::read_to_string(task.path().join("children")) {
            pids.extend(
                list.split_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            );
        }
    }
    pids
}

/// Not a zombie.
fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|fields| !matches!(fields.first().map(String::as_str), Some("Z" | "X")))
}

/// proc_pid_stat(5) from field 3 on: the name before it may hold anything.
fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// Resident bytes that are the process's own: without file pages, which it shares with everyone who runs the same Python. What it shares
/// with its kin counts in parts (proc_pid_smaps_rollup(5)); where we may not look so closely, it does not count.
pub fn resident_bytes(pid: i32) -> u64 {
    if let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
        let parts = rollup.lines().filter_map(|line| {
            let rest = line
                .strip_prefix("Pss_Anon:")
                .or(line.strip_prefix("Pss_Shmem:"))?;
            rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        });
        return parts.sum::<u64>() << 10;
    }
    let Ok(statm) = fs::read_to_string(format!("/proc/{pid}/statm")) else {
        return 0;
    };
    let mut pages = statm
        .split(' ')
        .skip(1)
        .map(|n| n.parse::<u64>().unwrap_or(0));
    let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(shared) * rustix::param::page_size() as u64
}

/// Processor time of the tree: what the living used, and what the root's ended descendants did.
pub fn cpu_us(root: i32) -> u64 {
    let ticks: u64 = tree(root)
        .iter()
        .filter_map(|pid| stat(*pid))
        .map(|fields| {
            fields
                .iter()
                .skip(11)
                .take(4)
                .filter_map(|n| n.parse::<u64>().ok())
                .sum::<u64>()
        })
        .sum();
    ticks * 1_000_000 / rustix::param::clock_ticks_per_second()
}

/// Kills our descendants until there are none. We must be their subreaper. Bounded: a process that cannot die is left.
pub fn kill_children() {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        for pid in tree(own).into_iter().filter(|pid| *pid != own) {
            kill(pid);
        }
        loop {
            match nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG)) {
                Ok(nix::sys::wait::WaitStatus::StillAlive) => break,
                Ok(_) => {}
                Err(_) => return, // ECHILD: none left
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        // It may have ended since it was listed.
        let _ = kill_process(pid, Signal::KILL);
    }
}
