"""Other processes, and what ours was given."""

import os
import signal
import socket
import sys

from tried import attempt


def processes_are_seen(given):
    """Its own, few, and none of the host's numbers."""
    seen = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    return "own" if seen[:2] == [1, 2] and len(seen) <= 3 else f"GOT {seen}"


def processes_of_the_host_are_signalled(given):
    signals = (0, signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP)
    return [attempt(os.kill, pid, number) for pid in given["pids"] for number in signals] + [
        attempt(os.killpg, pid, 9) for pid in given["pids"]
    ]


def processes_of_the_host_are_opened(given):
    return [attempt(os.pidfd_open, pid) for pid in given["pids"]] + [
        attempt(os.listdir, f"/proc/{pid}") for pid in given["pids"]
    ]


def processes_of_the_host_are_renamed(given):
    return [attempt(os.setpriority, os.PRIO_PROCESS, pid, 19) for pid in given["pids"]] + [
        attempt(os.sched_getaffinity, pid) for pid in given["pids"]
    ]


def the_first_process_is_killed(given):
    """Its signals from inside do nothing, SIGKILL and SIGSTOP included."""
    for number in (
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGTERM,
        signal.SIGHUP,
        signal.SIGSEGV,
        signal.SIGCHLD,
        signal.SIGRTMIN,
    ):
        os.kill(1, number)
    with open("/proc/1/status") as status:
        state = next(line.split()[1] for line in status if line.startswith("State"))
    return "lives" if state in "SRD" else f"GOT {state}"


def environment_of_others(given):
    """Of every process that can be read."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            for what in ("environ", "cmdline"):
                try:
                    with open(f"/proc/{name}/{what}", "rb") as file:
                        if given["secret"].encode() in file.read():
                            found.append(f"GOT /proc/{name}/{what}")
                except OSError:
                    pass
    return found or "nothing"


def variables_of_the_installation(given):
    mine = [name for name in os.environ if name.startswith(("PHALANX", "CARGO", "NEXTEST", "AWS", "DATABASE"))]
    return f"GOT {mine}" if mine else "nothing"


def descriptors_that_were_left_open(given):
    """Sockets are ours: the worker's own. Everything else must lead into the sandbox."""
    found = []
    for fd in range(256):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if not target.startswith(
            ("/dev/null", "/agent/", "pipe:", "socket:", "anon_inode:", "/proc/", "/usr/", "/memfd:")
        ):
            found.append(f"GOT {target}")
    return found or "own"


def peers_of_the_socket(given):
    """Who is at the other end has no number in here, and no name."""
    told = []
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            with socket.socket(fileno=os.dup(fd)) as one:
                if one.family == socket.AF_UNIX:
                    peer = int.from_bytes(one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
                    told.append("nobody" if peer == 0 or peer <= 3 else f"GOT {peer}")
        except OSError:
            continue
    return told or "nothing"


def everything_of_its_own_user(given):
    """A signal to everybody reaches what is in the sandbox, of which there is itself and the first process."""
    child = os.fork()
    if child == 0:
        attempt(os.kill, -1, 0)
        os._exit(0)
    os.waitpid(child, 0)
    return attempt(os.setpriority, os.PRIO_USER, os.getuid(), 19).replace("GOT None", "own")
