//! The sandbox that one worker runs in. Linux only. In: what the worker may see and use ([`Spec`]), and what the host can do ([`Level`]).
//! Out: a running worker ([`Confined`]) with one socket to it, the listener of its only way out, and the certainty that it can be ended.
//! Never here: what a worker says on its socket, which instance should run, anything of the bus or the store.
//!
//! # The written order
//!
//! Every step that fails is named in the error, and leaves nothing behind. E = executor, H = helper, S = the sandbox's first process.
//!
//! 1. E executes its own binary anew as the helper (`phalanx __confine`): one thread, an environment without anything of ours, the control socket as fd 0.
//! 2. E makes the instance's control groups, and moves the helper into them.
//! 3. E tells the ground over the control socket: identity, and what of the host every sandbox sees.
//! 4. H opens the trees to be bound, with the executor's rights; gives up its supplementary groups.
//! 5. H clones S, as a child of E, into new user, pid, mount, net, ipc, uts and cgroup namespaces, and reports its pid.
//! 6. S brings `lo` up, binds 127.0.0.1:3128 and passes the listener to E, which accepts the sandbox's connections itself.
//! 7. H maps one identity: as root an unprivileged one of the worker's own, as an ordinary user ours. H leaves. S becomes that identity,
//!    with a session keyring of its own and no right to further user namespaces.
//! 8. S builds the root: a tmpfs, trees read-only nosuid nodev, five devices, a masked new /proc where the host allows it; pivots into it,
//!    detaches the old root, and sets the hostname. All up to here is done ahead where it can be: `standby`.
//! 9. E bounds the groups and sends the plan (never argv: it may hold secrets), with it the worker's descriptors and the trees that are the
//!    instance's own. S adds these to the root, read-only likewise, seals it, and mounts a private /tmp and /dev/shm.
//! 10. S drops all capabilities, bounding and ambient set included, locks the securebits and sets no_new_privs; it cannot be traced.
//! 11. S restricts itself by Landlock, where the kernel has it: what is not beneath its own root is out of reach for good, and only
//!     /tmp and /dev/shm are written to.
//! 12. S goes on as process 1 (`init`): it reaps, watches the control socket, reports how the worker ended, and leaves when the worker
//!     or the executor has. The kernel then kills all that is left in the pid namespace.
//! 13. The worker, a child of S: session, rlimits, default signals, descriptors 0 to 3 only, the system call filter, exec.
//!
//! A template (`Spec::slots`) is a sandbox whose worker forks others like itself (`template`, `forked`). Its first process mounts on, for
//! each of them a root with scratch of its own (`root::slots`): so it keeps CAP_SYS_ADMIN over the sandbox's own namespaces and stays out
//! of Landlock, which its worker is put into instead (step 13), with CAP_SYS_CHROOT, which what it forks drops. Each of these is moved into
//! control groups of its own before it works. Namespaces, and the way out, they share.
//!
//! # Invariants
//!
//! - The end of S is the end of everything in the sandbox: the kernel reaps a pid namespace before its process 1 is seen to have ended.
//! - The executor's end of the control socket is the sandbox's life: nobody else holds it, and SIGKILL closes it too.
//! - Nothing is ever writable in the sandbox but /tmp and /dev/shm, at no moment of its making either.

mod cgroup;
mod confined;
pub mod egress;
mod error;
mod forked;
mod helper;
mod init;
mod inside;
mod landlock;
mod layer;
mod level;
mod loopback;
mod plan;
mod privileges;
mod process;
mod remains;
mod root;
mod seccomp;
mod spec;
mod standby;
mod start;
mod sys;
mod template;
mod wire;

pub use cgroup::Version;
pub use confined::{Confined, Exit, Memory, spawn};
pub use error::Error;
pub use forked::Forked;
pub use helper::helper_main;
pub use layer::Layer;
pub use level::{Config, Isolation, Level, probe};
pub use spec::{Output, Shown, Spec};
pub use template::{Spare, Template};
