//! `phalanx __confine`: reads the ground from fd 0, makes the namespaces, hands the sandbox's first process to the executor and leaves.
//! One thread, no runtime, nothing from the environment.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::libc::c_int;
use rustix::process::Pid;
use seccompiler::BpfProgram;

use super::error::{Error, Step};
use super::plan::{Entry, Ground, Mode, Plan, Report};
use super::{init, inside, root, seccomp, sys, wire};

/// What `phalanx __confine` calls before it does anything else. Never returns.
///
/// Must run while the process has one thread: it forks without exec.
pub fn helper_main() -> ! {
    let code = match control() {
        Ok(control) => match run(&control) {
            Ok(()) => 0,
            Err(e) => {
                report_failure(&control, e);
                1
            }
        },
        Err(_) => 2, // nobody to tell: fd 0 is not a socket of the executor
    };
    sys::exit_now(code)
}

/// What the worker gets besides the plan: its descriptors, as the executor passed them, and the filter that it cannot take off.
pub struct Outfit {
    pub null: OwnedFd,
    pub socket: OwnedFd,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    pub filter: BpfProgram,
}

pub fn report_failure(control: &UnixStream, error: Error) {
    let report = match error {
        Error::Step { step, errno } => Report::Failed { step, errno },
        other => Report::Failed {
            step: other.to_string(),
            errno: 0,
        },
    };
    // When the executor is gone there is nobody left to hear it.
    let _ = wire::send(control, &report, &[]);
}

fn control() -> io::Result<UnixStream> {
    let control = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    control.peer_addr()?;
    Ok(control)
}

fn run(control: &UnixStream) -> Result<(), Error> {
    let filter = seccomp::program(true, false)?; // while we wait
    let Some((ground, _)) = wire::receive::<Ground>(control).step("read the ground")? else {
        return Ok(()); // a standby that was never used
    };
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    match ground.mode {
        Mode::Plain => match outfit(control, filter)? {
            Some((plan, outfit, _)) => init::run_plain(control, &ground, &plan, outfit),
            None => Ok(()),
        },
        Mode::Confine | Mode::Install => confine(control, &ground, filter),
        Mode::Probe => confine(control, &ground, filter).or_else(|failed| {
            let namespaces = available();
            wire::send(
                control,
                &Report::Probed {
                    proc: false,
                    landlock: 0,
                    namespaces,
                },
                &[],
            )
            .step("report")?;
            Err(failed)
        }),
    }
}

/// The plan, what its worker gets, and the trees that are its own; `None` when the executor has closed.
pub fn outfit(
    control: &UnixStream,
    mut filter: BpfProgram,
) -> Result<Option<(Plan, Outfit, Vec<OwnedFd>)>, Error> {
    let Some((plan, fds)) = wire::receive::<Plan>(control).step("read the plan")? else {
        return Ok(None);
    };
    if plan.limits.data_bytes.is_some() || plan.slots > 0 {
        filter = seccomp::program(plan.limits.data_bytes.is_none(), plan.slots > 0)?;
    }
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .step("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).step("close stdin")?;
    let mut fds = fds.into_iter();
    let trees = fds.by_ref().take(plan.entries.len()).collect();
    let socket = match fds.next() {
        Some(socket) => socket,
        None => null.try_clone().step("dup /dev/null")?.into(),
    };
    let outfit = Outfit {
        null: null.into(),
        socket,
        stdout: fds.next(),
        stderr: fds.next(),
        filter,
    };
    Ok(Some((plan, outfit, trees)))
}

fn confine(control: &UnixStream, ground: &Ground, filter: BpfProgram) -> Result<(), Error> {
    let changes_identity = ground.uid != rustix::process::geteuid().as_raw();
    if changes_identity {
        // Our supplementary groups would follow the worker.
        rustix::thread::set_thread_groups(&[]).step("setgroups")?;
    }
    // Under global memory pressure the kernel should take workers before it takes the executor.
    let _ = fs::write("/proc/self/oom_score_adj", "500");
    let trees = open_trees(&ground.entries)?;

    let (mut go_read, mut go_write) = io::pipe().step("pipe")?;
    let all = sys::NAMESPACES
        .iter()
        .fold(0, |flags, (_, flag)| flags | flag);
    let Some(pid) = sys::clone_as_sibling(all).step("new namespaces")? else {
        drop(go_write);
        let wait_for_maps = move || matches!(go_read.read(&mut [0]), Ok(1));
        inside::main(control, ground, filter, trees, wait_for_maps);
    };
    wire::send(
        control,
        &Report::Born {
            pid: pid.as_raw_nonzero().get(),
        },
        &[],
    )
    .step("report")?;
    map_ids(pid, ground, changes_identity)?;
    go_write.write_all(&[1]).step("release the first process")
}

/// One identity inside, the worker's: no root in there but by name, and none of ours outside.
fn map_ids(pid: Pid, ground: &Ground, changes_identity: bool) -> Result<(), Error> {
    let pid = pid.as_raw_nonzero();
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/{pid}/{file}"), text).step_with(|| format!("write {file}"))
    };
    write("uid_map", format!("{} {} 1", ground.inside_id, ground.uid))?;
    if !changes_identity {
        write("setgroups", "deny".to_owned())?; // the kernel's condition for an ordinary user's gid_map
    }
    write("gid_map", format!("{} {} 1", ground.inside_id, ground.gid))
}

/// Opens what will be bound while we still have the executor's rights: the worker's uid may be unable to walk there.
/// Without CAP_SYS_ADMIN (`None`) the sandbox opens them itself, by path, before it changes its uid.
fn open_trees(entries: &[Entry]) -> Result<Option<Vec<OwnedFd>>, Error> {
    match root::open_trees(entries) {
        Err(Error::Step { errno, .. }) if errno == nix::libc::EPERM => Ok(None),
        other => other.map(Some),
    }
}

/// Which namespaces this host grants when it does not grant all. Whoever inherits us reaps what we tried with.
fn available() -> Vec<String> {
    let user = sys::NAMESPACES[0];
    let grants = |flags: c_int| match sys::fork_into(flags) {
        Ok(Some(_)) => true,
        Ok(None) => sys::exit_now(0),
        Err(_) => false,
    };
    let mut granted = Vec::new();
    for (name, flag) in sys::NAMESPACES {
        if grants(user.1 | flag) {
            granted.push(name.to_owned());
        }
    }
    granted
}
