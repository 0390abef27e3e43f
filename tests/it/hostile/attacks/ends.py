"""Attacks that may end their own instance, and nothing else: forged frames, ways to die, objects that lie."""

import ctypes
import json
import mmap
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time


def _socket():
    """The worker's end: the only socket that is no listener of its own."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                one = socket.socket(fileno=os.dup(fd))
                one.getpeername()
                if one.family == socket.AF_UNIX and one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[
                    :4
                ] == bytes(4):
                    one.setblocking(True)
                    return one
        except OSError:
            continue
    raise LookupError("no socket")


def _frame(kind, id, body):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return struct.pack(">IBQ", 9 + len(body), kind, id) + body


def _say(*frames):
    one = _socket()
    for frame in frames:
        one.sendall(frame)
    time.sleep(0.2)
    return "said"


RESULT = {
    "cpu_ms": 1,
    "memory_peak_mb": 1,
    "handler_ms": 1,
    "tokens": None,
    "metrics": {},
    "log_dropped": 0,
    "output": "forged",
}


def length_too_short(input, context):
    return _say(struct.pack(">IBQ", 8, 67, 1))


def length_of_four_gigabytes(input, context):
    return _say(b"\xff\xff\xff\xff" + b"x" * 100)


def frame_that_never_ends(input, context):
    one = _socket()
    one.sendall(struct.pack(">IBQ", 16 << 20, 67, 1))
    while True:
        one.sendall(b" " * 1024)
        time.sleep(0.05)


def kind_unknown(input, context):
    return _say(_frame(1, 1, {}), _frame(255, 1, {}))


def greeting_twice(input, context):
    return _say(_frame(65, 0, {"entrypoint_kind": "asgi", "import_ms": 0, "init_ms": 0, "python": "3"}))


def failure_after_the_greeting(input, context):
    return _say(
        _frame(
            66, 0, {"code": "INIT_FAILED", "phase": "init", "message": "x", "exception_type": None, "traceback": None}
        )
    )


def body_that_is_no_json(input, context):
    return _say(_frame(67, 1, b'{"output": '))


def body_that_is_deep(input, context):
    return _say(*(_frame(67, id, b'{"output":' + b"[" * 100_000 + b"]" * 100_000 + b"}") for id in range(64)))


def results_for_everybody(input, context):
    """Numbers that are not its own: of calls that it does not have."""
    return _say(*(_frame(67, id, RESULT) for id in (2**63, 2**64 - 1, *range(1000, 3000))))


def errors_for_everybody(input, context):
    error = {
        "code": "HANDLER_TIMEOUT",
        "phase": "handler",
        "message": "\x1b[2Jx",
        "exception_type": None,
        "traceback": None,
    }
    return _say(*(_frame(68, id, error) for id in range(1000, 2000)))


def lines_for_everybody(input, context):
    lines = {"lines": [[9e300, "ERROR", f"\x1b]0;{input['mark']}\x07\x1b[31m", {"execution_id": input["other"]}]] * 50}
    return _say(*(_frame(69, id, lines) for id in (2**64 - 1, *range(1000, 1200))))


def lines_from_the_year_9999(input, context):
    return _say(_frame(69, 0, {"lines": [[253402300799000, "INFO", "late", {"x": "y" * 1_000_000}]] * 10}))


def pieces_that_nobody_asked_for(input, context):
    return _say(*(_frame(70, id, {"data": "x" * 1000}) for id in range(2000)))


def progress_of_nothing(input, context):
    return _say(_frame(71, 1, b'{"percent": 1e999}'))


def pongs_without_a_ping(input, context):
    return _say(*(_frame(72, id, {"busy": True, "status": 200}) for id in range(20_000)))


def figures_without_end(input, context):
    big = {
        **RESULT,
        "cpu_ms": 1e308,
        "memory_peak_mb": 1e308,
        "tokens": 2**63 - 1,
        "metrics": {"m": 1e308},
        "log_dropped": 2**64 - 1,
    }
    return _say(*(_frame(67, id, big) for id in range(1, 200)))


def text_that_no_table_holds(input, context):
    return {"nul": "\0", "surrogate": "\ud800", "bidi": "\u202e", "escape": "\x1b[2J"}


def descriptors_over_the_socket(input, context):
    one = _socket()
    null = os.open("/dev/null", os.O_RDONLY)
    for _ in range(50):
        socket.send_fds(one, [_frame(71, 1, {"percent": 1})], [null] * 200)
    os.close(null)
    return "said"


def socket_shut(input, context):
    _socket().shutdown(socket.SHUT_RDWR)
    time.sleep(0.2)
    return "said"


def socket_half_shut(input, context):
    _socket().shutdown(socket.SHUT_WR)
    time.sleep(0.2)
    return "said"


def socket_read_by_another(input, context):
    """Takes what the executor says out of the worker's mouth."""
    one = _socket()
    threading.Thread(target=lambda: [one.recv(65536) for _ in range(100)], daemon=True).start()
    return "said"


def leaves_at_once(input, context):
    os._exit(0)


def leaves_in_words(input, context):
    sys.exit(3)


def kills_itself(input, context):
    os.kill(os.getpid(), signal.SIGKILL)


def kills_everybody(input, context):
    """Everybody that it can see: itself is spared, the first process is out of reach, and there is nobody else."""
    os.kill(-1, signal.SIGKILL)


def stops_itself(input, context):
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)


def aborts(input, context):
    os.abort()


def reads_nowhere(input, context):
    ctypes.string_at(0)


def falls_off_the_stack(input, context):
    sys.setrecursionlimit(1 << 30)

    class Deep:
        def __getattr__(self, name):
            return getattr(self, name + "x")

    return Deep().x


def calls_by_another_table(input, context):
    """int 0x80: what is 32 bit has numbers of its own. 20 is getpid there, and writev here."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\0\0\0\xcd\x80\xc3")
    entry = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return f"GOT {entry()}"


def becomes_another_program(input, context):
    os.execv("/bin/sh", ["sh", "-c", "while :; do :; done"])


def leaves_children_behind(input, context):
    for _ in range(5):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
                while True:
                    time.sleep(60)
            os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def ignores_every_signal(input, context):
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        time.sleep(60)


def rains_signals(input, context):
    """From a thread, where no handler of its own can be set: what the signal does is what it always does."""
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        os.kill(os.getpid(), signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return "done"


class Lies(Exception):
    def __str__(self):
        raise ValueError("no words")

    __repr__ = __str__


def raises_what_has_no_words(input, context):
    raise Lies


def raises_a_hundred_megabytes(input, context):
    raise RuntimeError("x" * 100_000_000)


def raises_what_never_ends(input, context):
    class Endless(Exception):
        def __str__(self):
            while True:
                time.sleep(1)
            return ""

    raise Endless


def raises_out_of_the_hierarchy(input, context):
    class Base(BaseException):
        pass

    raise Base("\x1b[2J\x1b]0;owned\x07")


def raises_a_long_story(input, context):
    error = None
    for number in range(20_000):
        latest = ValueError(number)
        latest.__cause__ = error
        error = latest
    raise error


def raises_itself(input, context):
    one, two = ValueError(1), ValueError(2)
    one.__context__, two.__context__ = two, one
    raise one


def returns_a_pickle(input, context):
    class Pickle:
        def __reduce__(self):
            return os.system, ("touch /tmp/owned",)

    return Pickle()


def returns_what_changes(input, context):
    class Changes(dict):
        def items(self):
            raise KeyError("\x1b[31m")

        def __iter__(self):
            while True:
                yield "x"

    return Changes(a=1)


def returns_itself(input, context):
    own = []
    own.append(own)
    return own


def returns_no_number(input, context):
    return {"nan": float("nan"), "inf": float("inf"), "long": 10**4000}


def returns_too_much(input, context):
    return "x" * (40 << 20)


def returns_a_depth(input, context):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    return deep


def yields_for_ever(input, context):
    def forever():
        while True:
            yield "x" * 100_000

    return forever()


def changes_the_worker(input, context):
    """The worker is Python like itself, so what it does to it is to itself."""
    worker = sys.modules["__main__"]
    for name in list(vars(worker)):
        if not name.startswith("__"):
            setattr(worker, name, None)
    json.dumps = None
    return "done"


def changes_the_language(input, context):
    import builtins

    for name in ("len", "isinstance", "str", "Exception", "print", "open"):
        delattr(builtins, name)
    return "done"


def traces_every_line(input, context):
    def trace(*_):
        raise RuntimeError("traced")

    threading.settrace(trace)
    sys.settrace(trace)
    return "done"


def says_escapes(input, context):
    print(f"\x1b[2J\x1b]0;{input['mark']}\x07\r\x9b31m\u202e")
    os.write(1, b"\x1b[2J\xff\xfe\0\r\n")
    sys.stderr.write(f'\n2026-01-01T00:00:00Z ERROR forged {{"mark":"{input["mark"]}"}}\n')
    context.log(f"\x1b[5m{input['mark']}", mark="\x1b[6m")
    return "done"


def says_a_million_lines(input, context):
    for number in range(1_000_000):
        print(number)
    return "done"


def says_it_all_on_the_descriptor(input, context):
    block = b"y\n" * 32768
    for _ in range(1000):
        os.write(2, block)
    return "done"


def starts_shells(input, context):
    return subprocess.run(["/bin/sh", "-c", "kill -9 -1; kill -9 $PPID"], check=False).returncode


ENDS = {name: one for name, one in globals().items() if callable(one) and getattr(one, "__module__", "") == __name__}


def handler(input, context):
    if input.get("list"):
        return sorted(
            name for name in ENDS if not name.startswith("_") and name != "handler" and not isinstance(ENDS[name], type)
        )
    if input.get("calm"):
        return input
    return ENDS[input["attack"]](input, context)
