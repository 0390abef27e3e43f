//! Which system calls a worker may make: an allow-list as a search by number (`search`), which leads to what `seccompiler` compiles for
//! the few calls whose arguments matter.
//! In: nothing. Out: a program that `install` gives to the kernel, last of all before exec. It cannot be taken off again, and is
//! inherited by everything that the worker starts.
//! Never here: what a call may do to files (mounts, Landlock) or to other hosts (the network namespace, the egress proxy).
//!
//! What is not listed is refused with EPERM, so that programs can do without it. `clone3` and calls newer than this list get ENOSYS, the
//! answer of a kernel without them, on which libraries fall back to what we can look into: a filter cannot follow `clone3`'s pointer to
//! its flags. A call by another architecture's table (`int 0x80`) ends the process. Left out on purpose, though containers allow them:
//! netlink and every family but Unix, IPv4 and IPv6; raw sockets and protocols besides TCP and UDP; System V and POSIX queues and shared
//! memory, which no limit of ours bounds; `io_*`, `ptrace`, `seccomp`; `sync`, `syncfs`, which make the whole host wait.

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter,
};

use super::error::Error;

mod calls;
mod search;

use search::Answer;

/// The last number that somebody has looked at for this list (`file_setattr`, Linux 6.17). Since 424 all architectures share numbers.
const LAST_KNOWN: u32 = 469;

/// Every flag of `clone` that makes a namespace, as it fits into the low half of its first argument.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Options of `prctl` that name, count, time or restrict the caller; none that changes its memory map or attaches filters.
const PRCTL: [libc::c_int; 24] = [
    libc::PR_SET_PDEATHSIG,
    libc::PR_GET_PDEATHSIG,
    libc::PR_GET_DUMPABLE,
    libc::PR_SET_DUMPABLE,
    libc::PR_GET_KEEPCAPS,
    libc::PR_GET_TIMING,
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_GET_SECCOMP,
    libc::PR_CAPBSET_READ,
    libc::PR_GET_TSC,
    libc::PR_GET_SECUREBITS,
    libc::PR_SET_TIMERSLACK,
    libc::PR_GET_TIMERSLACK,
    libc::PR_MCE_KILL_GET,
    libc::PR_SET_CHILD_SUBREAPER,
    libc::PR_GET_CHILD_SUBREAPER,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_GET_TID_ADDRESS,
    libc::PR_SET_THP_DISABLE,
    libc::PR_GET_THP_DISABLE,
    libc::PR_GET_SPECULATION_CTRL,
    libc::PR_SET_VMA, // names of anonymous mappings: glibc's and V8's
];

/// linux/tcp.h: upper-layer protocols come as kernel modules.
const TCP_ULP: u64 = 31;

/// The program, ready for [`install`]. `counted`: a control group counts memory that belongs to no process's map; else files without
/// a name, which could hold any amount of it, are refused. `template`: what it forks changes its root, once.
pub fn program(counted: bool, template: bool) -> Result<BpfProgram, Error> {
    let mut answers = std::collections::BTreeMap::new();
    for call in calls::ALLOWED {
        answers.insert(*call, Answer::Allow);
    }
    if template {
        answers.insert(libc::SYS_chroot, Answer::Allow);
    }
    if !counted {
        answers.remove(&libc::SYS_memfd_create);
    }
    let rules = looked_into().map_err(|e| refused(&e))?;
    answers.extend(rules.iter().map(|(call, _)| (*call, Answer::Look)));
    answers.insert(libc::SYS_clone3, Answer::Unknown);

    let arch = std::env::consts::ARCH.try_into().map_err(|e| refused(&e))?;
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let filter = SeccompFilter::new(
        rules.into_iter().collect(),
        refuse,
        SeccompAction::Allow,
        arch,
    );
    let looks: BpfProgram = filter
        .and_then(TryInto::try_into)
        .map_err(|e| refused(&e))?;
    let mut program = search::program(&answers, LAST_KNOWN).map_err(|e| refused(&e))?;
    program.extend(looks);
    Ok(program)
}

/// Where packages are installed: calls that give files or ourselves another identity are said to have been done, as there is only one.
/// (Charliecloud installs so, without any privilege.) In force besides the list: of two answers the kernel takes the sterner.
pub fn pretences() -> Result<BpfProgram, Error> {
    let arch = std::env::consts::ARCH.try_into().map_err(|e| refused(&e))?;
    let rules = calls::PRETENDED.iter().map(|call| (*call, Vec::new()));
    let done = SeccompAction::Errno(0);
    let filter = SeccompFilter::new(rules.collect(), SeccompAction::Allow, done, arch);
    let filter = filter.map_err(|e| refused(&e))?;
    filter.try_into().map_err(|e| refused(&e))
}

/// For the rest of this thread's life, and for all that descends from it.
pub fn install(program: &BpfProgram) -> Result<(), Error> {
    apply_filter(program).map_err(|e| match e {
        seccompiler::Error::Seccomp(e) | seccompiler::Error::Prctl(e) => {
            Error::step("install the system call filter", &e)
        }
        other => refused(&other),
    })
}

fn refused(error: &dyn std::fmt::Display) -> Error {
    Error::Spec(format!("the system call filter cannot be built: {error}"))
}

/// Calls that are allowed with some arguments only. The kernel looks at the low half of an `int`, so do we.
fn looked_into() -> Result<Vec<(i64, Vec<SeccompRule>)>, seccompiler::BackendError> {
    let is = |arg, value| SeccompCondition::new(arg, Width::Dword, Op::Eq, value);
    let is_not = |arg, value| SeccompCondition::new(arg, Width::Dword, Op::Ne, value);
    let masked =
        |arg, mask, value| SeccompCondition::new(arg, Width::Dword, Op::MaskedEq(mask), value);
    let one = |condition| SeccompRule::new(vec![condition]);

    // The kind of socket is the low four bits of its type; flags lie above.
    let mut sockets = Vec::new();
    for (family, kind, protocols) in calls::SOCKETS {
        for protocol in *protocols {
            sockets.push(SeccompRule::new(vec![
                is(0, *family)?,
                masked(1, 0xf, *kind)?,
                is(2, *protocol)?,
            ])?);
        }
    }
    // No packet filters of the agent's own in the kernel, no protocol that is loaded as a module.
    let (socket_level, tcp_level) = (libc::SOL_SOCKET as u64, libc::SOL_TCP as u64);
    let mut plain = vec![is(1, socket_level)?];
    for option in calls::SOCKET_FILTERS {
        plain.push(is_not(2, *option)?);
    }
    let options = vec![
        SeccompRule::new(vec![is_not(1, socket_level)?, is_not(1, tcp_level)?])?,
        SeccompRule::new(plain)?,
        SeccompRule::new(vec![is(1, tcp_level)?, is_not(2, TCP_ULP)?])?,
    ];
    let prctl = PRCTL
        .iter()
        .map(|option| one(is(0, u64::from(option.unsigned_abs()))?))
        .collect::<Result<Vec<_>, _>>()?;
    // Regular files, pipes and sockets, which `mkfifo` and others make by it; no devices.
    let nodes = |arg| {
        [0, libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK]
            .map(|kind| one(masked(arg, u64::from(libc::S_IFMT), u64::from(kind))?))
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
    };
    let mut rules = vec![
        (libc::SYS_clone, vec![one(masked(0, NAMESPACES, 0)?)?]),
        (libc::SYS_socket, sockets),
        (
            libc::SYS_socketpair,
            vec![one(is(0, libc::AF_UNIX as u64)?)?],
        ),
        (libc::SYS_setsockopt, options),
        (libc::SYS_prctl, prctl),
        // Nothing typed into a terminal of somebody else's.
        (
            libc::SYS_ioctl,
            vec![SeccompRule::new(vec![
                is_not(1, libc::TIOCSTI)?,
                is_not(1, libc::TIOCLINUX)?,
            ])?],
        ),
        // Asking is allowed, and what is there already.
        (
            libc::SYS_personality,
            vec![one(is(0, 0)?)?, one(is(0, 0xffff_ffff)?)?],
        ),
        (libc::SYS_mknodat, nodes(2)?),
    ];
    #[cfg(target_arch = "x86_64")]
    rules.push((libc::SYS_mknod, nodes(1)?));
    Ok(rules)
}

#[cfg(test)]
mod tests;
