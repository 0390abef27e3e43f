//! The sandbox's first process, from its birth to the point where it is `init`: steps 6 to 11.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{Gid, Uid};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
use seccompiler::BpfProgram;

use super::error::{Error, Step};
use super::helper::{outfit, report_failure};
use super::plan::{EGRESS_PORT, Ground, Mode, Report};
use super::{init, landlock, loopback, privileges, root, seccomp, sys, wire};

pub fn main(
    control: &UnixStream,
    ground: &Ground,
    filter: BpfProgram,
    trees: Option<Vec<OwnedFd>>,
    wait_for_maps: impl FnOnce() -> bool,
) -> ! {
    let made = make_ground(control, ground, trees, wait_for_maps);
    let ended = made.and_then(|made| match made {
        Some(proc) => go_on(control, ground, filter, proc),
        None => Ok(()), // the helper failed, and has said why
    });
    let code = match ended {
        Ok(()) => 0,
        Err(e) => {
            if ground.mode == Mode::Probe {
                // The namespaces were not what failed.
                let _ = wire::send(
                    control,
                    &Report::Probed {
                        proc: false,
                        landlock: 0,
                        namespaces: all_namespaces(),
                    },
                    &[],
                );
            }
            report_failure(control, e);
            1
        }
    };
    sys::exit_now(code)
}

/// Steps 6 to 8. Answers whether there is a /proc; `None`: without a helper there is nothing to be done.
fn make_ground(
    control: &UnixStream,
    ground: &Ground,
    trees: Option<Vec<OwnedFd>>,
    wait_for_maps: impl FnOnce() -> bool,
) -> Result<Option<bool>, Error> {
    loopback::up()?;
    let egress =
        TcpListener::bind((Ipv4Addr::LOCALHOST, EGRESS_PORT)).step("bind the egress listener")?;
    wire::send(control, &Report::Listening, &[egress.as_fd()]).step("pass the egress listener")?;
    drop(egress);

    if !wait_for_maps() {
        return Ok(None);
    }
    let trees = match trees {
        Some(trees) => trees,
        None => root::open_trees(&ground.entries)?,
    };
    let (uid, gid) = (
        Uid::from_raw(ground.inside_id),
        Gid::from_raw(ground.inside_id),
    );
    // We were nobody that is mapped, least of all uid 0, so this keeps our capabilities over the new namespaces.
    set_thread_res_gid(gid, gid, gid).step("setresgid")?;
    set_thread_res_uid(uid, uid, uid).step("setresuid")?;
    sys::new_session_keyring();
    // Counted per user namespace: none inside ours, where their creator would have capabilities again. A read-only /proc/sys (Docker)
    // forbids it; then it is seccomp that has to.
    let _ = std::fs::write("/proc/sys/user/max_user_namespaces", "0");
    let proc = root::build(ground, trees)?;
    rustix::system::sethostname(ground.hostname.as_bytes()).step("sethostname")?;
    // The worker will have our uid; it must not be able to trace us.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("prctl dumpable")?;
    wire::send(control, &Report::Grounded, &[]).step("report")?;
    Ok(Some(proc))
}

/// From step 9 on, once there is a plan.
fn go_on(
    control: &UnixStream,
    ground: &Ground,
    filter: BpfProgram,
    proc: bool,
) -> Result<(), Error> {
    let Some((plan, outfit, trees)) = outfit(control, filter)? else {
        return Ok(()); // a standby that was never used
    };
    root::finish(&plan, trees)?;
    if plan.slots > 0 {
        // It mounts while it lives, which Landlock would forbid: the worker restricts itself.
        return init::run_template(control, ground, &plan, outfit);
    }
    privileges::drop_capabilities()?;
    let landlock = landlock::restrict(ground, &plan)?;
    if ground.mode == Mode::Probe {
        seccomp::install(&outfit.filter)?;
        return wire::send(
            control,
            &Report::Probed {
                proc,
                landlock,
                namespaces: all_namespaces(),
            },
            &[],
        )
        .step("report");
    }
    init::run(control, ground, &plan, outfit)
}

fn all_namespaces() -> Vec<String> {
    sys::NAMESPACES
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect()
}
