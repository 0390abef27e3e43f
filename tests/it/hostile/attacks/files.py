"""Files: of the host, of others, of the installation; and ways round the mounts."""

import contextlib
import os
import shutil
import stat
import subprocess
import sys

from tried import attempt, call


def _read(path):
    with open(path, "rb") as file:
        return file.read(64)


def _write(path):
    with open(path, "r+b" if os.path.exists(path) else "wb") as file:
        return file.write(b"x")


def host_files(given):
    return [attempt(_read, path) for path in given["host_files"]]


def host_files_through_proc(given):
    ways = ["/proc/1/root", "/proc/self/root/..", "/proc/1/cwd", "/proc/self/cwd/../.."]
    return [attempt(_read, way + path) for path in given["host_files"] for way in ways]


def host_folders(given):
    return [attempt(os.listdir, path) for path in given["host_folders"]]


def above_the_root(given):
    """The way up ends at the sandbox's own root."""
    seen = [sorted(os.listdir(path)) for path in ("/", "/..", "/../../..", "/proc/self/root/../..")]
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(8):
        up = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = up
    seen.append(sorted(os.listdir(fd)))
    os.close(fd)
    return ["same"] if all(one == seen[0] for one in seen) else [f"GOT {seen}"]


def code_of_another(given):
    return [attempt(_read, path) for path in given["other_files"]]


def anything_with_the_secret(given):
    """Reads every file that it can see, but what Debian brought, for words of another agent's code and variables."""
    found = []
    for folder, folders, names in os.walk("/"):
        if folder == "/":
            folders[:] = [name for name in folders if name not in ("proc", "usr", "sys")]
        for name in names:
            path = os.path.join(folder, name)
            with contextlib.suppress(OSError):
                if os.path.isfile(path) and os.path.getsize(path) < 1 << 22:
                    with open(path, "rb") as file:
                        if given["secret"].encode() in file.read():
                            found.append(f"GOT {path}")
    return found or ["nothing"]


def own_code_is_changed(given):
    own = os.path.dirname(__file__)
    return [attempt(_write, path) for path in (__file__, os.path.join(own, "new.py"))] + [
        attempt(os.chmod, __file__, 0o777)
    ]


def the_worker_is_changed(given):
    return [attempt(_write, path) for path in ("/agent/runner/worker.pyc", "/agent/runner/new", "/agent/new")]


def the_system_is_changed(given):
    paths = [
        "/usr/bin/python3",
        "/usr/lib/new",
        "/etc/passwd",
        "/etc/ld.so.preload",
        "/etc/ld.so.cache",
        "/new",
        "/dev/new",
        "/var/empty/new",
    ]
    return [attempt(_write, path) for path in paths]


def kernel_settings(given):
    paths = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
    ]
    return [attempt(_write, path) for path in paths]


def kernel_words(given):
    """Masked files are empty."""
    told = []
    for path in (
        "/proc/kcore",
        "/proc/kallsyms",
        "/proc/keys",
        "/proc/kmsg",
        "/proc/cmdline",
        "/proc/modules",
        "/proc/timer_list",
    ):
        got = attempt(_read, path)
        told.append("empty" if got == "GOT b''" else got)
    return told


def own_limits_of_proc(given):
    paths = [
        "/proc/self/oom_score_adj",
        "/proc/self/uid_map",
        "/proc/self/gid_map",
        "/proc/self/setgroups",
        "/proc/self/loginuid",
    ]
    return [attempt(_write, path) for path in paths]


def memory_of_the_first_process(given):
    names = ["mem", "maps", "environ", "auxv", "stack", "syscall", "pagemap"]
    return [attempt(_read, f"/proc/1/{name}") for name in names]


def descriptors_of_the_first_process(given):
    return [
        attempt(os.listdir, "/proc/1/fd"),
        attempt(os.readlink, "/proc/1/exe"),
        attempt(os.readlink, "/proc/1/ns/net"),
    ]


def devices_of_the_host(given):
    names = [
        "mem",
        "kmem",
        "port",
        "kmsg",
        "sda",
        "vda",
        "nvme0n1",
        "loop0",
        "fuse",
        "kvm",
        "net/tun",
        "vsock",
        "tty",
        "ptmx",
        "shm/../mem",
    ]
    return [attempt(os.open, f"/dev/{name}", os.O_RDWR) for name in names]


def devices_are_made(given):
    return [
        attempt(os.mknod, "/tmp/disk", stat.S_IFBLK | 0o666, os.makedev(8, 0)),
        attempt(os.mknod, "/tmp/memory", stat.S_IFCHR | 0o666, os.makedev(1, 1)),
        attempt(os.mknod, "/dev/shm/null", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
    ]


def groups_are_escaped(given):
    """The release agent of cgroup v1 would run on the host."""
    paths = [
        "/sys/fs/cgroup/release_agent",
        "/sys/fs/cgroup/memory/release_agent",
        "/sys/fs/cgroup/cgroup.procs",
        "/tmp/cg/release_agent",
    ]
    return [attempt(_write, path) for path in paths]


def set_uid_programs(given):
    """Own ones, and those of Debian, which change nobody's identity in here."""
    told = []
    shutil.copy(os.path.realpath(sys.executable), "/tmp/mine")
    os.chmod("/tmp/mine", 0o6755)
    identity = [str(os.getuid()), str(os.getgid())]
    ask = "import os; print(os.geteuid(), os.getegid())"
    for program in ("/tmp/mine",):
        run = subprocess.run([program, "-I", "-S", "-c", ask], capture_output=True, text=True, check=False)
        told.append("ourselves" if run.stdout.split() == identity else f"GOT {run}")
    told.append(attempt(os.chown, "/tmp/mine", 0, 0))
    for program in ("/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount"):
        if os.path.exists(program):
            arguments = {"su": ["-c", "id -u"], "passwd": ["-d", "root"], "mount": ["-t", "tmpfs", "none", "/tmp"]}[
                program.rsplit("/", 1)[1]
            ]
            run = subprocess.run(
                [program, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
            )
            told.append("failed" if run.returncode != 0 else f"GOT {run}")
    os.unlink("/tmp/mine")
    return told


def capabilities_of_files(given):
    """CAP_SETUID and more, as an extended attribute of a program of its own."""
    with open("/tmp/capable", "wb") as file:
        file.write(b"#!/bin/sh\n")
    words = (0x0200_0001).to_bytes(4, "little") + b"\xff\xff\xff\xff\0\0\0\0" * 2
    return [
        attempt(os.setxattr, "/tmp/capable", "security.capability", words),
        attempt(os.setxattr, "/tmp/capable", "trusted.x", b"y"),
    ]


def files_by_handle(given):
    """The way of the old container escape: inode 2 of whatever lies behind /usr."""
    return [
        call((304, 265), 3, b"\x08\0\0\0\1\0\0\0\2\0\0\0\0\0\0\0", 0),
        call((303, 264), -100, b"/usr", b"\0" * 128, b"\0" * 8, 0),
    ]


def links_to_the_host(given):
    """A link leads no further than its reader could go."""
    told = []
    for number, path in enumerate(given["host_files"]):
        link = f"/tmp/link{number}"
        os.symlink(path, link)
        told.append(attempt(_read, link))
        os.unlink(link)
    return [*told, attempt(os.link, "/usr/bin/env", "/tmp/hard"), attempt(os.rename, "/usr/bin/env", "/tmp/env")]


def scratch_of_another(given):
    return ["nothing"] if not [name for name in os.listdir("/tmp") if name.startswith("victim")] else ["GOT scratch"]
