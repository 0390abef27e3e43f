"""The kernel's own doors: mounts, namespaces, memory of others, programs and events in the kernel, clocks and names."""

import ctypes
import fcntl
import mmap
import os
import resource
import socket
import subprocess

from tried import attempt, call

NEW_USER = 0x1000_0000
ALL_NAMESPACES = [0x80, 0x2_0000, 0x0200_0000, 0x0400_0000, 0x0800_0000, NEW_USER, 0x2000_0000, 0x4000_0000]


def mounts(given):
    return [
        call((165, 40), b"none", b"/tmp", b"tmpfs", 0, 0),
        call((165, 40), b"/", b"/tmp", b"", 4096 | 16384, 0),
        call((165, 40), b"none", b"/usr", b"", 32 | 4096, 0),
        call((166, 39), b"/proc/sys", 2),
        call((166, 39), b"/", 2),
    ]


def mounts_by_the_new_calls(given):
    return [
        call(428, -100, b"/", 1),
        call(429, -1, b"", -100, b"/tmp", 4),
        call(430, b"tmpfs", 0),
        call(431, 0, 1, b"a", b"b", 0),
        call(432, 0, 0, 0),
        call(433, -100, b"/", 0),
        call(442, -100, b"/usr", 0, 0, 0),
        call(457, 0, 0, 0, 0),
        call(467, -100, b"/", 1, 0, 0),
    ]


def another_root(given):
    return [call((155, 41), b"/tmp", b"/tmp"), call((161, 51), b"/tmp")]


def namespaces_are_left(given):
    return [call((272, 97), flag) for flag in ALL_NAMESPACES] + [call((308, 268), 0, 0)]


def namespaces_by_clone(given):
    """Each in a child that would be in them."""
    told = []
    for flag in ALL_NAMESPACES[1:]:
        got = call((56, 220), flag | 17, 0, 0, 0, 0)
        if got == "GOT 0":
            os._exit(0)
        told.append(got)
    return told


def namespaces_by_clone3(given):
    arguments = (NEW_USER | 0x2_0000).to_bytes(8, "little") + bytes(80)
    got = call(435, arguments, len(arguments))
    if got == "GOT 0":
        os._exit(0)
    return got


def namespaces_by_programs(given):
    run = subprocess.run(
        ["/usr/bin/unshare", "--user", "--map-root-user", "id", "-u"], capture_output=True, text=True, check=False
    )
    return "failed" if run.returncode != 0 else f"GOT {run.stdout}"


def tracing(given):
    """PTRACE_ATTACH, PTRACE_SEIZE, PTRACE_TRACEME."""
    return [call((101, 117), 16, 1, 0, 0), call((101, 117), 0x4206, 1, 0, 0), call((101, 117), 0, 0, 0, 0)]


def memory_of_others(given):
    here = ctypes.create_string_buffer(8)
    vector = ctypes.addressof(here).to_bytes(8, "little") + (8).to_bytes(8, "little")
    parent = os.getppid()
    return [
        call((310, 270), parent, vector, 1, vector, 1, 0),
        call((311, 271), parent, vector, 1, vector, 1, 0),
        call((312, 272), parent, os.getpid(), 0, 0, 0),
    ]


def descriptors_of_others(given):
    own = os.pidfd_open(1)
    return call(438, own, 0, 0)


def keyrings(given):
    return [
        call((250, 219), 0, -3, 0),
        call((250, 219), 1, 0),
        call((250, 219), 8, -4, -2),
        call((250, 219), 11, -4, 0, 0),
        call((248, 217), b"user", b"name", b"value", 5, -3),
        call((249, 218), b"user", b"name", 0, -3),
    ]


def rings(given):
    return [call(425, 8, bytes(120)), call(426, 0, 1, 0, 0, 0), call(427, 0, 0, 0, 0), call((206, 0), 8, bytes(8))]


def programs_in_the_kernel(given):
    """bpf(BPF_PROG_LOAD), bpf(BPF_MAP_CREATE), and a filter of packets."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        return [
            call((321, 280), 5, bytes(128), 128),
            call((321, 280), 0, bytes(128), 128),
            attempt(udp.setsockopt, socket.SOL_SOCKET, 26, bytes(16)),
            attempt(udp.setsockopt, socket.SOL_SOCKET, 50, bytes(4)),
        ]


def events_of_the_kernel(given):
    return [
        call((298, 241), (1).to_bytes(4, "little") + (128).to_bytes(4, "little") + bytes(120), 0, -1, -1, 0),
        call((300, 262), 0, 0),
        call((212, None), 0),
    ]


def page_faults(given):
    return [call((323, 282), 1), call((323, 282), 0)]


def kernels_and_modules(given):
    return [
        call((246, 104), 0, 0, 0, 0),
        call((320, 294), -1, -1, 0, b"", 0),
        call((175, 105), b"", 0, b""),
        call((313, 273), -1, b"", 0),
        call((176, 106), b"x", 0),
        call((169, 142), 0xFEE1DEAD, 672274793, 0, 0),
    ]


def clocks_and_names(given):
    return [
        call((164, 170), bytes(16), 0),
        call((227, 112), 0, bytes(16)),
        call((159, 171), bytes(256)),
        call((305, 266), 0, bytes(256)),
        call((170, 161), b"mine", 4),
        call((171, 162), b"mine", 4),
    ]


def the_host_at_large(given):
    """syslog, acct, swapon, quotactl, vhangup; sync, which makes everybody wait."""
    return [
        call((103, 116), 3, ctypes.create_string_buffer(64), 64),
        call((163, 89), 0),
        call((167, 224), b"/tmp/x", 0),
        call((179, 60), 0, b"/", 0, 0),
        call((153, 58)),
        call((162, 81)),
        call((306, 267), 0),
    ]


def ports_of_the_processor(given):
    return [call((172, None), 3), call((173, None), 0, 8, 1), call((154, None), 1, bytes(16), 16)]


def secret_memory(given):
    return call(447, 0)


def memory_that_nobody_counts(given):
    """System V and POSIX queues and segments live as long as their namespace."""
    return [
        call((29, 194), 0, 1 << 20, 0o1600),
        call((68, 186), 0, 0o1600),
        call((64, 190), 0, 8, 0o1600),
        call((240, 180), b"mine", 0o102, 0o600, 0),
    ]


def filters_of_its_own(given):
    """With a listener it could answer its own calls; PR_SET_SECCOMP is the same by another door."""
    return [call((317, 277), 1, 8, bytes(16)), call((157, 167), 22, 2, bytes(16), 0, 0)]


def layout_of_memory(given):
    """PR_SET_MM, PR_SET_SYSCALL_USER_DISPATCH, ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC."""
    return [
        call((157, 167), 35, 1, 0, 0, 0),
        call((157, 167), 59, 1, 0, 0, 0),
        call((135, 92), 0x40000),
        call((135, 92), 0x400000),
    ]


def capabilities(given):
    """All of them, as a version 3 header and two words of sets."""
    header = (0x20080522).to_bytes(4, "little") + bytes(4)
    everything = b"\xff" * 24
    told = [call((126, 91), header, everything), call((157, 167), 47, 2, 21, 0, 0), call((157, 167), 38, 0, 0, 0, 0)]
    with open("/proc/self/status") as status:
        sets = [line.split()[1] for line in status if line.startswith("Cap")]
    return [*told, "none" if set(sets) == {"0" * 16} else f"GOT {sets}"]


def identities(given):
    return [
        attempt(os.setuid, 0),
        attempt(os.setresuid, 0, 0, 0),
        attempt(os.setgid, 0),
        attempt(os.setgroups, [0]),
        call((122, 151), 0).replace("GOT 1000", "ourselves"),
    ]


def limits(given):
    told = []
    for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE):
        told.append(
            attempt(resource.setrlimit, what, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)).replace(
                "ValueError", "EPERM"
            )
        )
    return told


def places_in_the_queue(given):
    """Real time, the best nice value, the first class of input and output."""
    return [
        attempt(os.sched_setscheduler, 0, os.SCHED_FIFO, os.sched_param(50)),
        attempt(os.setpriority, os.PRIO_PROCESS, 0, -20),
        call((251, 30), 1, 0, 1 << 13),
    ]


def locked_memory(given):
    """More than the limit that everybody has."""
    with mmap.mmap(-1, 64 << 20) as area:
        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
        got = call((149, 228), address, 64 << 20)
    return "GOT it" if got == "GOT 0" else got


def terminals(given):
    return [
        attempt(fcntl.ioctl, 0, 0x5412, b"x"),
        attempt(fcntl.ioctl, 0, 0x541C, b"x"),
        attempt(os.open, "/dev/tty", os.O_RDWR),
    ]


def watching_everybody(given):
    return call((300, 262), 0, 0)


def calls_that_are_new(given):
    """Numbers that nobody has looked at yet, and those of another table by the same architecture."""
    return [call(470), call(600), call(0x4000_0000 + 59)]


def moving_pages(given):
    return [
        call((279, 239), os.getppid(), 0, 0, 0, 0, 0),
        call((256, 238), os.getppid(), 8, bytes(8), bytes(8)),
        call((440, 440), 0, 0, 0, 0, 0),
    ]
