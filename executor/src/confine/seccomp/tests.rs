use super::*;

use seccompiler::sock_filter;
use std::sync::LazyLock;

static PROGRAM: LazyLock<BpfProgram> = LazyLock::new(|| program(true, false).expect("a program"));

/// Runs a program as the kernel would on one call. Only what `seccompiler` and `search` write.
fn answer(program: &[sock_filter], arch: u32, call: u32, args: [u64; 6]) -> u32 {
    answer_after(program, arch, call, args).0
}

/// And how many instructions that took.
fn answer_after(program: &[sock_filter], arch: u32, call: u32, args: [u64; 6]) -> (u32, usize) {
    let mut data = Vec::new();
    data.extend(call.to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend(0u64.to_ne_bytes());
    args.iter().for_each(|arg| data.extend(arg.to_ne_bytes()));
    let (mut at, mut a, mut steps) = (0, 0u32, 0);
    loop {
        steps += 1;
        let line = &program[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { line.jt } else { line.jf });
        match line.code {
            0x20 => {
                let from = line.k as usize;
                a = u32::from_ne_bytes(data[from..from + 4].try_into().expect("four bytes"));
            }
            0x54 => a &= line.k,
            0x05 => at += line.k as usize,
            0x15 => at += jump(a == line.k),
            0x35 => at += jump(a >= line.k),
            0x06 => return (line.k, steps),
            code => panic!("an instruction {code:#x} that nobody expects"),
        }
    }
}

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;

fn asked(call: libc::c_long, args: &[u64]) -> u32 {
    let mut six = [0; 6];
    six[..args.len()].copy_from_slice(args);
    answer(&PROGRAM, ARCH, u32::try_from(call).expect("a number"), six)
}

#[test]
fn what_is_not_listed_is_refused() {
    for call in [
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_kcmp,
        libc::SYS_pidfd_getfd,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_io_setup,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_kexec_load,
        libc::SYS_kexec_file_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_reboot,
        libc::SYS_swapon,
        libc::SYS_syslog,
        libc::SYS_acct,
        libc::SYS_quotactl,
        libc::SYS_settimeofday,
        libc::SYS_clock_settime,
        libc::SYS_clock_adjtime,
        libc::SYS_adjtimex,
        libc::SYS_sethostname,
        libc::SYS_open_by_handle_at,
        libc::SYS_name_to_handle_at,
        libc::SYS_fanotify_init,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_fsopen,
        libc::SYS_fsmount,
        libc::SYS_mount_setattr,
        libc::SYS_memfd_secret,
        libc::SYS_shmget,
        libc::SYS_msgget,
        libc::SYS_mq_open,
        libc::SYS_process_madvise,
        libc::SYS_move_pages,
        libc::SYS_seccomp,
        libc::SYS_sync,
        libc::SYS_syncfs,
        libc::SYS_setgroups,
    ] {
        assert_eq!(asked(call, &[]), EPERM, "{call}");
    }
    for call in calls::ALLOWED {
        assert_eq!(asked(*call, &[]), ALLOW, "{call}");
    }
}

#[test]
fn calls_of_tomorrow_are_not_there() {
    for call in [libc::SYS_clone3, i64::from(LAST_KNOWN) + 1, 1000] {
        assert_eq!(asked(call, &[]), ENOSYS, "{call}");
    }
    // x32 numbers have bit 30 set, and are checked by the same architecture.
    assert_eq!(asked(0x4000_0000 + 101, &[]), ENOSYS);
}

#[test]
fn another_architecture_ends_the_process() {
    for (arch, call) in [
        (0x4000_0003, 5),
        (0x4000_0003, 11),
        (0x4000_0028, 1),
        (0, 0),
    ] {
        assert_eq!(
            answer(&PROGRAM, arch, call, [0; 6]),
            libc::SECCOMP_RET_KILL_PROCESS,
            "{arch:#x}"
        );
    }
}

#[test]
fn the_answer_is_searched_and_not_gone_through_for() {
    let looked_into: Vec<i64> = looked_into().expect("rules").iter().map(|r| r.0).collect();
    for call in 0..=LAST_KNOWN + 1 {
        let (_, steps) = answer_after(&PROGRAM, ARCH, call, [0; 6]);
        let most = if looked_into.contains(&i64::from(call)) {
            200
        } else {
            15
        };
        assert!(steps <= most, "{call} takes {steps} instructions");
    }
}

#[test]
fn clone_makes_no_namespace() {
    // pthread_create's and fork's.
    for flags in [0x003d_0f00, 0x0120_0011, 0x11] {
        assert_eq!(asked(libc::SYS_clone, &[flags]), ALLOW, "{flags:#x}");
    }
    for flag in [
        0x0002_0000,
        0x0200_0000,
        0x0400_0000,
        0x0800_0000,
        0x1000_0000,
        0x2000_0000,
        0x4000_0000,
    ] {
        assert_eq!(asked(libc::SYS_clone, &[0x11 | flag]), EPERM, "{flag:#x}");
        // What the kernel does not look at does not hide what it does.
        assert_eq!(asked(libc::SYS_clone, &[0x11 | flag | 1 << 40]), EPERM);
    }
}

#[test]
fn sockets_are_of_three_families() {
    let socket =
        |family: u64, kind: u64, protocol: u64| asked(libc::SYS_socket, &[family, kind, protocol]);
    for family in 0..64 {
        for kind in 0..16 {
            for protocol in [0, 1, 2, 6, 17, 58, 132, 136, 255, 262] {
                let known = match (family, kind) {
                    (1, 1 | 2 | 5) => protocol == 0,
                    (2 | 10, 1) => matches!(protocol, 0 | 6),
                    (2 | 10, 2) => matches!(protocol, 0 | 17),
                    _ => false,
                };
                // SOCK_CLOEXEC and SOCK_NONBLOCK change nothing.
                for flags in [0, 0x8_0000, 0x8_0800] {
                    let expected = if known { ALLOW } else { EPERM };
                    assert_eq!(
                        socket(family, kind | flags, protocol),
                        expected,
                        "{family} {kind} {protocol}"
                    );
                }
            }
        }
        let pair = if family == 1 { ALLOW } else { EPERM };
        assert_eq!(
            asked(libc::SYS_socketpair, &[family, 1, 0]),
            pair,
            "{family}"
        );
    }
    // Bits above an int are not looked at by the kernel.
    assert_eq!(socket(16 | 1 << 32, 3, 0), EPERM);
    assert_eq!(socket(2 | 1 << 32, 1, 0), ALLOW);
}

#[test]
fn options_and_nodes() {
    let option = |level, name| asked(libc::SYS_setsockopt, &[3, level, name]);
    for (level, name, expected) in [
        (1, 2, ALLOW),
        (1, 26, EPERM),
        (1, 50, EPERM),
        (1, 51, EPERM),
        (1, 52, EPERM),
        (6, 1, ALLOW),
        (6, 31, EPERM),
        (0, 26, ALLOW),
        (41, 26, ALLOW),
    ] {
        assert_eq!(option(level, name), expected, "{level} {name}");
    }
    for (mode, expected) in [
        (0o644, ALLOW),
        (0o100_644, ALLOW),
        (0o010_600, ALLOW),
        (0o140_600, ALLOW),
        (0o020_666, EPERM),
        (0o060_666, EPERM),
    ] {
        assert_eq!(
            asked(libc::SYS_mknodat, &[0, 0, mode]),
            expected,
            "{mode:o}"
        );
    }
    for (option, expected) in [
        (15, ALLOW),
        (38, ALLOW),
        (22, EPERM),
        (35, EPERM),
        (59, EPERM),
        (0x5961_6d61, EPERM),
    ] {
        assert_eq!(
            asked(libc::SYS_prctl, &[option]),
            expected,
            "prctl {option}"
        );
    }
    for (request, expected) in [
        (0x5401, ALLOW),
        (0x5412, EPERM),
        (0x541c, EPERM),
        (0x5412 | 1 << 32, EPERM),
    ] {
        assert_eq!(
            asked(libc::SYS_ioctl, &[1, request]),
            expected,
            "ioctl {request:#x}"
        );
    }
    for (persona, expected) in [
        (0, ALLOW),
        (0xffff_ffff, ALLOW),
        (0x0040_0000, EPERM),
        (8, EPERM),
    ] {
        assert_eq!(
            asked(libc::SYS_personality, &[persona]),
            expected,
            "{persona:#x}"
        );
    }
}

/// The kernel takes it, and answers like the simulation above: on a thread of its own, which then ends.
#[test]
fn the_kernel_agrees() {
    use rustix::net::{AddressFamily, SocketType, socket};
    assert!(PROGRAM.len() < 4096, "{} instructions", PROGRAM.len());
    let asking = std::thread::spawn(|| {
        let before = std::time::Instant::now();
        install(&PROGRAM).expect("installed");
        println!("{} instructions in {:?}", PROGRAM.len(), before.elapsed());
        [
            (AddressFamily::UNIX, SocketType::STREAM),
            (AddressFamily::INET, SocketType::STREAM),
            (AddressFamily::INET, SocketType::RAW),
            (AddressFamily::NETLINK, SocketType::RAW),
        ]
        .map(|(family, kind)| socket(family, kind, None).err())
    });
    let refused = Some(rustix::io::Errno::PERM);
    assert_eq!(
        asking.join().expect("no panic"),
        [None, None, refused, refused]
    );
}

#[test]
fn memory_that_nobody_would_count_is_refused() {
    let call = u32::try_from(libc::SYS_memfd_create).expect("a number");
    let without = program(false, false).expect("a program");
    assert_eq!(answer(&without, ARCH, call, [0; 6]), EPERM);
    assert_eq!(answer(&PROGRAM, ARCH, call, [0; 6]), ALLOW);
}
