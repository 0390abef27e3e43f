//! The system calls that no safe wrapper offers. The only module of the workspace that may say `unsafe`.
#![expect(
    unsafe_code,
    reason = "clone, mount_setattr, close_range, keyctl, dup2, rt_sigaction and AsyncFd have no safe wrapper; each block says why it is sound"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::libc;
use rustix::process::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// New namespaces of a sandbox, as `clone` flags, with the names the level reports.
pub const NAMESPACES: [(&str, libc::c_int); 7] = [
    ("user", libc::CLONE_NEWUSER),
    ("pid", libc::CLONE_NEWPID),
    ("mount", libc::CLONE_NEWNS),
    ("net", libc::CLONE_NEWNET),
    ("ipc", libc::CLONE_NEWIPC),
    ("uts", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
];

/// Forks into the given new namespaces. The child's parent is *our* parent, so that our parent can wait for it and we may leave.
/// `None` in the child. Only for a process with one thread.
pub fn clone_as_sibling(namespaces: libc::c_int) -> io::Result<Option<Pid>> {
    forked(namespaces | libc::CLONE_PARENT)
}

/// Plain fork into the given new namespaces (0: none), without libc's handlers. `None` in the child. Only for a process with one thread.
pub fn fork_into(namespaces: libc::c_int) -> io::Result<Option<Pid>> {
    forked(namespaces)
}

fn forked(flags: libc::c_int) -> io::Result<Option<Pid>> {
    // SAFETY: without CLONE_VM and with a null stack this is fork: the child gets a copy of the address space. The helper has one
    // thread (`helper_main`'s contract), so no lock of the allocator or of libc can be held by a thread that the child lacks.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags | libc::SIGCHLD,
            0usize,
            0usize,
            0usize,
            0usize,
        )
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?)),
    }
}

#[derive(Clone, Copy)]
pub struct MountAttributes {
    pub set: u64,
    pub recursive: bool,
}

pub const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub const NO_SUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub const NO_DEV: u64 = libc::MOUNT_ATTR_NODEV;
pub const NO_EXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Sets attributes on the mount that `mount` refers to and cuts it off from the host's propagation (Linux 5.12).
pub fn mount_setattr(mount: BorrowedFd<'_>, attributes: MountAttributes) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH
        | if attributes.recursive {
            libc::AT_RECURSIVE
        } else {
            0
        };
    // SAFETY: the path is a static C string, `attr` lives through the call and its true size is given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A session keyring of our own instead of the executor's. Where that is forbidden, keyrings are: the filter that says so is inherited.
pub fn new_session_keyring() {
    // SAFETY: integers and a null name, which asks for an anonymous keyring.
    unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
}

/// Makes `fd` appear as number `target`, to be inherited. What was open there is closed.
pub fn place(fd: &OwnedFd, target: RawFd) -> io::Result<()> {
    // SAFETY: dup2 on two integers; used just before exec, when nothing else of this process owns `target`.
    let placed = unsafe { libc::dup2(fd.as_raw_fd(), target) };
    if placed == target {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Marks every descriptor from `first` on to be closed by exec (Linux 5.11).
pub fn close_on_exec_from(first: libc::c_uint) -> io::Result<()> {
    // SAFETY: integers only, and no descriptor is closed here.
    let done = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A pidfd to be awaited: readable once the process has ended.
pub fn awaited(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` answers `as_raw_fd` with the same open descriptor for as long as it lives, and the `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.map_err(Into::into)
}

/// Signal dispositions as a fresh program expects them: ignored signals survive exec, and Rust's runtime ignores SIGPIPE.
pub fn default_signals() {
    /// The kernel's `sigaction`, all zero: SIG_DFL, no flags, an empty mask. (libc's would not touch its own signals 32 and 33.)
    const DEFAULT: [u64; 4] = [0; 4];
    for signal in 1..=64 {
        // SAFETY: it installs no code, and the kernel reads no more than `DEFAULT` (three words and a mask of eight bytes at most).
        // SIGKILL and SIGSTOP are refused harmlessly.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null::<u64>(),
                size_of::<u64>(),
            )
        };
    }
}

/// Ends this process at once: no destructor, no atexit handler inherited from the helper runs.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns and touches no memory.
    unsafe { libc::_exit(code) }
}
