//! The sandbox's first process, from its birth to the point where it is `init`: steps 4 to 11.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{Gid, Uid};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};

use super::error::{Error, Step};
use super::helper::{Outfit, report_failure};
use super::plan::{EGRESS_PORT, Mode, Plan, Report};
use super::{init, landlock, loopback, privileges, root, seccomp, sys, wire};

pub fn main(
    control: &UnixStream,
    plan: &Plan,
    outfit: Outfit,
    trees: Option<Vec<OwnedFd>>,
    wait_for_maps: impl FnOnce() -> bool,
) -> ! {
    let code = match run(control, plan, outfit, trees, wait_for_maps) {
        Ok(()) => 0,
        Err(e) => {
            if plan.mode == Mode::Probe {
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

fn run(
    control: &UnixStream,
    plan: &Plan,
    outfit: Outfit,
    trees: Option<Vec<OwnedFd>>,
    wait_for_maps: impl FnOnce() -> bool,
) -> Result<(), Error> {
    loopback::up()?;
    let egress =
        TcpListener::bind((Ipv4Addr::LOCALHOST, EGRESS_PORT)).step("bind the egress listener")?;
    wire::send(control, &Report::Listening, &[egress.as_fd()]).step("pass the egress listener")?;
    drop(egress);

    if !wait_for_maps() {
        return Ok(()); // the helper failed, and has said why
    }
    let trees = match trees {
        Some(trees) => trees,
        None => root::open_trees(&plan.entries)?,
    };
    let (uid, gid) = (Uid::from_raw(plan.inside_id), Gid::from_raw(plan.inside_id));
    // We were nobody that is mapped, least of all uid 0, so this keeps our capabilities over the new namespaces.
    set_thread_res_gid(gid, gid, gid).step("setresgid")?;
    set_thread_res_uid(uid, uid, uid).step("setresuid")?;
    sys::new_session_keyring();
    // Counted per user namespace: none inside ours, where their creator would have capabilities again. A read-only /proc/sys (Docker)
    // forbids it; then it is seccomp that has to.
    let _ = std::fs::write("/proc/sys/user/max_user_namespaces", "0");
    let proc = root::build(plan, trees)?;
    rustix::system::sethostname(plan.hostname.as_bytes()).step("sethostname")?;
    if plan.slots > 0 {
        // It mounts while it lives, which Landlock would forbid: the worker restricts itself.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).step("prctl dumpable")?;
        return init::run_template(control, plan, outfit);
    }
    privileges::drop_capabilities()?;
    let landlock = landlock::restrict(plan)?;
    if plan.mode == Mode::Probe {
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
    // The worker has our uid; it must not be able to trace us.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).step("prctl dumpable")?;
    init::run(control, plan, outfit)
}

fn all_namespaces() -> Vec<String> {
    sys::NAMESPACES
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect()
}
