#!/usr/bin/env python3
"""Writes deploy/seccomp.json, the filter that executors run under: `deploy/seccomp.py >deploy/seccomp.json`.

An allow-list: what the kernel headers of Debian (linux-libc-dev) name, less what is denied below. The usual profiles
of Docker and of containerd refuse what the sandbox is made of (clone with new namespaces, mount, pivot_root); this
one grants that and is otherwise about as strict. It names no capability, so that Docker and the kubelet read it
alike. What it does not know fails with ENOSYS, so that C libraries fall back to an older call; what it denies fails
with EPERM.
"""

import json
import re
import sys
from pathlib import Path

EPERM, ENOSYS = 1, 38
AF_VSOCK = 40

DENIED = {
    "changes the host: modules, boot, clock, swap, quotas": (
        "init_module finit_module delete_module create_module kexec_load kexec_file_load reboot swapon swapoff acct "
        "quotactl quotactl_fd settimeofday stime clock_settime clock_settime64 clock_adjtime clock_adjtime64 adjtimex "
        "iopl ioperm vhangup setdomainname nfsservctl"
    ),
    "looks into other processes or the kernel": (
        "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp perf_event_open bpf syslog "
        "lookup_dcookie listmount statmount listns lsm_set_self_attr lsm_get_self_attr lsm_list_modules"
    ),
    "keyrings are not bounded by namespaces": "add_key request_key keyctl",
    "much of the kernel behind one call": (
        "io_uring_setup io_uring_enter io_uring_register userfaultfd fanotify_init open_by_handle_at name_to_handle_at "
        "fsopen fsconfig fsmount fspick open_tree_attr"
    ),
    "the sandbox is made by clone, and left by nobody": "unshare setns chroot",
    "NUMA placement": "mbind get_mempolicy set_mempolicy set_mempolicy_home_node migrate_pages move_pages",
    "of another time": (
        "uselib ustat sysfs _sysctl modify_ldt get_kernel_syms query_module getpmsg putpmsg afs_syscall tuxcall "
        "security vserver"
    ),
}
# Decided by their arguments.
SPECIAL = {"clone3", "personality", "socket"}
HEADERS = ("x86_64-linux-gnu/asm/unistd_64.h", "asm-generic/unistd.h")


def known() -> set[str]:
    names: set[str] = set()
    for header in HEADERS:
        text = Path("/usr/include", header).read_text()
        names |= set(re.findall(r"^#define __NR(?:3264)?_(\w+)", text, re.MULTILINE))
    return names - {"syscalls", "arch_specific_syscall"}


def main() -> None:
    denied = {name for names in DENIED.values() for name in names.split()}
    allowed = sorted(known() - denied - SPECIAL)
    rules: list[dict[str, object]] = [
        {"names": allowed, "action": "SCMP_ACT_ALLOW"},
        {"names": sorted(denied), "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM},
        # A filter cannot look behind its pointer, and callers know how to do with clone.
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS},
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE"}],
        },
    ]
    # Linux itself, and asking what it is.
    for persona in (0, 0xFFFFFFFF):
        rules.append(
            {
                "names": ["personality"],
                "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 0, "value": persona, "op": "SCMP_CMP_EQ"}],
            }
        )
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": rules,
    }
    json.dump(profile, sys.stdout, indent=1)
    print()


main()
