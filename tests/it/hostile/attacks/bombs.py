"""Attacks on what all share: processes, memory, disks, descriptors, time. Each says how far it came."""

import errno
import mmap
import os
import socket
import subprocess
import threading
import time

FOR_S = 2.0


def _until_it_fails(step, most):
    """How often it went well, and why no more."""
    count = 0
    end = time.monotonic() + FOR_S
    try:
        while count < most and time.monotonic() < end:
            step(count)
            count += 1
    except (OSError, MemoryError, RuntimeError, ValueError) as error:
        return {"n": count, "why": errno.errorcode.get(getattr(error, "errno", None) or 0, type(error).__name__)}
    return {"n": count, "why": "enough"}


def _clear():
    """What one leaves behind is not to be what stops the next."""
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass
    for thread in threading.enumerate():
        if thread.name.startswith("bomb"):
            thread.join()


def _spin(seconds=FOR_S):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def forks():
    """Children that spin, so that nobody forgets them."""

    def fork(_):
        if os.fork() == 0:
            _spin()
            os._exit(0)

    told = _until_it_fails(fork, 10_000)
    _spin(0.5)
    return told


def forks_of_forks():
    end = time.monotonic() + FOR_S
    if os.fork() == 0:
        while time.monotonic() < end:
            try:
                os.fork()
            except OSError:
                time.sleep(0.001)
        os._exit(0)
    time.sleep(FOR_S)
    return {"n": len([name for name in os.listdir("/proc") if name.isdigit()]), "why": "enough"}


def threads():
    def start(count):
        threading.Thread(target=time.sleep, args=(FOR_S,), name=f"bomb-{count}", daemon=True).start()

    return _until_it_fails(start, 10_000)


def zombies():
    def fork(_):
        if os.fork() == 0:
            os._exit(0)

    return _until_it_fails(fork, 10_000)


def programs():
    """As fast as it can: fork, exec, reap."""
    return _until_it_fails(lambda _: subprocess.run(["/bin/true"], check=True), 100_000)


def spins():
    """On every core, in threads and in children."""
    for _ in range(8):
        if os.fork() == 0:
            _spin(FOR_S + 1)
            os._exit(0)
    _spin()
    return {"n": 8, "why": "enough"}


def yields():
    """System calls that do nothing but take the kernel's time."""
    for _ in range(4):
        if os.fork() == 0:
            end = time.monotonic() + FOR_S
            while time.monotonic() < end:
                for _ in range(1000):
                    os.sched_yield()
            os._exit(0)
    time.sleep(FOR_S)
    return {"n": 4, "why": "enough"}


def memory():
    kept = []
    return _until_it_fails(lambda _: kept.append(bytearray(b"x" * (8 << 20))), 10_000)


def memory_of_children():
    """How many kept what they took for as long as the others tried."""
    children = []

    def fork(_):
        child = os.fork()
        if child == 0:
            kept = bytearray(b"x" * (32 << 20))
            time.sleep(FOR_S)
            os._exit(len(kept) & 1)
        children.append(child)

    told = _until_it_fails(fork, 64)
    ends = [os.waitpid(child, 0)[1] for child in children]
    return {"n": ends.count(0), "why": told["why"]}


def memory_that_is_shared():
    kept = []

    def more(_):
        area = mmap.mmap(-1, 8 << 20)
        area.write(b"x" * (8 << 20))
        kept.append(area)

    return _until_it_fails(more, 1000)


def memory_of_files_without_names():
    kept = []

    def more(count):
        fd = os.memfd_create(str(count))
        kept.append(fd)
        os.write(fd, b"x" * (8 << 20))

    return _until_it_fails(more, 1000)


def memory_of_pipes():
    import fcntl

    kept = []

    def more(_):
        read, write = os.pipe()
        kept.append((read, write))
        os.set_blocking(write, False)
        try:
            fcntl.fcntl(write, 1031, 1 << 20)
        except OSError:
            pass
        os.write(write, b"x" * (1 << 20))

    return _until_it_fails(more, 10_000)


def memory_of_sockets():
    kept = []

    def more(_):
        one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        kept.append((one, two))
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
        try:
            for _ in range(200):
                one.send(b"x" * 60_000)
        except BlockingIOError:
            pass

    return _until_it_fails(more, 10_000)


def memory_of_names():
    """The kernel remembers names that do not exist."""
    return _until_it_fails(lambda count: [os.path.exists(f"/tmp/{count}-{n}-{'x' * 200}") for n in range(1000)], 10_000)


def disk():
    with open("/tmp/fill", "wb", 0) as file:
        told = _until_it_fails(lambda _: file.write(b"x" * (1 << 20)), 10_000)
    os.unlink("/tmp/fill")
    return told


def disk_by_allocation():
    fd = os.open("/tmp/fill", os.O_RDWR | os.O_CREAT)
    told = _until_it_fails(lambda count: os.posix_fallocate(fd, count << 20, 1 << 20), 10_000)
    os.unlink("/tmp/fill")
    return told


def disk_without_a_name():
    kept = []

    def more(count):
        fd = os.open("/tmp/gone", os.O_RDWR | os.O_CREAT)
        os.unlink("/tmp/gone")
        kept.append(fd)
        os.write(fd, b"x" * (1 << 20))

    return _until_it_fails(more, 4000)


def shared_memory():
    with open("/dev/shm/fill", "wb", 0) as file:
        told = _until_it_fails(lambda _: file.write(b"x" * (1 << 20)), 10_000)
    os.unlink("/dev/shm/fill")
    return told


def files():
    os.mkdir("/tmp/files")
    return _until_it_fails(lambda count: os.close(os.open(f"/tmp/files/{count}", os.O_CREAT | os.O_WRONLY)), 1_000_000)


def folders_in_folders():
    os.mkdir("/tmp/deep")
    fd = os.open("/tmp/deep", os.O_RDONLY)

    def more(_):
        nonlocal fd
        os.mkdir("d", dir_fd=fd)
        deeper = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = deeper

    return _until_it_fails(more, 1_000_000)


def attributes():
    """Names and values beside a file's content."""
    open("/tmp/attributes", "wb").close()
    return _until_it_fails(lambda count: os.setxattr("/tmp/attributes", f"user.{count}", b"x" * 60_000), 100_000)


def descriptors():
    kept = []
    told = _until_it_fails(lambda _: kept.append(os.open("/dev/null", os.O_RDONLY)), 1_000_000)
    for fd in kept:
        os.close(fd)
    return told


def timers():
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    number = {"x86_64": 222}.get(os.uname().machine, 107)

    def more(_):
        timer = ctypes.c_int()
        if libc.syscall(number, 1, None, ctypes.byref(timer)) != 0:
            raise OSError(ctypes.get_errno(), "timer_create")

    return _until_it_fails(more, 1_000_000)


def watches():
    """Descriptors that watch descriptors."""
    import select

    kept = [select.epoll()]

    def more(_):
        read, write = os.pipe()
        kept.append((read, write))
        kept[0].register(read, select.EPOLLIN)

    told = _until_it_fails(more, 1_000_000)
    for pair in kept[1:]:
        os.close(pair[0])
        os.close(pair[1])
    return told


def proxy():
    """As many connections as it gets, and none of them says what it wants."""
    kept = []

    def more(_):
        one = socket.create_connection(("127.0.0.1", 3128), 0.5)
        one.sendall(b"CONNECT exam")
        kept.append(one)

    told = _until_it_fails(more, 3000)
    for one in kept:
        one.close()
    return told


def proxy_by_names():
    """Names that nobody has: each look-up holds a thread of whoever resolves it."""
    kept = []

    def more(count):
        one = socket.create_connection(("127.0.0.1", 3128), 0.5)
        one.sendall(f"CONNECT {count}-{os.urandom(4).hex()}.invalid:443 HTTP/1.1\r\n\r\n".encode())
        kept.append(one)

    told = _until_it_fails(more, 500)
    for one in kept:
        one.close()
    return told


def words():
    """On the descriptors themselves, past whatever counts lines."""
    block = b"w" * 65_536 + b"\n"
    return _until_it_fails(lambda _: [os.write(1, block), os.write(2, block)], 1_000_000)


def pages():
    """Everything that Debian brought, read over and over, so that others find the cache cold."""
    paths = [os.path.join(folder, name) for folder, _, names in os.walk("/usr/lib") for name in names][:20_000]

    def read(count):
        try:
            with open(paths[count % len(paths)], "rb", 0) as file:
                file.read(1 << 20)
        except OSError:
            pass

    return _until_it_fails(read, 1_000_000)


BOMBS = {name: one for name, one in globals().items() if callable(one) and getattr(one, "__module__", "") == __name__}


def handler(input):
    if input.get("list"):
        return sorted(name for name in BOMBS if not name.startswith("_"))
    if input.get("calm"):
        return input
    try:
        return BOMBS[input["attack"]]()
    finally:
        _clear()
