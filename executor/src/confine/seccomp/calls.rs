//! The list itself. A call is here because Python, its standard library, numpy, uvloop, grpc, a shell or a compiler makes it, and because
//! it reaches nothing but the caller's own files, memory, processes and sockets.

use nix::libc::{self as c, c_long};

/// With any arguments.
#[rustfmt::skip]
pub const ALLOWED: &[c_long] = &[
    // Files that are open.
    c::SYS_read, c::SYS_write, c::SYS_readv, c::SYS_writev, c::SYS_pread64, c::SYS_pwrite64, c::SYS_preadv, c::SYS_pwritev,
    c::SYS_preadv2, c::SYS_pwritev2, c::SYS_lseek, c::SYS_close, c::SYS_close_range, c::SYS_dup, c::SYS_dup3, c::SYS_fcntl, c::SYS_flock,
    c::SYS_fsync, c::SYS_fdatasync, c::SYS_sync_file_range, c::SYS_ftruncate, c::SYS_fallocate, c::SYS_fadvise64, c::SYS_readahead,
    c::SYS_sendfile, c::SYS_copy_file_range, c::SYS_splice, c::SYS_tee, c::SYS_vmsplice, c::SYS_fstat, c::SYS_fstatfs, c::SYS_fchmod,
    c::SYS_fchown, c::SYS_getdents64, c::SYS_fgetxattr, c::SYS_flistxattr, c::SYS_fsetxattr, c::SYS_fremovexattr,
    // Files by name.
    c::SYS_openat, c::SYS_openat2, c::SYS_newfstatat, c::SYS_statx, c::SYS_statfs, c::SYS_faccessat, c::SYS_faccessat2, c::SYS_truncate,
    c::SYS_mkdirat, c::SYS_unlinkat, c::SYS_renameat, c::SYS_renameat2, c::SYS_linkat, c::SYS_symlinkat, c::SYS_readlinkat,
    c::SYS_fchmodat, FCHMODAT2, c::SYS_fchownat, c::SYS_utimensat, c::SYS_chdir, c::SYS_fchdir, c::SYS_getcwd, c::SYS_umask,
    c::SYS_getxattr, c::SYS_lgetxattr, c::SYS_listxattr, c::SYS_llistxattr, c::SYS_setxattr, c::SYS_lsetxattr, c::SYS_removexattr,
    c::SYS_lremovexattr, c::SYS_inotify_init1, c::SYS_inotify_add_watch, c::SYS_inotify_rm_watch,
    // Waiting.
    c::SYS_pselect6, c::SYS_ppoll, c::SYS_epoll_create1, c::SYS_epoll_ctl, c::SYS_epoll_pwait, c::SYS_epoll_pwait2, c::SYS_eventfd2,
    c::SYS_signalfd4, c::SYS_timerfd_create, c::SYS_timerfd_settime, c::SYS_timerfd_gettime, c::SYS_pipe2, c::SYS_nanosleep,
    c::SYS_clock_nanosleep, c::SYS_sched_yield, c::SYS_restart_syscall,
    // Memory.
    c::SYS_brk, c::SYS_mmap, c::SYS_munmap, c::SYS_mremap, c::SYS_mprotect, c::SYS_madvise, c::SYS_mincore, c::SYS_msync, c::SYS_mlock,
    c::SYS_mlock2, c::SYS_munlock, c::SYS_mlockall, c::SYS_munlockall, c::SYS_memfd_create, c::SYS_membarrier, c::SYS_pkey_alloc,
    c::SYS_pkey_free, c::SYS_pkey_mprotect, MAP_SHADOW_STACK, MSEAL,
    // Threads.
    c::SYS_futex, c::SYS_futex_waitv, FUTEX_WAKE, FUTEX_WAIT, FUTEX_REQUEUE, c::SYS_set_robust_list, c::SYS_get_robust_list,
    c::SYS_set_tid_address, c::SYS_rseq, c::SYS_gettid, c::SYS_getcpu, c::SYS_sched_getaffinity, c::SYS_sched_setaffinity,
    c::SYS_sched_getparam, c::SYS_sched_setparam, c::SYS_sched_getscheduler, c::SYS_sched_setscheduler, c::SYS_sched_getattr,
    c::SYS_sched_setattr, c::SYS_sched_get_priority_max, c::SYS_sched_get_priority_min, c::SYS_sched_rr_get_interval,
    // Processes, all of which are in the sandbox.
    c::SYS_execve, c::SYS_execveat, c::SYS_exit, c::SYS_exit_group, c::SYS_wait4, c::SYS_waitid, c::SYS_kill, c::SYS_tkill, c::SYS_tgkill,
    c::SYS_pidfd_open, c::SYS_pidfd_send_signal, c::SYS_getpid, c::SYS_getppid, c::SYS_getpgid, c::SYS_setpgid, c::SYS_getsid,
    c::SYS_setsid, c::SYS_getpriority, c::SYS_setpriority, c::SYS_ioprio_get, c::SYS_ioprio_set, c::SYS_getrlimit, c::SYS_setrlimit,
    c::SYS_prlimit64, c::SYS_getrusage, c::SYS_times, c::SYS_sysinfo, c::SYS_uname,
    // Identities, of which there is one.
    c::SYS_getuid, c::SYS_geteuid, c::SYS_getgid, c::SYS_getegid, c::SYS_getresuid, c::SYS_getresgid, c::SYS_getgroups, c::SYS_setuid,
    c::SYS_setgid, c::SYS_setreuid, c::SYS_setregid, c::SYS_setresuid, c::SYS_setresgid, c::SYS_setfsuid, c::SYS_setfsgid, c::SYS_capget,
    c::SYS_capset,
    // Signals.
    c::SYS_rt_sigaction, c::SYS_rt_sigprocmask, c::SYS_rt_sigreturn, c::SYS_rt_sigsuspend, c::SYS_rt_sigpending, c::SYS_rt_sigtimedwait,
    c::SYS_rt_sigqueueinfo, c::SYS_rt_tgsigqueueinfo, c::SYS_sigaltstack,
    // Time.
    c::SYS_clock_gettime, c::SYS_clock_getres, c::SYS_gettimeofday, c::SYS_getitimer, c::SYS_setitimer, c::SYS_timer_create,
    c::SYS_timer_settime, c::SYS_timer_gettime, c::SYS_timer_getoverrun, c::SYS_timer_delete, c::SYS_getrandom,
    // Sockets that `socket` has let pass.
    c::SYS_bind, c::SYS_listen, c::SYS_accept, c::SYS_accept4, c::SYS_connect, c::SYS_shutdown, c::SYS_getsockname, c::SYS_getpeername,
    c::SYS_getsockopt, c::SYS_sendto, c::SYS_recvfrom, c::SYS_sendmsg, c::SYS_recvmsg, c::SYS_sendmmsg, c::SYS_recvmmsg,
    // What only older tables have.
    #[cfg(target_arch = "x86_64")] c::SYS_open, #[cfg(target_arch = "x86_64")] c::SYS_creat, #[cfg(target_arch = "x86_64")] c::SYS_stat,
    #[cfg(target_arch = "x86_64")] c::SYS_lstat, #[cfg(target_arch = "x86_64")] c::SYS_access, #[cfg(target_arch = "x86_64")] c::SYS_dup2,
    #[cfg(target_arch = "x86_64")] c::SYS_pipe, #[cfg(target_arch = "x86_64")] c::SYS_poll, #[cfg(target_arch = "x86_64")] c::SYS_select,
    #[cfg(target_arch = "x86_64")] c::SYS_epoll_create, #[cfg(target_arch = "x86_64")] c::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")] c::SYS_eventfd, #[cfg(target_arch = "x86_64")] c::SYS_signalfd,
    #[cfg(target_arch = "x86_64")] c::SYS_inotify_init, #[cfg(target_arch = "x86_64")] c::SYS_getdents,
    #[cfg(target_arch = "x86_64")] c::SYS_rename, #[cfg(target_arch = "x86_64")] c::SYS_mkdir, #[cfg(target_arch = "x86_64")] c::SYS_rmdir,
    #[cfg(target_arch = "x86_64")] c::SYS_link, #[cfg(target_arch = "x86_64")] c::SYS_unlink, #[cfg(target_arch = "x86_64")] c::SYS_symlink,
    #[cfg(target_arch = "x86_64")] c::SYS_readlink, #[cfg(target_arch = "x86_64")] c::SYS_chmod, #[cfg(target_arch = "x86_64")] c::SYS_chown,
    #[cfg(target_arch = "x86_64")] c::SYS_lchown, #[cfg(target_arch = "x86_64")] c::SYS_utime, #[cfg(target_arch = "x86_64")] c::SYS_utimes,
    #[cfg(target_arch = "x86_64")] c::SYS_futimesat, #[cfg(target_arch = "x86_64")] c::SYS_fork, #[cfg(target_arch = "x86_64")] c::SYS_vfork,
    #[cfg(target_arch = "x86_64")] c::SYS_getpgrp, #[cfg(target_arch = "x86_64")] c::SYS_alarm, #[cfg(target_arch = "x86_64")] c::SYS_pause,
    #[cfg(target_arch = "x86_64")] c::SYS_time, #[cfg(target_arch = "x86_64")] c::SYS_arch_prctl,
];

/// Answered and not done where packages are installed.
#[rustfmt::skip]
pub const PRETENDED: &[c_long] = &[
    c::SYS_fchown, c::SYS_fchownat, c::SYS_setuid, c::SYS_setgid, c::SYS_setreuid, c::SYS_setregid, c::SYS_setresuid, c::SYS_setresgid,
    c::SYS_setfsuid, c::SYS_setfsgid, c::SYS_capset,
    #[cfg(target_arch = "x86_64")] c::SYS_chown, #[cfg(target_arch = "x86_64")] c::SYS_lchown,
];

// Not yet in libc's tables for every target.
const FCHMODAT2: c_long = 452;
const MAP_SHADOW_STACK: c_long = 453;
const FUTEX_WAKE: c_long = 454;
const FUTEX_WAIT: c_long = 455;
const FUTEX_REQUEUE: c_long = 456;
const MSEAL: c_long = 462;

/// Family, kind, protocols: 0 is the family's own for that kind.
pub const SOCKETS: &[(u64, u64, &[u64])] = &[
    (c::AF_UNIX as u64, c::SOCK_STREAM as u64, &[0]),
    (c::AF_UNIX as u64, c::SOCK_DGRAM as u64, &[0]),
    (c::AF_UNIX as u64, c::SOCK_SEQPACKET as u64, &[0]),
    (c::AF_INET as u64, c::SOCK_STREAM as u64, TCP),
    (c::AF_INET as u64, c::SOCK_DGRAM as u64, UDP),
    (c::AF_INET6 as u64, c::SOCK_STREAM as u64, TCP),
    (c::AF_INET6 as u64, c::SOCK_DGRAM as u64, UDP),
];
const TCP: &[u64] = &[0, c::IPPROTO_TCP as u64];
const UDP: &[u64] = &[0, c::IPPROTO_UDP as u64];

/// Options of SOL_SOCKET that give the kernel a program of the caller's.
pub const SOCKET_FILTERS: &[u64] = &[
    c::SO_ATTACH_FILTER as u64,
    c::SO_ATTACH_BPF as u64,
    c::SO_ATTACH_REUSEPORT_CBPF as u64,
    c::SO_ATTACH_REUSEPORT_EBPF as u64,
];
