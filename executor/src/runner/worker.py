"""The agent's side of one instance: imports the agent, answers calls, hands over logs. Standard library only.

In: frames on file descriptor 3 (docs/worker-protocol.md is binding): INIT first, then CALL, CANCEL and PING.
Out: READY or FAILED, then for each call its LOG, CHUNK and PROGRESS frames and exactly one RESULT or ERROR.

Threads. The main thread imports the agent, reads the socket, and runs what is quick: a sync handler is called right
where its frame was read, an async one runs on the main thread's event loop. One `Attendant` thread does what must not
depend on the agent: it notices that the main thread is stuck in a handler and reads in its place, so that CANCEL, PING
and other calls are heard; it empties the pipes behind fd 1 and 2; it sends log lines that have waited. Sync handlers
that have shown themselves slow run in a pool of at most `concurrency` threads.

Start-up is part of a cold call's latency, so everything that most agents do not need (asyncio, inspect, json, logging,
threading, traceback) is imported where it is first needed. The agent's frameworks are never imported from here: they
are recognised in `sys.modules` once the agent has imported them.

A template (INIT with `template`) is a worker that answers no call: it imports the agent, handles the warm-up input if
there is one, looks whether it can be forked safely, and forks on FORK. It has one thread, no event loop and no pipe;
what is forked starts its own when ADOPT comes, and is then a worker like any other.
"""

from __future__ import annotations

import io
import os
import sys
import time
from _contextvars import ContextVar, copy_context
from _json import encode_basestring, make_encoder, make_scanner
from _signal import SIGINT, SIGURG, pthread_kill  # type: ignore[import-not-found]
from _signal import signal as set_signal
from _struct import Struct
from _thread import RLock, allocate_lock, get_ident, start_new_thread
from codecs import getincrementaldecoder
from collections import deque
from select import POLLIN, poll
from time import perf_counter, thread_time

TYPE_CHECKING = False
if TYPE_CHECKING:  # `typing` costs milliseconds at start; type checkers read this branch all the same
    import asyncio
    from collections.abc import AsyncIterator, Callable, Iterable
    from types import CodeType, FrameType, ModuleType, TracebackType
    from typing import Any, NoReturn

INIT, CALL, CANCEL, PING, FORK, ADOPT = 1, 2, 3, 4, 5, 6
READY, FAILED, RESULT, ERROR, LOG, CHUNK, PROGRESS, PONG = 65, 66, 67, 68, 69, 70, 71, 72

HEADER = Struct(">IBQ")
READ_BYTES = 65_536  # one read; a larger buffer would be mapped and unmapped by malloc each time
BACKLOG_BYTES = 1 << 20  # what may wait for the socket before a sender waits itself
QUICK_SECONDS = 0.0005  # a sync handler below this may run on the reading thread
QUICK_STREAK = 8  # so many quick calls in a row make a handler quick,
FORGIVEN_SECONDS = 0.01  # and more of them outweigh one of up to this: any call may lose its processor for a while
STREAK_MOST, STREAK_COST = 64, 16  # so many are remembered, and so many does that one take
FLUSH_ROUNDS = 8  # how often one thread writes what others have posted meanwhile
FLUSH_SECONDS = 0.0002  # results of a pipelined batch wait at most this long for each other
TICK_MS = 1  # how often the attendant looks whether the main thread is stuck in a sync handler
LOOP_TICK_SECONDS = 0.02  # how long an event loop may leave the socket unread
DENSE_BEATS = 4  # over that in a tick (a read and a call are one each), the attendant stays awake for the next
LOG_LINES, LOG_SECONDS, LOG_BATCH_BYTES = 64, 0.05, 262_144
LOG_WINDOW_SECONDS = 60.0  # the instance's own lines are bounded per window, an execution's for good
MEMORY_SECONDS = 0.01  # peaks are read from the kernel at most this often
MESSAGE_BYTES, TRACEBACK_BYTES, CONTEXT_BYTES = 8_192, 32_768, 8_192
METRICS, METRIC_NAME = 64, 128
SHUTDOWN_SECONDS = 1.0  # what an ASGI lifespan gets after end of file
PROBE_SECONDS = 10.0
LEVELS = {"DEBUG": 10, "INFO": 20, "WARN": 30, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
OWN_FILE = (lambda: None).__code__.co_filename
COROUTINE, GENERATOR, ASYNC_GENERATOR, VARARGS = 0x80, 0x20, 0x200, 0x04  # code flags, as in `inspect`
PLAIN = frozenset((type(None), bool, int, float, str, list, dict, tuple))

_current: ContextVar[Call | None] = ContextVar("phalanx_call", default=None)


class Failure(Exception):
    """An outcome that the worker itself decided on, with its protocol code and phase."""

    def __init__(self, code: str, phase: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.phase = phase


class Interrupted(BaseException):
    """Raised inside a sync handler whose call was cancelled; so not an Exception: `except Exception` lets it by."""


class Raw:
    """Output that is JSON text already."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


# ---------------------------------------------------------------------------------------------------------------------
# JSON. The C scanner and encoder are used directly: the `json` package would import `re` and cost as much as all else.


class _Scan:
    strict = False
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}

    @staticmethod
    def parse_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not JSON")


_scan = make_scanner(_Scan())  # type: ignore[arg-type, unused-ignore]


def parse(text: str) -> Any:
    """Strict JSON text to Python; raises ValueError (or RecursionError when it is nested too deeply)."""
    text = text.strip(" \t\r\n")
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        raise ValueError("not JSON") from None
    if end != len(text):
        raise ValueError("more than one JSON value")
    return value


def plain(value: Any) -> Any:
    """What the encoder calls for a type that JSON does not have: the obvious JSON of it, or TypeError."""
    dump = getattr(value, "model_dump", None)
    if dump is not None and not isinstance(value, type):
        return dump(mode="json")
    fields = getattr(type(value), "__dataclass_fields__", None)
    if fields is not None:
        return {name: getattr(value, name) for name in fields}
    convert = getattr(value, "to_dict", None)
    if convert is not None and not isinstance(value, type):
        return convert()
    if isinstance(value, (set, frozenset)):
        try:
            return sorted(value)
        except TypeError:
            return list(value)
    home = type(value).__module__.partition(".")[0]
    kinds = {cls.__name__ for cls in type(value).__mro__}
    if "Enum" in kinds:
        return value.value
    if home == "datetime" or kinds & {"datetime", "date", "time"}:
        if hasattr(value, "isoformat"):
            return value.isoformat()
        if hasattr(value, "total_seconds"):
            return value.total_seconds()
    if kinds & {"UUID", "Decimal", "PurePath"}:
        return str(value)
    if home == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, deque):
        return list(value)
    if hasattr(value, "keys") and hasattr(value, "__getitem__") and not isinstance(value, type):
        return {key: value[key] for key in value.keys()}  # noqa: SIM118 (a mapping that is no dict)
    raise TypeError(f"{type_name(value)} is not serializable as JSON")


# No marker table: it would be shared by threads. A circular value ends in RecursionError, and `fault` finds where.
_encode = make_encoder(None, plain, encode_basestring, None, ":", ",", False, False, False)


def dump(value: Any) -> str:
    """Python to JSON text, unchecked for size and surrogates."""
    return "".join(_encode(value, 0))


def serialize(value: Any, bound: int) -> bytes:
    """A handler's output as JSON bytes; refuses what is no JSON, and what is over `bound` before copying it."""
    try:
        if type(value) is Raw:
            text = value.text
        else:
            if too_large(value, bound):
                raise Failure("OUTPUT_TOO_LARGE", "serialize", f"the output is larger than the bound of {bound} bytes")
            text = encode_basestring(value) if type(value) is str else "".join(_encode(value, 0))
        if len(text) > bound:
            raise Failure("OUTPUT_TOO_LARGE", "serialize", size_message(len(text), bound))
        body = text.encode()
    except (Failure, MemoryError):
        raise
    except BaseException as error:
        found = fault(value) or f"{type_name(error)}: {safe_text(error)}"
        raise Failure("OUTPUT_NOT_SERIALIZABLE", "serialize", cut(f"the output is not JSON: {found}", 2048)) from error
    if len(body) > bound:
        raise Failure("OUTPUT_TOO_LARGE", "serialize", size_message(len(body), bound))
    return body


def size_message(size: int, bound: int) -> str:
    return f"the output is {size} bytes of JSON, the bound is {bound}"


def too_large(value: Any, bound: int) -> bool:
    """A lower bound of the JSON's size, counted without building it; looks closer only where something looks large."""
    kind = type(value)
    if kind is str:
        return len(value) > bound
    if kind is list or kind is tuple:
        if len(value) <= 64 and not any(type(item) in (str, list, dict) and len(item) > 512 for item in value):
            return False
    elif kind is dict:
        if len(value) <= 64 and not any(type(v) in (str, list, dict) and len(v) > 512 for v in value.values()):
            return False
    else:
        return False
    size = 0
    todo: list[Any] = [value]
    while todo:
        item = todo.pop()
        kind = type(item)
        if kind is str:
            size += len(item) + 2
        elif kind is list or kind is tuple:
            size += 2 * len(item)
            if size <= bound:
                todo.extend(item)
        elif kind is dict:
            size += 5 * len(item)
            if size <= bound:
                todo.extend(item.values())
        if size > bound:
            return True
    return False


def fault(value: Any) -> str | None:
    """Why and where a value is not JSON, as a sentence with a path such as `output.items[3].price`."""
    above: set[int] = set()

    def look(item: Any, path: str, depth: int) -> str | None:
        kind = type(item)
        if kind is str:
            return surrogate(item, path)
        if kind is float:
            return f"{path} is {item!r}, which JSON does not have" if not abs(item) < INF else None
        if item is None or kind in (bool, int):
            return None
        if id(item) in above:
            return f"{path} is circular: it contains itself"
        if depth > 400:
            return f"{path[:200]}… is nested too deeply"
        above.add(id(item))
        try:
            return inside(item, path, depth)
        finally:
            above.discard(id(item))

    def inside(item: Any, path: str, depth: int) -> str | None:
        if isinstance(item, dict):
            for key, child in item.items():
                if not (key is None or isinstance(key, (str, int, float))):
                    return f"{path} has a key of type {type_name(key)}; keys must be strings"
                found = surrogate(key, path) if isinstance(key, str) else None
                found = found or look(child, f"{path}.{key}"[:400], depth + 1)
                if found:
                    return found
            return None
        if isinstance(item, (list, tuple)):
            for index, child in enumerate(item):
                found = look(child, f"{path}[{index}]", depth + 1)
                if found:
                    return found
            return None
        if isinstance(item, (str, int, float)):
            return None
        if isinstance(item, (bytes, bytearray, memoryview)):
            return f"{path} is {type_name(item)}: decode it, or send it as base64 text"
        try:
            return look(plain(item), path, depth + 1)
        except Exception as error:
            return f"{path} is a {type_name(item)}: {safe_text(error)}"

    try:
        return look(value, "output", 0)
    except BaseException:
        return None


INF = float("inf")


def surrogate(text: str, path: str) -> str | None:
    try:
        text.encode()
        return None
    except UnicodeEncodeError as error:
        return f"{path} holds a lone surrogate (U+{ord(text[error.start]):04X} at character {error.start})"


# ---------------------------------------------------------------------------------------------------------------------
# Words about errors. Nothing here may raise, whatever an exception's own methods do.


def type_name(value: Any) -> str:
    try:
        cls = type(value)
        home, name = cls.__module__, cls.__qualname__
        full = name if home in ("builtins", "__main__") else f"{home}.{name}"
        return clean(full)[:200]
    except BaseException:
        return "an unnamed type"


def safe_text(error: BaseException) -> str:
    try:
        return cut(str(error), MESSAGE_BYTES)
    except BaseException as second:
        return f"<{type_name(error)} whose str() raised {type_name(second)}>"


def clean(text: str) -> str:
    """Text that UTF-8 can carry: lone surrogates become backslash escapes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def cut(text: str, bound: int) -> str:
    """At most about `bound` bytes of UTF-8, the middle left out: the head says what, the tail says why."""
    if len(text) <= bound and text.isascii():
        return text
    over = len(text)
    text = clean(text) if over <= bound else clean(text[: bound * 3 // 4]) + "\0" + clean(text[-(bound // 4) :])
    body = text.encode()
    if over > bound or len(body) > bound:
        head = body[: bound * 3 // 4 - 32].decode("utf-8", "ignore").partition("\0")[0]
        tail = body[-(bound // 4 - 32) :].decode("utf-8", "ignore").rpartition("\0")[2]
        return f"{head}\n… [cut, {over} characters in all] …\n{tail}"
    return text


def agent_frames(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that is not the worker's."""
    first = trace
    while first is not None and first.tb_frame.f_code.co_filename == OWN_FILE:
        first = first.tb_next
    return first


def format_traceback(error: BaseException) -> str:
    try:
        import traceback

        links, link = 0, error.__cause__ or error.__context__
        while link is not None and links < 20:
            links, link = links + 1, link.__cause__ or link.__context__
        report = traceback.TracebackException(type(error), error, agent_frames(error.__traceback__), compact=True)
        own = [report]
        while own:  # the worker's frames lead the causes' tracebacks as well
            one = own.pop()
            while one.stack and one.stack[0].filename == OWN_FILE:
                del one.stack[0]
            own.extend(next_ for next_ in (one.__cause__, one.__context__) if next_ is not None and links < 20)
        return cut("".join(report.format(chain=links < 20)), TRACEBACK_BYTES)
    except BaseException:
        return cut(bare_traceback(error), TRACEBACK_BYTES)


def bare_traceback(error: BaseException) -> str:
    """For an error that cannot even be formatted: where, and of what type."""
    lines = ["Traceback (most recent call last):"]
    trace = agent_frames(error.__traceback__)
    while trace is not None and len(lines) < 100:
        code: CodeType = trace.tb_frame.f_code
        lines.append(f'  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_name}')
        trace = trace.tb_next
    lines.append(f"{type_name(error)}: {safe_text(error)}")
    return clean("\n".join(lines))


def error_object(error: BaseException, code: str, phase: str) -> str:
    """The error object's members, without the braces. A Failure is the worker's own finding and has no traceback."""
    kind: str | None = type_name(error)
    message: str = safe_text(error)
    trace: str | None = None
    if isinstance(error, Failure):
        code, phase = (code if code == "INIT_FAILED" else error.code), (phase if code == "INIT_FAILED" else error.phase)
        cause = error.__cause__
        kind = type_name(cause) if cause is not None else None
        trace = format_traceback(cause) if cause is not None else None
    else:
        trace = format_traceback(error)
    if not message and kind:
        message = kind
    return dump({"code": code, "phase": phase, "message": message, "exception_type": kind, "traceback": trace})[1:-1]


# ---------------------------------------------------------------------------------------------------------------------
# The socket.


class Wire:
    """Frames out, by many threads: whoever finds the socket free writes all that waits, so that writes coalesce."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.queue: deque[bytes] = deque()
        self.wanted = 0  # cancellers that want the lock
        self.waiting = 0  # bytes, counted without a lock: a bound on memory, not an exact number
        self.lock = allocate_lock()
        self.on_rest: Callable[[], None] = lambda: None

    def post(self, kind: int, id_: int, body: bytes) -> None:
        self.queue.append(HEADER.pack(9 + len(body), kind, id_) + body)
        self.waiting += len(body)

    def flush(self) -> None:
        for _ in range(FLUSH_ROUNDS):
            if not self.queue:
                return
            while self.wanted:
                time.sleep(0.0005)  # locks are not fair: without this, busy writers would starve whoever cancels
            while not self.lock.acquire(False):
                if self.waiting <= BACKLOG_BYTES:
                    return  # the thread that holds it looks again before it leaves
                time.sleep(0.001)  # not a blocking acquire: an interrupt would be met right after it, and leak the lock
            try:
                self.write()
            finally:
                self.lock.release()
        if self.queue:
            self.on_rest()  # others post faster than we write: do not be their writer for ever

    def write(self) -> None:
        queue = self.queue
        parts = []
        try:
            while True:
                parts.append(queue.popleft())
        except IndexError:
            pass
        self.waiting = 0
        data: bytes | memoryview = parts[0] if len(parts) == 1 else b"".join(parts)
        try:
            sent = os.write(self.fd, data)
            while sent < len(data):
                data = memoryview(data)[sent:]
                sent = os.write(self.fd, data)
        except OSError:
            os._exit(0)  # the executor is gone


class Frames:
    """Frames in. `read` is for one thread at a time: hold `lock`."""

    def __init__(self, fd: int, bound: int) -> None:
        self.fd = fd
        self.bound = bound
        self.lock = allocate_lock()
        self.buffer = bytearray(READ_BYTES)
        self.view = memoryview(self.buffer)
        self.end = 0
        self.on_end: Callable[[], None] | None = None

    def read(self) -> list[tuple[int, int, str]]:
        """Blocks for bytes, then returns every whole frame that they complete, perhaps none."""
        if self.end == len(self.buffer):
            self.resize(max(2 * self.end, READ_BYTES))
        try:
            got = os.readv(self.fd, [self.view[self.end :]])
        except OSError:
            got = 0
        if got == 0:
            self.leave()
        return self.split(self.end + got)

    def waiting(self) -> bool:
        """Whether `read` would not block."""
        probe = poll()
        probe.register(self.fd, POLLIN)
        return bool(probe.poll(0))

    def split(self, end: int) -> list[tuple[int, int, str]]:
        frames = []
        start, view = 0, self.view
        while end - start >= 13:
            length, kind, id_ = HEADER.unpack_from(view, start)
            if length < 9 or length > self.bound:
                os._exit(1)  # not our protocol: nothing that follows can be trusted
            stop = start + 4 + length
            if stop > end:
                break
            frames.append((kind, id_, str(view[start + 13 : stop], "utf-8")))
            start = stop
        rest = end - start
        if start and rest:
            view[:rest] = bytes(view[start:end])
        self.end = rest
        if rest >= 13:
            (length, _, _) = HEADER.unpack_from(view, 0)
            if length + 4 > len(self.buffer):
                self.resize(length + 4)
        elif len(self.buffer) > 16 * READ_BYTES:
            self.resize(READ_BYTES)
        return frames

    def resize(self, size: int) -> None:
        buffer = bytearray(size)
        buffer[: self.end] = self.view[: self.end]
        self.buffer, self.view = buffer, memoryview(buffer)

    def leave(self) -> None:
        if self.on_end is not None:
            self.on_end()
            return
        os._exit(0)


# ---------------------------------------------------------------------------------------------------------------------
# Log lines.

_log_lock = RLock()  # re-entrant: a finalizer that the collector runs in here may print


class Sink:
    """The lines of one call, or of the instance (id 0): bounded, batched, counted."""

    __slots__ = ("id", "worker", "lines", "held", "count", "size", "dropped", "partial", "window")

    def __init__(self, id_: int, worker: Worker) -> None:
        self.id = id_
        self.worker = worker
        self.lines: list[str] = []
        self.held = 0
        self.count = 0
        self.size = 0
        self.dropped = 0
        self.partial: dict[int, str] = {}
        self.window = 0.0

    def line(self, level: str, message: str, context: str = "null") -> None:
        limits = self.worker.limits
        if self.worker.forked:
            os.write(2 if level in ("WARN", "ERROR") else 1, f"{message}\n".encode("utf-8", "replace"))
            return
        with _log_lock:
            if self.id == 0:
                self.roll()
            if self.count >= limits.log_lines or self.size >= limits.log_bytes:
                self.dropped += 1
                return
            message = shorten(message, min(limits.log_line_bytes, limits.log_bytes - self.size))
            text = f'[{int(time.time() * 1000)},"{level}",{encode_basestring(message)},{context}]'
            self.count += 1
            self.size += len(message)
            self.lines.append(text)
            self.held += len(text)
            if len(self.lines) >= LOG_LINES or self.held >= LOG_BATCH_BYTES:
                self.flush()
                self.worker.wire.flush()
            elif len(self.lines) == 1:
                self.worker.attendant.note(self)

    def roll(self) -> None:
        now = time.monotonic()
        if now - self.window < LOG_WINDOW_SECONDS:
            return
        dropped, self.window, self.count, self.size, self.dropped = self.dropped, now, 0, 0, 0
        if dropped:
            self.line("WARN", f"{dropped} lines of the instance's own output were dropped: over the bound")

    def feed(self, stream: int, text: str) -> None:
        """Text of a stream; what does not end in a newline waits for its rest, within the bound of a line."""
        level = "INFO" if stream & 1 else "WARN"
        limits = self.worker.limits
        with _log_lock:
            start = 0
            partial = self.partial
            while True:
                if self.id != 0 and (self.count >= limits.log_lines or self.size >= limits.log_bytes):
                    # Over the bound nothing is kept, so a flood costs one scan for newlines and no memory.
                    self.dropped += text.count("\n", start)
                    partial.pop(stream, None)
                    return
                stop = text.find("\n", start)
                if stop < 0:
                    break
                end = min(stop, start + limits.log_line_bytes + 1)
                head = partial.pop(stream, "")
                self.line(level, head + text[start:end] if head else text[start:end])
                start = stop + 1
            if start < len(text):
                held = partial.get(stream, "")
                if len(held) <= limits.log_line_bytes:
                    partial[stream] = held + text[start : start + limits.log_line_bytes + 1 - len(held)]

    def close(self) -> None:
        """Everything that waits becomes a frame; a last line without its newline is a line."""
        with _log_lock:
            for stream, text in list(self.partial.items()):
                del self.partial[stream]
                self.line("INFO" if stream & 1 else "WARN", text)
            self.flush()

    def flush(self) -> None:
        with _log_lock:
            if self.lines:
                body = '{"lines":[' + ",".join(self.lines) + "]}"
                self.lines.clear()
                self.held = 0
                self.worker.wire.post(LOG, self.id, body.encode("utf-8", "replace"))


def shorten(message: str, bound: int) -> str:
    if len(message) <= bound and (message.isascii() or len(message.encode("utf-8", "replace")) <= bound):
        return message
    return message[:bound].encode("utf-8", "replace")[:bound].decode("utf-8", "ignore") + "… [line cut]"


def json_context(fields: dict[str, Any]) -> str:
    """The fields that are JSON, within a bound; those that are not are left out."""
    parts, size = [], 0
    for name, value in fields.items():
        try:
            text = f"{encode_basestring(str(name))}:{dump(value)}"
            text.encode()
        except Exception:
            continue
        size += len(text)
        if size <= CONTEXT_BYTES:
            parts.append(text)
    return "{" + ",".join(parts) + "}" if parts else "null"


class Bytes(io.RawIOBase):
    """`sys.stdout.buffer`."""

    def __init__(self, text: Stream) -> None:
        self.text = text

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.text.fileno()

    def write(self, data: Any) -> int:
        body = bytes(data)
        self.text.write(body.decode("utf-8", "replace"))
        return len(body)


class Stream(io.TextIOBase):
    """`sys.stdout` and `sys.stderr`: text goes to the call on whose behalf it was written."""

    def __init__(self, fd: int, worker: Worker) -> None:
        self.fd = fd
        self.worker = worker
        self.buffer = Bytes(self)
        self.name = "<stdout>" if fd == 1 else "<stderr>"
        self.mode = "w"
        self.pending = ""

    encoding = "utf-8"
    errors = "replace"
    line_buffering = True
    write_through = True
    newlines = None

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self.worker.forked:
            self.pending += text  # a forked child: whole lines, since its siblings write to the same pipe
            if "\n" in text:
                self.flush()
        elif text:
            self.worker.sink().feed(self.fd, text)
        return len(text)

    def flush(self) -> None:
        if self.pending:
            text, self.pending = self.pending, ""
            os.write(self.fd, text.encode("utf-8", "replace"))

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self.fd

    def reconfigure(self, **_: Any) -> None:
        """Encoding and buffering are ours to choose."""


# ---------------------------------------------------------------------------------------------------------------------
# Calls.


class Limits:
    def __init__(self, given: dict[str, int]) -> None:
        self.frame_bytes = given.get("frame_bytes", 64 << 20)
        self.result_bytes = min(given.get("result_bytes", 16 << 20), self.frame_bytes - 4096)
        self.log_lines = given.get("log_lines", 10_000)
        self.log_bytes = given.get("log_bytes", 4 << 20)
        self.log_line_bytes = given.get("log_line_bytes", 16_384)


class Call:
    """One execution in flight."""

    __slots__ = (
        "id",
        "body",
        "input",
        "stream",
        "thread",
        "task",
        "cancelled",
        "answered",
        "interrupt_sent",
        "cpu",
        "step_at",
        "started_at",
        "sink",
        "tokens",
        "metrics",
        "starts",
        "cpu_at",
    )

    def __init__(self, id_: int, body: dict[str, Any]) -> None:
        self.id = id_
        self.body = body
        self.input = body.get("input")
        self.stream = body.get("stream", False)
        self.thread = 0
        self.task: asyncio.Task[None] | None = None
        self.cancelled = False
        self.answered = False
        self.interrupt_sent = False
        self.cpu = 0.0
        self.step_at = 0.0
        self.started_at = 0.0
        self.sink: Sink | None = None
        self.tokens: int | None = None
        self.metrics: dict[str, float] | None = None
        self.starts = 0
        self.cpu_at = 0.0

    @property
    def context(self) -> dict[str, Any]:
        return self.body.get("context") or {}

    def add_tokens(self, count: Any) -> None:
        self.tokens = (self.tokens or 0) + int(count)


class Context:
    """What a handler that takes two arguments gets as the second."""

    __slots__ = (
        "user_id",
        "session_id",
        "request_id",
        "metadata",
        "execution_id",
        "attempt",
        "deadline",
        "traceparent",
        "tracestate",
        "_call",
        "_worker",
    )

    def __init__(self, call: Call, worker: Worker) -> None:
        given = call.context
        self.user_id: str | None = given.get("user_id")
        self.session_id: str | None = given.get("session_id")
        self.request_id: str | None = given.get("request_id")
        self.metadata: dict[str, Any] = given.get("metadata") or {}
        self.traceparent: str | None = given.get("traceparent")
        self.tracestate: str | None = given.get("tracestate")
        self.execution_id: str | None = call.body.get("execution_id")
        self.attempt: int = call.body.get("attempt") or 1
        deadline = call.body.get("deadline_ms")
        self.deadline: float | None = None if deadline is None else deadline / 1000
        self._call = call
        self._worker = worker

    def log(self, message: object, level: str = "INFO", **fields: Any) -> None:
        """One line of the execution's log, with fields."""
        number = LEVELS.get(str(level).upper())
        if number is None:
            raise ValueError(f"level is {level!r}; allowed are {', '.join(LEVELS)}")
        if number >= self._worker.log_level:
            sink = self._worker.sink_of(self._call)
            sink.line(level_name(number), str(message), json_context(fields) if fields else "null")

    def progress(self, percent: float) -> None:
        """How far the execution has come, 0 to 100."""
        value = float(percent)
        if not 0 <= value <= 100:
            raise ValueError(f"percent is {percent!r}; allowed is 0 to 100")
        if not self._call.answered:
            self._worker.wire.post(PROGRESS, self._call.id, b'{"percent":%s}' % number_text(value).encode())
            self._worker.wire.flush()

    def metric(self, name: str, value: float) -> None:
        """A number of the execution: the last value of a name counts; `tokens` is summed into tokens_used."""
        number = float(value)
        if not abs(number) < INF:
            raise ValueError(f"metric {name!r} is {value!r}, which is not a finite number")
        if name == "tokens":
            self._call.add_tokens(number)
            return
        metrics = self._call.metrics
        if metrics is None:
            metrics = self._call.metrics = {}
        if not isinstance(name, str) or not 0 < len(name) <= METRIC_NAME:
            raise ValueError(f"a metric's name must be a string of 1 to {METRIC_NAME} characters")
        if name not in metrics and len(metrics) >= METRICS:
            raise ValueError(f"an execution has at most {METRICS} metrics")
        metrics[name] = number


def level_name(number: int) -> str:
    return "ERROR" if number >= 40 else "WARN" if number >= 30 else "INFO" if number >= 20 else "DEBUG"


def number_text(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


class Memory:
    """The process's peak of resident memory. A call that starts alone resets it, so that its peak is its own; calls
    shorter than MEMORY_SECONDS share one reading, because asking the kernel costs as much as they do."""

    def __init__(self) -> None:
        self.reset_at = 0.0
        self.read_at = 0.0
        self.text = b"0"
        self.reset_fd = self.status_fd = -1
        self.opened = False

    def open(self) -> None:
        self.opened = True
        try:
            self.status_fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
            self.reset_fd = os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            pass  # no /proc, or not permitted: the peak is then the instance's whole life's

    def reset(self, now: float) -> None:
        if not self.opened:
            self.open()
        self.reset_at = now
        if self.reset_fd >= 0:
            try:
                os.pwrite(self.reset_fd, b"5", 0)
                self.read_at = 0.0
            except OSError:
                self.reset_fd = -1

    def peak(self, now: float) -> bytes:
        if now - self.read_at > MEMORY_SECONDS:
            self.read_at = now
            self.text = b"%.1f" % self.read()
        return self.text

    def read(self) -> float:
        if self.status_fd >= 0:
            try:
                status = os.pread(self.status_fd, 4096, 0)
                return int(status.partition(b"VmHWM:")[2].split(None, 1)[0]) / 1024
            except (OSError, ValueError, IndexError):
                self.status_fd = -1
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---------------------------------------------------------------------------------------------------------------------
# The attendant: the one thread that never runs the agent's code.


class Attendant:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.parked = False
        self.noted: list[Sink] = []
        self.lines_at = 0.0
        self.poller = poll()
        self.wake_read = self.wake_write = -1  # until it starts: a template has none
        worker.wire.on_rest = self.wake
        self.decoders: dict[int, tuple[int, Any]] = {}
        self.pipes = poll()
        self.pipe_lock = allocate_lock()
        self.watching = False  # whether the socket is polled here
        self.recheck_at = 0.0
        self.seen = -1

    def start(self) -> None:
        self.wake_read, self.wake_write = os.pipe()
        os.set_blocking(self.wake_write, False)
        self.poller.register(self.wake_read, POLLIN)
        start_new_thread(self.run, ())

    def capture(self) -> None:
        """Turns fd 1 and 2 into pipes: what C code and subprocesses print becomes lines as well."""
        for fd in (1, 2):
            read, write = os.pipe()
            os.set_blocking(read, False)
            os.dup2(write, fd)
            os.close(write)
            self.decoders[read] = (fd + 2, getincrementaldecoder("utf-8")("replace"))
            self.poller.register(read, POLLIN)
            self.pipes.register(read, POLLIN)

    def note(self, sink: Sink) -> None:
        self.noted.append(sink)
        if self.parked:
            self.wake()

    def wake(self) -> None:
        self.parked = False
        if self.wake_write < 0:
            return
        try:
            os.write(self.wake_write, b"w")
        except BlockingIOError:
            pass  # thousands of wakes wait already

    def watch(self, wanted: bool) -> None:
        if wanted != self.watching:
            self.watching = wanted
            if wanted:
                self.poller.register(self.worker.frames.fd, POLLIN)
            else:
                self.poller.unregister(self.worker.frames.fd)

    def run(self) -> None:
        while True:
            try:
                self.step()
            except Exception as error:  # must live on: without it a stuck handler would be deaf
                self.worker.instance.line("ERROR", f"the worker's attendant: {type_name(error)}: {safe_text(error)}")

    def step(self) -> None:
        for fd, _ in self.poller.poll(self.plan()):
            if fd == self.wake_read:
                os.read(fd, 512)
            elif fd in self.decoders:
                self.pump()
            elif self.watching:
                self.worker.engine.on_attended(self)
        self.send_lines()
        self.worker.engine.attend(self)

    def plan(self) -> int | None:
        """Milliseconds to sleep; None until woken. `parked` is said first and the reasons are looked at after it, so
        that whoever gives a reason meanwhile sees that it must wake us."""
        now = perf_counter()
        self.parked = True
        wait = self.worker.engine.patience(self, now)
        if self.noted:
            self.lines_at = self.lines_at or now + LOG_SECONDS
            left = max(1, int((self.lines_at - now) * 1000))
            wait = left if wait is None else min(wait, left)
        if wait is not None:
            self.parked = False
        return wait

    def send_lines(self) -> None:
        if self.lines_at and perf_counter() >= self.lines_at:
            self.lines_at = 0.0
            noted, self.noted = self.noted, []
            for sink in noted:
                sink.flush()
        self.worker.wire.flush()

    def pump_if_ready(self) -> None:
        try:
            if not self.pipes.poll(0) and not self.pipe_lock.locked():
                return
        except RuntimeError:
            pass  # another thread asks right now
        self.pump()

    def pump(self) -> None:
        """Empties the pipes: lines of the only call that is not answered yet, else of the instance. A call about to be
        answered does it as well, so that what its subprocesses printed comes before the answer."""
        with self.pipe_lock:
            for fd, (stream, decoder) in self.decoders.items():
                for _ in range(16):
                    try:
                        data = os.read(fd, READ_BYTES)
                    except BlockingIOError:
                        break
                    if not data:
                        break
                    self.worker.only_sink().feed(stream, decoder.decode(data))


# ---------------------------------------------------------------------------------------------------------------------
# Engines: how calls get onto threads.


class Idle:
    """The engine before there is one: the attendant only looks after logs and pipes."""

    def patience(self, attendant: Attendant, now: float) -> int | None:
        return None

    def attend(self, attendant: Attendant) -> None:
        return

    def on_attended(self, attendant: Attendant) -> None:
        return

    def cancel(self, call: Call) -> None:
        return


class SyncEngine(Idle):
    """Runs sync handlers: on the reading thread while they are quick, else in the pool. With concurrency 1 always on
    the main thread, so that what is bound to a thread (SQLite, signals, thread locals) works as in a script."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.main = get_ident()
        self.ready: deque[Call] = deque()
        self.busy = False  # the main thread is not waiting in a read
        self.beat = 0
        self.dense = False  # many calls in the last tick
        self.streak = QUICK_STREAK if worker.concurrency == 1 else 0
        self.pool = Pool(worker.concurrency, self.run)

    # On the main thread.

    def serve(self) -> NoReturn:
        worker, frames, ready = self.worker, self.worker.frames, self.ready
        wire, attendant = worker.wire, worker.attendant
        while True:
            self.busy = False
            with frames.lock:
                if not ready:  # the attendant may have read until this moment
                    got = frames.read()
                    self.busy = True
                    self.beat += 1
                    worker.receive(got, ready)
            self.busy = True
            flushed = perf_counter()
            while ready:
                try:
                    call = ready.popleft()
                except IndexError:
                    break  # the attendant took it
                if self.streak < QUICK_STREAK and worker.concurrency > 1:
                    self.pool.submit(call)
                    continue
                if attendant.parked:
                    attendant.wake()
                self.beat += 1
                self.run(call)
                if not ready or perf_counter() - flushed > FLUSH_SECONDS:
                    wire.flush()
                    flushed = perf_counter()
            wire.flush()

    def run(self, call: Call) -> None:
        try:
            self.handle(call)
        except Interrupted as error:  # landed outside the handler's own frames
            self.settle(call)
            self.worker.fail(call, error, perf_counter(), thread_time())
        _current.set(None)

    def handle(self, call: Call) -> None:
        worker = self.worker
        running = worker.running
        call.thread = get_ident()
        if call.id not in running and self.settle(call):
            return  # cancelled before it began, and answered
        _current.set(call)
        began = call.started_at = perf_counter()
        if len(running) == 1 and began - worker.memory.reset_at > MEMORY_SECONDS:
            worker.memory.reset(began)
        cpu = call.step_at = thread_time()
        failure: BaseException | None = None
        value: Any = None
        try:
            value = copy_context().run(worker.entry.invoke, call)
            if type(value) not in PLAIN:
                value = copy_context().run(self.complete, call, value)
        except BaseException as error:
            failure = error
        if running.pop(call.id, None) is None:
            self.settle(call)
        ended = perf_counter()
        cpu = thread_time() - cpu
        lasted = ended - began
        if lasted <= QUICK_SECONDS:
            if self.streak < STREAK_MOST:
                self.streak += 1
        else:
            self.streak = max(self.streak - STREAK_COST, 0) if lasted <= FORGIVEN_SECONDS else 0
        call.cpu = cpu
        if failure is None:
            worker.finish(call, value, ended)
        else:
            worker.fail(call, failure, ended, None)
            del failure  # its traceback holds this frame

    def complete(self, call: Call, value: Any) -> Any:
        """Values that still have to be run: generators, and what an undeclared async function returns."""
        if hasattr(value, "__next__"):
            items = self.worker.items(call)
            for item in value:
                items.add(item)
            return items.output()
        if hasattr(value, "__await__") or hasattr(value, "__anext__"):
            import asyncio

            return asyncio.run(settle_value(self.worker, call, value))
        return value

    def settle(self, call: Call) -> bool:
        """After this no interrupt can land. True: the canceller has answered the call already."""
        while True:
            try:
                if self.worker.running.pop(call.id, None) is not None:
                    return False
                while not (call.interrupt_sent or call.answered):
                    if not call.cancelled:
                        return False
                    time.sleep(0)
                if call.answered:
                    return True
                set_async_exception(call.thread, None)
                return False
            except Interrupted:
                continue

    # On whichever thread reads.

    def cancel(self, call: Call) -> None:
        if self.worker.running.pop(call.id, None) is None:
            return
        call.cancelled = True
        if call.thread == 0:
            self.worker.fail(call, Failure("CANCELLED", "handler", "cancelled before it started"), perf_counter(), None)
            return
        # The interrupt is met where the thread is suspended now. With the wire's lock in our hand that is not in the
        # middle of a write, which would lose or tear frames of other calls.
        wire = self.worker.wire
        wire.wanted += 1
        with wire.lock:
            wire.wanted -= 1
            set_async_exception(call.thread, Interrupted)
        call.interrupt_sent = True
        self.worker.attendant.wake()  # to write what those have left who met the lock
        if call.thread == self.main:
            pthread_kill(self.main, SIGURG)  # ends a blocking system call there, so that the exception is met at once

    # On the attendant's thread.

    def patience(self, attendant: Attendant, now: float) -> int | None:
        if attendant.watching:
            return int(LOG_SECONDS * 1000)
        return TICK_MS if self.busy or self.dense else None

    def attend(self, attendant: Attendant) -> None:
        """Takes the reading over when the main thread has been in one handler for a whole tick. Between calls that come
        seldom the attendant sleeps, and the next call wakes it: ticks would cost more than all else of such a call."""
        beat = self.beat
        stuck = self.busy and beat == attendant.seen
        self.dense = beat - attendant.seen > DENSE_BEATS
        attendant.seen = beat
        if not stuck:
            attendant.watch(False)
        elif not attendant.watching and self.worker.frames.lock.acquire(False):
            self.worker.frames.lock.release()
            attendant.watch(True)
            self.spread()

    def on_attended(self, attendant: Attendant) -> None:
        frames = self.worker.frames
        if self.busy and self.beat == attendant.seen and frames.lock.acquire(False):
            try:
                if frames.waiting():
                    self.worker.receive(frames.read(), self.ready)
            finally:
                frames.lock.release()
            self.spread()
        else:
            attendant.watch(False)

    def spread(self) -> None:
        if self.worker.concurrency > 1:
            self.streak = 0
            try:
                while True:
                    self.pool.submit(self.ready.popleft())
            except IndexError:
                pass
        self.worker.wire.flush()


class Pool:
    """At most `bound` threads, started on demand; the one that became idle last works first."""

    def __init__(self, bound: int, run: Callable[[Call], None]) -> None:
        self.bound = bound
        self.run = run
        self.lock = allocate_lock()
        self.threads = 0
        self.idle: list[list[Any]] = []  # [lock to wait on, call]
        self.backlog: deque[Call] = deque()

    def submit(self, call: Call) -> None:
        with self.lock:
            if self.idle:
                seat = self.idle.pop()
                seat[1] = call
                seat[0].release()
                return
            if self.threads >= self.bound:
                self.backlog.append(call)
                return
            self.threads += 1
            number = self.threads
        try:
            import threading

            threading.Thread(target=self.work, args=(call,), name=f"handler-{number}", daemon=True).start()
        except RuntimeError:  # no more threads here: make do with those there are
            with self.lock:
                self.threads -= 1
                none = self.threads == 0
                if not none:
                    self.backlog.append(call)
            if none:
                self.run(call)

    def work(self, call: Call | None) -> None:
        seat: list[Any] = [allocate_lock(), None]
        seat[0].acquire()
        while True:
            assert call is not None
            self.run(call)
            call = None
            wire = _worker_wire()
            wire.flush()
            with self.lock:
                if self.backlog:
                    call = self.backlog.popleft()
                    continue
                self.idle.append(seat)
            seat[0].acquire()
            call, seat[1] = seat[1], None


def _worker_wire() -> Wire:
    assert Worker.one is not None
    return Worker.one.wire


def set_async_exception(thread: int, kind: type[BaseException] | None) -> None:
    import ctypes

    target = ctypes.py_object(kind) if kind is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), target)


class Metered:
    """A coroutine that counts the processor time of its steps."""

    __slots__ = ("coroutine", "call", "__weakref__")

    def __init__(self, coroutine: Any, call: Call) -> None:
        self.coroutine = coroutine
        self.call = call

    def send(self, value: Any) -> Any:
        call = self.call
        call.step_at = thread_time()
        try:
            return self.coroutine.send(value)
        finally:
            call.cpu += thread_time() - call.step_at

    def throw(self, *error: Any) -> Any:
        call = self.call
        call.step_at = thread_time()
        try:
            return self.coroutine.throw(*error)
        finally:
            call.cpu += thread_time() - call.step_at

    def close(self) -> None:
        self.coroutine.close()

    def __await__(self) -> Any:
        return self.coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.coroutine, name)  # cr_frame, cr_code … for whoever inspects the task


class AsyncEngine(Idle):
    """Runs async handlers and frameworks on the main thread's event loop, which reads the socket as well."""

    def __init__(self, worker: Worker) -> None:
        import asyncio
        import collections.abc

        collections.abc.Coroutine.register(Metered)
        self.worker = worker
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.make_task = asyncio.Task
        self.task_options: dict[str, Any] = {"loop": self.loop}
        if sys.version_info >= (3, 12):
            self.task_options["eager_start"] = True  # what does not wait never goes through the loop
        self.ready: deque[Call] = deque()
        self.reads = 0
        self.serving = False
        self.flush_due = False
        self.attended = False

    def serve(self) -> NoReturn:
        self.loop.add_reader(self.worker.frames.fd, self.on_readable)
        self.loop.call_soon(self.start_ready)
        self.serving = True
        self.worker.attendant.wake()
        while True:
            try:
                self.loop.run_forever()
            except BaseException as error:  # SystemExit or KeyboardInterrupt of a task that the handler started
                self.worker.instance.line("ERROR", f"a background task raised {type_name(error)}: {safe_text(error)}")

    # On the loop.

    def on_readable(self) -> None:
        self.reads += 1
        frames = self.worker.frames
        if not frames.lock.acquire(False):
            return  # the attendant is reading
        try:
            if self.attended:  # the bytes that made the loop call us may have been read meanwhile
                self.attended = False
                if not frames.waiting():
                    return
            self.worker.receive(frames.read(), self.ready)
        finally:
            frames.lock.release()
        self.start_ready()
        if self.worker.wire.queue:
            self.worker.wire.flush()

    def start_ready(self) -> None:
        ready = self.ready
        try:
            while True:
                call = ready.popleft()
                _current.set(call)
                try:
                    call.task = self.make_task(Metered(self.run(call), call), **self.task_options)
                finally:
                    _current.set(None)
        except IndexError:
            pass

    async def run(self, call: Call) -> None:
        worker = self.worker
        running = worker.running
        if call.id not in running:
            return
        began = call.started_at = perf_counter()
        if len(running) == 1:
            if began - worker.memory.reset_at > MEMORY_SECONDS:
                worker.memory.reset(began)
            if worker.entry.framework:
                call.starts, call.cpu_at = worker.starts, time.process_time()
        failure: BaseException | None = None
        value: Any = None
        try:
            value = worker.entry.invoke(call)
            if type(value) not in PLAIN:
                value = await settle_value(worker, call, value)
        except BaseException as error:
            failure = error
        ended = perf_counter()
        running.pop(call.id, None)
        now = thread_time()
        call.cpu += now - call.step_at
        call.step_at = now
        if call.starts and call.starts == worker.starts:
            # Frameworks use threads of their own: alone all the while, the call used what the process used.
            call.cpu = time.process_time() - call.cpu_at
        if failure is None:
            worker.finish(call, value, ended)
        else:
            worker.fail(call, failure, ended, None)
            del failure
        if not running:
            worker.wire.flush()
        elif not self.flush_due:
            self.flush_due = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        self.flush_due = False
        self.worker.wire.flush()

    # On whichever thread reads.

    def cancel(self, call: Call) -> None:
        call.cancelled = True
        self.loop.call_soon_threadsafe(self.cancel_task, call)

    def cancel_task(self, call: Call) -> None:
        if call.task is not None:
            call.task.cancel()

    # On the attendant's thread: a socket that stays readable means a loop that does not turn.

    def patience(self, attendant: Attendant, now: float) -> int | None:
        if not self.serving:
            return None
        if attendant.recheck_at:
            return max(1, int((attendant.recheck_at - now) * 1000))
        attendant.watch(True)
        return None

    def on_attended(self, attendant: Attendant) -> None:
        if attendant.recheck_at == 0.0:
            attendant.watch(False)
            attendant.seen = self.reads
            attendant.recheck_at = perf_counter() + LOOP_TICK_SECONDS

    def attend(self, attendant: Attendant) -> None:
        if not attendant.recheck_at or perf_counter() < attendant.recheck_at:
            return
        attendant.recheck_at = 0.0
        if self.reads != attendant.seen:
            return
        frames = self.worker.frames
        if not frames.lock.acquire(False):
            return
        try:
            if not frames.waiting():
                return
            self.attended = True
            self.worker.receive(frames.read(), self.ready)
        finally:
            frames.lock.release()
        if self.ready:
            self.loop.call_soon_threadsafe(self.start_ready)
        self.worker.wire.flush()


async def settle_value(worker: Worker, call: Call, value: Any) -> Any:
    """Awaits what is awaitable and collects what is a generator, until there is a plain value."""
    if hasattr(value, "__await__"):
        value = await value
    if hasattr(value, "__anext__"):
        items = worker.items(call)
        try:
            async for item in value:
                items.add(item)
        finally:
            await value.aclose()
        return items.output()
    if hasattr(value, "__next__"):
        items = worker.items(call)
        for item in value:
            items.add(item)
        return items.output()
    return value


class Items:
    """A generator's items: each a CHUNK when the call streams, all together the output.

    When they outgrow the bound, a streaming call goes on: its output is then null, and a log line says so. A call that
    does not stream has no other way to get them, so it fails with OUTPUT_TOO_LARGE at once."""

    def __init__(self, worker: Worker, call: Call) -> None:
        self.worker = worker
        self.call = call
        self.bound = worker.limits.result_bytes
        self.parts: list[bytes] | None = []
        self.size = 1
        self.count = 0

    def add(self, item: Any) -> None:
        body = serialize(item, self.bound)
        self.count += 1
        if self.call.stream:
            self.worker.chunk(self.call, body)
        self.size += len(body) + 1
        if self.parts is None:
            return
        if self.size <= self.bound:
            self.parts.append(body)
        elif self.call.stream:
            self.parts = None
        else:
            message = f"the {self.count} items so far are {self.size} bytes of JSON, the bound is {self.bound}"
            raise Failure("OUTPUT_TOO_LARGE", "serialize", message)

    def output(self) -> Raw | None:
        if self.parts is None:
            self.worker.sink_of(self.call).line(
                "WARN",
                f"{self.count} chunks are {self.size} bytes of JSON, over the bound of {self.bound}; output is null",
            )
            return None
        return Raw("[" + b",".join(self.parts).decode() + "]")


# ---------------------------------------------------------------------------------------------------------------------
# Entry points.


class Entry:
    """What a call runs. `invoke(call)` gives a plain value, an awaitable, or a (perhaps async) generator."""

    framework = False

    def __init__(self, kind: str, invoke: Callable[[Call], Any], is_async: bool) -> None:
        self.kind = kind
        self.invoke = invoke
        self.is_async = is_async

    async def prepare(self) -> None:
        """On the event loop, before READY."""

    async def shutdown(self) -> None:
        """On the event loop, after end of file."""

    def is_busy(self) -> bool:
        return False


def underlying(target: Any) -> Any:
    """The function behind decorators, partials, methods and callable objects, or None."""
    for _ in range(32):
        if hasattr(target, "__wrapped__"):
            target = target.__wrapped__
        elif type(target).__name__ == "partial" and hasattr(target, "func"):
            target = target.func
        elif hasattr(target, "__func__"):
            target = target.__func__
        elif hasattr(target, "__code__"):
            return target
        else:
            call = getattr(type(target), "__call__", None)  # noqa: B004 (wanted is the function itself)
            if call is None or not hasattr(call, "__code__"):
                return None
            target = call
    return None


def flags_of(target: Any) -> int:
    function = underlying(target)
    return 0 if function is None else int(function.__code__.co_flags)


def positional(target: Any) -> tuple[list[tuple[str, bool]], bool, list[str]]:
    """(name, has default) of the positional parameters, whether there is *args, names of required keyword-only ones."""
    if type(target).__name__ == "function" and not hasattr(target, "__wrapped__"):
        code = target.__code__  # the common case without `inspect`, which costs 10 ms to import
        names = code.co_varnames[: code.co_argcount]
        bare = len(names) - len(target.__defaults__ or ())
        keyword = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        needed = [name for name in keyword if name not in (target.__kwdefaults__ or ())]
        return [(name, i >= bare) for i, name in enumerate(names)], bool(code.co_flags & VARARGS), needed
    import inspect

    parameters = inspect.signature(target).parameters.values()
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    empty = inspect.Parameter.empty
    return (
        [(p.name, p.default is not empty) for p in parameters if p.kind in by_position],
        any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters),
        [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY and p.default is empty],
    )


def arity(target: Any, name: str) -> int:
    """0, 1 or 2: how many of (input, context) the handler is given; anything else is a Failure."""
    try:
        parameters, more, needed = positional(target)
    except (ValueError, TypeError):
        return 1  # a C function that does not say
    required = sum(not default for _, default in parameters)
    if required > 2 or needed:
        shown = ", ".join([p for p, _ in parameters] + [f"*, {n}" for n in needed])
        raise Failure("INIT_FAILED", "init", f"{name} takes ({shown}); a handler takes (), (input) or (input, context)")
    if required == 2 or (more and len(parameters) < 2):
        return 2
    # A second parameter that has a default is the handler's own unless it is called what we would pass.
    if len(parameters) >= 2 and parameters[1][0] in ("context", "ctx"):
        return 2
    return 1 if parameters else 0


def function_entry(target: Any, name: str, worker: Worker) -> Entry:
    if isinstance(target, type):
        raise Failure("INIT_FAILED", "init", f"{name} is a class; name a function, a method or an instance of it")
    if not callable(target):
        found = type_name(target)
        raise Failure(
            "INIT_FAILED", "init", f"{name} is a {found}, which cannot be called; allowed are {ALLOWED_OBJECTS}"
        )
    takes = arity(target, name)
    flags = flags_of(target)
    if flags & ASYNC_GENERATOR:
        kind = "async_generator"
    elif flags & COROUTINE:
        kind = "async_function"
    else:
        kind = "generator" if flags & GENERATOR else "function"
    invoke: Callable[[Call], Any]
    if takes == 0:
        invoke = lambda call: target()  # noqa: E731 (one frame less per call than a def with branches)
    elif takes == 1:
        invoke = lambda call: target(call.input)  # noqa: E731
    else:
        invoke = lambda call: target(call.input, Context(call, worker))  # noqa: E731
    return Entry(kind, invoke, kind.startswith("async"))


ALLOWED_OBJECTS = (
    "functions, async functions, generators, async generators, callable objects, "
    "Agno agents, teams and workflows, a BedrockAgentCoreApp, and ASGI applications"
)


def has_base(target: Any, package: str, names: tuple[str, ...] = ()) -> bool:
    for cls in type(target).__mro__:
        home = getattr(cls, "__module__", "") or ""
        if (home == package or home.startswith(package + ".")) and (not names or cls.__name__ in names):
            return True
    return False


def is_agno(target: Any) -> bool:
    return "agno" in sys.modules and has_base(target, "agno") and callable(getattr(target, "arun", None))


def is_agentcore(target: Any) -> bool:
    return "bedrock_agentcore" in sys.modules and has_base(target, "bedrock_agentcore", ("BedrockAgentCoreApp",))


def is_asgi(target: Any) -> bool:
    """An async callable of exactly (scope, receive, send); no handler has three parameters."""
    if isinstance(target, type) or not callable(target) or not flags_of(target) & COROUTINE:
        return False
    try:
        parameters, _, needed = positional(target)
    except (ValueError, TypeError):
        return False
    return len(parameters) == 3 and not needed and not any(default for _, default in parameters)


def is_served(target: Any) -> bool:
    return is_agentcore(target) or is_asgi(target) or is_agno(target)


def entry_for(target: Any, name: str, worker: Worker) -> Entry:
    if is_agno(target):
        return AgnoEntry(target, worker)
    if is_agentcore(target):
        return AgentCoreEntry(target, worker)
    if is_asgi(target):
        return AsgiEntry(target, worker)
    return function_entry(target, name, worker)


def resolve(entrypoint: str, worker: Worker) -> tuple[Any, str]:
    """Imports what the entry point names and returns it, with a name for messages."""
    module_name, colon, attribute = entrypoint.partition(":")
    if not colon and entrypoint.endswith(".py"):
        return run_file(entrypoint, worker)
    if not colon:
        module_name, attribute = main_module(worker.code_dir), entrypoint
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise Failure(
            "INIT_FAILED",
            "import",
            f"entrypoint is {entrypoint!r}; allowed are function, module:attribute, package.module:object.method "
            "and file.py",
        )
    __import__(module_name)
    worker.phase = "init"
    return attribute_of(sys.modules[module_name], attribute, module_name), f"{module_name}:{attribute}"


def attribute_of(module: ModuleType, path: str, module_name: str) -> Any:
    target: Any = module
    owner = f"module {module_name!r}"
    for part in path.split("."):
        try:
            target = getattr(target, part)
        except AttributeError:
            raise Failure("INIT_FAILED", "init", missing(target, part, owner)) from None
        owner = f"{owner[:-1]}.{part}'" if owner.endswith("'") else part
    return target


def missing(target: Any, part: str, owner: str) -> str:
    import difflib

    names = [name for name in dir(target) if not name.startswith("_")]
    near = difflib.get_close_matches(part, names, n=3, cutoff=0.6)
    if near:
        return f"{owner} has no attribute {part!r}; did you mean {' or '.join(near)}?"
    home = getattr(target, "__name__", None)
    values = ((name, getattr(target, name, None)) for name in names)
    own = [name for name, value in values if callable(value) and getattr(value, "__module__", home) == home]
    return f"{owner} has no attribute {part!r}; it has {', '.join(own[:10]) or 'nothing that can be called'}"


def main_module(code_dir: str) -> str:
    """The module that a bare function name is looked up in."""
    names = sorted(os.listdir(code_dir))
    for name in ("agent", "main", "app"):
        if f"{name}.py" in names:
            return name
    modules = [name[:-3] for name in names if name.endswith(".py") and name[:-3].isidentifier()]
    packages = [name for name in names if os.path.isfile(os.path.join(code_dir, name, "__init__.py"))]
    found = [name for name in modules if name not in ("setup", "conftest", "__init__")] or packages
    if len(found) == 1:
        return found[0]
    listed = f"found {', '.join(found[:10])}" if found else "found none"
    raise Failure(
        "INIT_FAILED",
        "import",
        "a bare function name needs agent.py, main.py, app.py or exactly one top-level module; "
        f"{listed}: write module:function",
    )


def run_file(name: str, worker: Worker) -> tuple[Any, str]:
    """Runs the file as `python file.py` would; returns what it serves, or the one thing in it that can be served."""
    path = os.path.join(worker.code_dir, name)
    if not os.path.isfile(path):
        files = [f for f in sorted(os.listdir(worker.code_dir)) if f.endswith(".py")]
        raise Failure("INIT_FAILED", "import", f"there is no file {name}; there is {', '.join(files[:10]) or 'none'}")
    module = type(sys)("__main__")
    module.__file__ = path
    module.__dict__["__builtins__"] = __builtins__
    worker.own_module = sys.modules.get("__main__")
    sys.modules["__main__"] = module
    folder = os.path.dirname(path)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with io.open_code(path) as file:
        source = file.read()
    exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
    worker.phase = "init"
    if worker.served:
        served = worker.served[0]
        return (import_string(served) if isinstance(served, str) else served), f"what {name} serves"
    return only_served(module, name), f"the object of {name}"


def import_string(text: str) -> Any:
    """uvicorn's "module:attribute"."""
    module_name, _, attribute = text.partition(":")
    __import__(module_name)
    return attribute_of(sys.modules[module_name], attribute or "app", module_name)


def only_served(module: ModuleType, name: str) -> Any:
    found: dict[str, Any] = {}
    for key, value in vars(module).items():
        if not key.startswith("_") and is_served(value) and not any(value is other for other in found.values()):
            found[key] = value
    for test in (is_agentcore, is_asgi, is_agno):
        some = {key: value for key, value in found.items() if test(value)}
        if len(some) == 1:
            return next(iter(some.values()))
        if some:
            hint = f"{name[:-3]}:{next(iter(some))}"
            raise Failure("INIT_FAILED", "init", f"{name} has {', '.join(some)}: say which one, for example {hint}")
    for key in ("handler", "main"):
        if callable(getattr(module, key, None)):
            return getattr(module, key)
    raise Failure(
        "INIT_FAILED",
        "init",
        f"{name} serves nothing: it neither calls app.run() or uvicorn.run(), nor holds an application, an agent "
        f"or a function called handler or main; write {name[:-3]}:attribute",
    )


class AgnoEntry(Entry):
    """An Agno Agent, Team or Workflow: its `arun`, with the caller's session and user."""

    framework = True
    KEYS = ("input", "message", "prompt", "query")
    ENDS = ("RunCompleted", "TeamRunCompleted", "WorkflowCompleted")
    ERRORS = ("RunError", "TeamRunError", "WorkflowError")

    def __init__(self, target: Any, worker: Worker) -> None:
        super().__init__("agno", self.run, True)
        self.target = target
        self.worker = worker
        import inspect

        self.accepts = inspect.signature(target.arun).parameters
        mro = {cls.__name__ for cls in type(target).__mro__}
        self.end = self.ENDS[2 if "Workflow" in mro else 1 if "Team" in mro else 0]
        self.error = self.ERRORS[self.ENDS.index(self.end)]

    def question(self, given: Any) -> Any:
        if isinstance(given, dict):
            for key in self.KEYS:
                if key in given:
                    return given[key]
        return given if isinstance(given, str) else dump(given)

    async def run(self, call: Call) -> Any:
        context = call.context
        options = {"session_id": context.get("session_id"), "user_id": context.get("user_id"), "stream": call.stream}
        if call.stream and "stream_events" in self.accepts:
            options["stream_events"] = True
        if call.stream and "yield_run_output" in self.accepts:
            options["yield_run_output"] = True
        answer = self.target.arun(self.question(call.input), **options)
        if hasattr(answer, "__await__"):
            answer = await answer
        if hasattr(answer, "__aiter__"):
            answer = await self.follow(call, answer)
        self.count_tokens(call, answer)
        return self.output(answer)

    async def follow(self, call: Call, events: AsyncIterator[Any]) -> Any:
        """Sends the events on; returns what tells how the run ended."""
        final = failed = None
        async for event in events:
            name = str(getattr(event, "event", ""))
            if not name and hasattr(event, "status"):  # the run output itself, not an event
                final = event
                continue
            self.worker.chunk(call, serialize(self.event(event), self.worker.limits.result_bytes))
            if name == self.end and not hasattr(final, "status"):
                final = event
            elif name == self.error:
                failed = event
        if failed is not None and not hasattr(final, "status"):
            text = getattr(failed, "content", None) or getattr(failed, "error", None) or "the run failed"
            raise Failure("HANDLER_RAISED", "handler", str(text))
        return final

    @staticmethod
    def event(event: Any) -> Any:
        """An event as plain JSON: Agno's own dict of it, foreign objects in it as text."""
        value = event.to_dict() if hasattr(event, "to_dict") else event
        try:
            dump(value).encode()
            return value
        except Exception:
            to_json = getattr(event, "to_json", None)
            return Raw(to_json(indent=None)) if to_json is not None else value

    def output(self, answer: Any) -> Any:
        status = str(getattr(getattr(answer, "status", None), "value", getattr(answer, "status", "")) or "").upper()
        content = getattr(answer, "content", None)
        if status in ("ERROR", "CANCELLED"):
            text = content if isinstance(content, str) and content else f"the run ended with status {status}"
            raise Failure("HANDLER_RAISED", "handler", text)
        if status == "PAUSED":  # waits for a person: the caller needs the run's id and what it asks for
            return answer.to_dict()
        return content

    @staticmethod
    def count_tokens(call: Call, answer: Any) -> None:
        metrics = getattr(answer, "metrics", None)
        steps = getattr(metrics, "steps", None)
        for one in [metrics] if not isinstance(steps, dict) else [getattr(s, "metrics", s) for s in steps.values()]:
            total = one.get("total_tokens") if isinstance(one, dict) else getattr(one, "total_tokens", None)
            numbers = total if isinstance(total, list) else [total]  # Agno 1.x kept a list, one number a message
            for number in numbers:
                if isinstance(number, (int, float)) and number:
                    call.add_tokens(number)


class AsgiEntry(Entry):
    """An ASGI application: its lifespan around the instance's life, and one in-process HTTP request a call."""

    framework = True
    PATHS = ("/invocations", "/invoke", "/run", "/execute", "/")

    def __init__(self, app: Any, worker: Worker, kind: str = "asgi") -> None:
        super().__init__(kind, self.run, True)
        self.app = app
        self.worker = worker
        self.path = self.default_path()
        self.state: dict[str, Any] = {}
        self.probes: set[Any] = set()
        self.to_app: asyncio.Queue[dict[str, Any]] | None = None
        self.lifespan: asyncio.Task[None] | None = None
        self.lifespan_error: Exception | None = None

    # Where to.

    def post_paths(self) -> list[str] | None:
        """Every path routed with POST, or None for an application that does not say."""
        app, routes = self.app, None
        for _ in range(16):  # middleware keeps what it wraps in .app
            routes = getattr(app, "routes", None)
            if routes is not None or not hasattr(app, "app"):
                break
            app = app.app
        if routes is None:
            return None
        found: list[str] = []

        def walk(routes: Iterable[Any], prefix: str) -> None:
            for route in routes:
                path = prefix + (getattr(route, "path", "") or "")
                if "POST" in (getattr(route, "methods", None) or ()):
                    found.append(path)
                elif getattr(route, "routes", None):
                    walk(route.routes, path)

        walk(routes, "")
        return found

    def default_path(self) -> str | None:
        paths = self.post_paths()
        if paths is None:
            return self.PATHS[0]
        for path in self.PATHS:
            if path in paths:
                return path
        open_paths = sorted({path for path in paths if "{" not in path})
        return open_paths[0] if len(open_paths) == 1 else None

    # Lifespan.

    async def prepare(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        self.to_app = asyncio.Queue()
        self.answers: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}

        async def live() -> None:
            assert self.to_app is not None
            try:
                await self.app(scope, self.to_app.get, self.answers.put)
            except Exception as error:
                self.lifespan_error = error
            finally:
                self.answers.put_nowait(None)

        self.to_app.put_nowait({"type": "lifespan.startup"})
        self.lifespan = loop.create_task(live())
        answer = await self.answers.get()
        if answer is None:  # the application has no lifespan, which is its right
            self.lifespan = None
        elif answer["type"] == "lifespan.startup.failed":
            if self.lifespan_error is None:
                await asyncio.wait([self.lifespan], timeout=SHUTDOWN_SECONDS)
            text = answer.get("message") or "the application's startup failed"
            raise Failure("INIT_FAILED", "init", text.strip().rpartition("\n")[2]) from self.lifespan_error

    async def shutdown(self) -> None:
        if self.lifespan is not None and self.to_app is not None:
            import asyncio

            self.to_app.put_nowait({"type": "lifespan.shutdown"})
            await asyncio.wait([self.lifespan], timeout=SHUTDOWN_SECONDS)

    # A request.

    def request(self, call: Call) -> tuple[dict[str, Any], bytes]:
        context = call.context
        given = (context.get("metadata") or {}).get("http") or {}
        path = given.get("path") or self.path
        if path is None:
            paths = ", ".join(self.post_paths() or ()) or "none"
            raise Failure(
                "HANDLER_RAISED",
                "handler",
                f"the application has none of {', '.join(self.PATHS)} and not exactly one POST route (it has {paths}); "
                'name one in metadata: {"http": {"path": "/…"}}',
            )
        path, _, in_path = str(path).partition("?")
        body = dump(call.input).encode()
        headers = {
            "host": "agent",
            "accept": "text/event-stream, application/json, */*" if call.stream else "application/json, */*",
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-request-id": context.get("request_id"),
            "traceparent": context.get("traceparent"),
            "tracestate": context.get("tracestate"),
            "x-amzn-bedrock-agentcore-runtime-session-id": context.get("session_id"),
            "x-amzn-bedrock-agentcore-runtime-request-id": context.get("request_id") or call.body.get("execution_id"),
            "x-amzn-bedrock-agentcore-runtime-user-id": context.get("user_id"),
        }
        headers.update({str(name).lower(): value for name, value in (given.get("headers") or {}).items()})
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": str(given.get("method") or "POST").upper(),
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query_string(given.get("query"), in_path).encode(),
            "root_path": "",
            "headers": [(n.encode("latin-1"), str(v).encode("utf-8")) for n, v in headers.items() if v is not None],
            "client": ("127.0.0.1", 0),
            "server": ("agent", 80),
            "state": self.state.copy(),
        }
        return scope, body

    async def run(self, call: Call) -> Any:
        scope, body = self.request(call)
        response = Response(self.worker, call, scope)
        await self.exchange(self.app, scope, body, response)
        return response.output()

    def probe(self, id_: int, path: str) -> None:
        """From whichever thread reads: GET on the loop, whose status is told when it is there."""
        engine = self.worker.engine
        assert isinstance(engine, AsyncEngine)
        loop = engine.loop
        loop.call_soon_threadsafe(lambda: self.probes.add(loop.create_task(self.check(id_, path))))

    async def check(self, id_: int, path: str) -> None:
        import asyncio

        path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"agent"), (b"accept", b"*/*"), (b"user-agent", b"phalanx-health")],
            "client": ("127.0.0.1", 0),
            "server": ("agent", 80),
            "state": self.state.copy(),
        }
        answer = Status()
        try:
            await asyncio.wait_for(self.exchange(self.app, scope, b"", answer), PROBE_SECONDS)
        except Exception as error:
            answer.status = 500
            self.worker.instance.line("WARN", f"GET {path} raised {type_name(error)}: {safe_text(error)}")
        self.probes = {task for task in self.probes if not task.done()}
        self.worker.pong(id_, answer.status or 500)

    @staticmethod
    async def exchange(app: Any, scope: dict[str, Any], body: bytes, response: Response | Status) -> None:
        import asyncio

        ended = asyncio.get_running_loop().create_future()
        unread = [body]

        async def receive() -> dict[str, Any]:
            if unread:
                return {"type": "http.request", "body": unread.pop(), "more_body": False}
            await asyncio.shield(ended)
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            response.take(message)
            if response.done and not ended.done():
                ended.set_result(None)

        try:
            await app(scope, receive, send)
        finally:
            if not ended.done():
                ended.set_result(None)


def query_string(given: Any, in_path: str) -> str:
    if not given:
        return in_path
    if isinstance(given, str):
        return given
    from urllib.parse import urlencode

    return urlencode(given, doseq=True)


class Status:
    """Of an ASGI response only its status."""

    def __init__(self) -> None:
        self.status = 0
        self.done = False

    def take(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.done = not message.get("more_body", False)


class Response:
    """An ASGI response as it comes in: events of a stream become chunks, everything together the output."""

    def __init__(self, worker: Worker, call: Call, scope: dict[str, Any]) -> None:
        self.worker = worker
        self.call = call
        self.target = f"{scope['method']} {scope['path']}"
        self.status = 0
        self.kind = ""
        self.done = False
        self.body: list[bytes] = []
        self.size = 0
        self.pieces = 0
        self.items = Items(worker, call)
        self.rest = ""
        self.decoder = getincrementaldecoder("utf-8")("replace")

    @property
    def is_events(self) -> bool:
        return self.kind == "text/event-stream" and self.status < 400

    def take(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message.get("headers") or ():
                if bytes(name).lower() == b"content-type":
                    self.kind = bytes(value).decode("latin-1").partition(";")[0].strip().lower()
        elif message["type"] == "http.response.body":
            more = message.get("more_body", False)
            self.add(bytes(message.get("body") or b""), more)
            self.done = not more

    def add(self, data: bytes, more: bool) -> None:
        if self.is_events:
            self.rest += self.decoder.decode(data, not more)
            self.events(not more)
            return
        if not data:
            return
        self.size += len(data)
        if self.size > self.worker.limits.result_bytes:
            message = f"the response is over {self.size} bytes, the bound is {self.worker.limits.result_bytes}"
            raise Failure("OUTPUT_TOO_LARGE", "serialize", message)
        self.body.append(data)
        if self.call.stream and self.status < 400 and (more or self.pieces) and self.kind != "application/json":
            self.pieces += 1
            self.worker.chunk(self.call, serialize(self.decoder.decode(data, not more), self.size * 6 + 64))

    def events(self, last: bool) -> None:
        """Server-sent events (WHATWG HTML, 9.2.6): only their data; JSON where it is JSON."""
        self.rest = self.rest.replace("\r\n", "\n")
        while True:
            block, end, rest = self.rest.partition("\n\n")
            if not end:
                if not (last and block.strip()):
                    return
                rest = ""
            self.rest = rest
            data = [line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:")]
            if data:
                text = "\n".join(data)
                try:
                    parse(text)
                    self.items.add(Raw(text))
                except (ValueError, RecursionError):
                    self.items.add(text)

    def output(self) -> Any:
        if self.is_events:
            return self.items.output()
        body = b"".join(self.body)
        if self.status >= 400:
            text = cut(body.decode("utf-8", "replace"), MESSAGE_BYTES // 2)
            raise Failure("HANDLER_RAISED", "handler", f"{self.target} answered {self.status}: {text}")
        if not body:
            return None
        if self.kind == "application/json" or self.kind.endswith("+json"):
            try:
                text = body.decode()
                parse(text)
                return Raw(text)
            except (ValueError, RecursionError) as error:
                message = f"{self.target} answered {self.kind} that is not JSON: {safe_text(error)}"
                raise Failure("OUTPUT_NOT_SERIALIZABLE", "serialize", message) from None
        try:
            return body.decode()
        except UnicodeDecodeError:
            message = f"{self.target} answered {len(body)} bytes of {self.kind or 'no content type'}, not JSON or text"
            raise Failure("OUTPUT_NOT_SERIALIZABLE", "serialize", message) from None


class AgentCoreEntry(AsgiEntry):
    """A BedrockAgentCoreApp: its entrypoint function, called the way its own /invocations does.

    The app's HTTP handler turns every exception into a 500, so the steps inside it are taken instead and the true
    traceback survives. An app with middleware, and an SDK whose inside looks different, gets the HTTP request."""

    INSIDE = ("_build_request_context", "_invoke_handler", "_takes_context")

    def __init__(self, app: Any, worker: Worker) -> None:
        super().__init__(app, worker, "bedrock_agentcore")
        if not (getattr(app, "handlers", None) or {}).get("main"):
            raise Failure("INIT_FAILED", "init", "the BedrockAgentCoreApp has no function marked @app.entrypoint")
        self.path = "/invocations"
        self.inside = all(hasattr(app, name) for name in self.INSIDE) and not getattr(app, "user_middleware", None)
        logger: Any = getattr(app, "logger", None)
        for handler in list(getattr(logger, "handlers", ())):
            if type(handler).__name__ == "StreamHandler":
                logger.removeHandler(handler)  # its lines reach the root handler too, with their level

    async def run(self, call: Call) -> Any:
        if not self.inside:
            return await super().run(call)
        from starlette.concurrency import iterate_in_threadpool
        from starlette.requests import Request
        from starlette.responses import Response as StarletteResponse

        scope, body = self.request(call)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        app = self.app
        context = app._build_request_context(Request(scope, receive))
        handler = app.handlers["main"]
        value = await app._invoke_handler(handler, context, app._takes_context(handler), call.input)
        if hasattr(value, "__next__"):
            return iterate_in_threadpool(value)
        if isinstance(value, StarletteResponse):
            response = Response(self.worker, call, scope)
            await self.exchange(value, scope, body, response)
            return response.output()
        return self.checked(value)

    def checked(self, value: Any) -> Any:
        """What is no JSON goes the SDK's own way: model_dump, asdict, and at last str()."""
        if hasattr(value, "__anext__") or value is None or type(value) in (str, int, bool):
            return value
        try:
            dump(value)
            return value
        except Exception:
            convert = getattr(self.app, "_safe_serialize_to_json_string", None)
            if convert is None:
                return value
            text = convert(value)
            try:
                parse(text)
            except ValueError:
                return value  # NaN: the SDK would send it, JSON has no word for it
            return Raw(text)

    def is_busy(self) -> bool:
        status = self.app.get_current_ping_status()
        return str(getattr(status, "value", status)) == "HealthyBusy"


# ---------------------------------------------------------------------------------------------------------------------
# What the agent imports and we must adapt: patched right after its import, never imported from here.


class ImportWatch:
    """A meta path finder that finds nothing itself: it lets the others find, and patches once the module has run."""

    def __init__(self, patches: dict[str, Callable[[Any], None]]) -> None:
        self.patches = patches
        for name in list(patches):
            if name in sys.modules:
                patches.pop(name)(sys.modules[name])
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self.patches:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    self.hook(spec.loader, self.patches.pop(name))
                return spec
        return None

    @staticmethod
    def hook(loader: Any, patch: Callable[[Any], None]) -> None:
        execute = loader.exec_module

        def exec_module(module: Any) -> None:
            execute(module)
            patch(module)

        loader.exec_module = exec_module


class Patches:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker

    def table(self) -> dict[str, Callable[[Any], None]]:
        return {
            "logging": self.logging,
            "warnings": self.warnings,
            "threading": self.threading,
            "concurrent.futures.thread": self.executor,
            "bedrock_agentcore.runtime.app": self.agentcore,
            "uvicorn.main": self.uvicorn_main,
            "uvicorn.server": self.uvicorn_server,
        }

    def logging(self, module: Any) -> None:
        worker = self.worker
        known = set(vars(module.makeLogRecord({}))) | {"message", "asctime", "taskName", "_phalanx"}
        to_stream = module.StreamHandler.emit

        def emit(record: Any, message: str) -> None:
            fields = {name: value for name, value in vars(record).items() if name not in known}
            context = json_context({"logger": record.name, **fields})
            worker.sink().line(level_name(record.levelno), message, context)

        class Handler(module.Handler):  # type: ignore[misc]
            def emit(self, record: Any) -> None:
                if not getattr(record, "_phalanx", False):
                    try:
                        emit(record, self.format(record))
                    except Exception:
                        self.handleError(record)

        def stream_emit(self: Any, record: Any) -> None:
            """A handler that writes to our stdout or stderr keeps the record's level, and says it only once."""
            if not isinstance(self.stream, Stream):
                to_stream(self, record)
            elif not getattr(record, "_phalanx", False):
                try:
                    message = self.format(record)
                    record._phalanx = True
                    emit(record, message)
                except Exception:
                    self.handleError(record)

        ours = Handler()
        basic_config = module.basicConfig

        def basic(**options: Any) -> None:
            """basicConfig does nothing once the root has a handler; ours must not make the agent's call void."""
            module.root.removeHandler(ours)
            try:
                basic_config(**options)
            finally:
                module.root.addHandler(ours)

        module.StreamHandler.emit = stream_emit
        module.basicConfig = basic
        module.root.addHandler(ours)
        module.root.setLevel(worker.log_level)

    def warnings(self, module: Any) -> None:
        worker = self.worker

        def show(  # noqa: PLR0917 (the signature of warnings.showwarning)
            message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None
        ) -> None:
            if file is not None:
                file.write(module.formatwarning(message, category, filename, lineno, line))
                return
            context = json_context({"filename": filename, "lineno": lineno})
            worker.sink().line("WARN", f"{category.__name__}: {message}", context)

        module.showwarning = show

    def threading(self, module: Any) -> None:
        start = module.Thread.start

        def start_for_call(thread: Any) -> None:
            call = _current.get()
            if call is not None:
                run = thread.run

                def run_for_call() -> None:
                    _current.set(call)
                    run()

                try:
                    thread.run = run_for_call
                except AttributeError:
                    pass  # a subclass with slots: its lines are the instance's
            start(thread)

        module.Thread.start = start_for_call

    def executor(self, module: Any) -> None:
        submit = module.ThreadPoolExecutor.submit

        def run_for_call(call: Call | None, task: Any, /, *args: Any, **options: Any) -> Any:
            _current.set(call)
            try:
                return task(*args, **options)
            finally:
                _current.set(None)

        def submit_for_call(self: Any, task: Any, /, *args: Any, **options: Any) -> Any:
            return submit(self, run_for_call, _current.get(), task, *args, **options)

        module.ThreadPoolExecutor.submit = submit_for_call

    def agentcore(self, module: Any) -> None:
        module.BedrockAgentCoreApp.run = self.record(module.BedrockAgentCoreApp.run, lambda app: app)

    def uvicorn_main(self, module: Any) -> None:
        module.run = self.record(module.run, lambda app: app)

    def uvicorn_server(self, module: Any) -> None:
        module.Server.run = self.record(module.Server.run, lambda server: server.config.app)
        serve = module.Server.serve
        worker = self.worker

        async def serve_recorded(server: Any, *args: Any, **options: Any) -> None:
            if worker.phase == "serving":
                await serve(server, *args, **options)
            else:
                worker.served.append(server.config.app)

        module.Server.serve = serve_recorded

    def record(self, original: Any, served: Callable[[Any], Any]) -> Any:
        """Instead of starting a server while the agent is imported: remember what it would have served."""
        worker = self.worker

        def run(first: Any = None, *args: Any, **options: Any) -> Any:
            if worker.phase == "serving":
                return original(first, *args, **options)
            worker.served.append(served(first if first is not None else options.get("app")))
            return None

        return run


# ---------------------------------------------------------------------------------------------------------------------
# The worker.


class Worker:
    one: Worker | None = None

    def __init__(self, fd: int) -> None:
        Worker.one = self
        self.wire = Wire(fd)
        self.frames = Frames(fd, 64 << 20)
        self.running: dict[int, Call] = {}  # what CANCEL can reach
        self.unanswered: dict[int, Call] = {}  # the same and those whose answer is being made
        self.starts = 0
        self.memory = Memory()
        self.engine: Idle = Idle()
        self.served: list[Any] = []
        self.phase = "import"
        self.forked = False
        self.is_template = False
        self.own_module: Any = None
        kind, _, text = self.first_frame()
        if kind != INIT:
            os._exit(1)
        given = parse(text)
        self.limits = Limits(given.get("limits") or {})
        self.frames.bound = self.limits.frame_bytes
        self.code_dir: str = given["code_dir"]
        self.site_dirs: list[str] = given.get("site_dirs") or []
        self.entrypoint: str = given["entrypoint"]
        self.concurrency: int = max(1, given.get("concurrency") or 1)
        self.log_level = LEVELS.get(str(given.get("log_level") or "INFO").upper(), 20)
        self.environment: dict[str, str] = given.get("environment") or {}
        self.is_template = bool(given.get("template"))
        self.warm_up: Any = given.get("warm_up")
        self.scratch = os.getcwd()
        self.shared = set(os.listdir(SHARED)) if self.is_template else set()
        self.instance = Sink(0, self)
        self.attendant = Attendant(self)
        self.entry: Entry

    def first_frame(self) -> tuple[int, int, str]:
        while True:
            frames = self.frames.read()
            if frames:
                self.early = frames[1:]
                return frames[0]

    # Start.

    def start(self) -> NoReturn:
        self.settle_process()
        began = perf_counter()
        imported = began
        try:
            target, name = resolve(self.entrypoint, self)
            imported = perf_counter()
            self.phase = "init"
            self.entry = entry_for(target, name, self)
            if self.is_template:
                Template(self).serve((imported - began) * 1000, imported)
                began = imported = perf_counter()  # here is what was forked; the import was the template's
                self.call_after_fork()
            self.engine = self.make_engine()
        except BaseException as error:
            self.give_up(error)
        self.phase = "serving"
        import gc

        gc.freeze()  # what the import left lives as long as we do: full collections need not look at it
        ended = perf_counter()
        body = {
            "entrypoint_kind": self.entry.kind,
            "import_ms": round((imported - began) * 1000, 3),
            "init_ms": round((ended - imported) * 1000, 3),
            "python": ".".join(map(str, sys.version_info[:3])),
        }
        self.instance.flush()
        self.wire.post(READY, 0, dump(body).encode())
        self.wire.flush()
        import threading  # noqa: F401 (takes whichever thread imports it first for the main one: it must be this)

        self.engine_ready()

    def settle_process(self) -> None:
        os.environ.update(self.environment)
        os.environ.setdefault("AGNO_TELEMETRY", "false")  # it could not get out, and would only cost time
        sys.path[:0] = [self.code_dir]
        for folder in self.site_dirs:
            add_site_dir(folder)
        for number in (SIGINT, SIGURG):
            try:
                # A handler that does nothing, not "ignore": that would be inherited by subprocesses.
                set_signal(number, on_signal)
            except (OSError, ValueError):
                pass
        if not self.is_template:
            self.attendant.capture()
            self.attendant.start()
        sys.stdout = sys.__stdout__ = Stream(1, self)  # type: ignore[misc, assignment]
        sys.stderr = sys.__stderr__ = Stream(2, self)  # type: ignore[misc, assignment]
        os.register_at_fork(after_in_child=self.after_fork)
        ImportWatch(Patches(self).table())

    def after_fork(self) -> None:
        """A child that the agent forked must not speak on our socket."""
        if self.is_template and not self.forked and Template.forking:
            return
        self.forked = True
        os.close(self.wire.fd)

    def call_after_fork(self) -> None:
        """The agent's own `after_fork()`, of the module that its entry point names: for what must not be shared."""
        name = self.entrypoint.partition(":")[0] if ":" in self.entrypoint else None
        if name is None:
            name = "__main__" if self.entrypoint.endswith(".py") else main_module(self.code_dir)
        hook = getattr(sys.modules.get(name), "after_fork", None)
        if not callable(hook):
            return
        self.phase = "init"
        value = hook()
        if hasattr(value, "__await__"):
            raise Failure("INIT_FAILED", "init", "after_fork() is async; it runs before there is an event loop")

    def make_engine(self) -> Idle:
        if not self.entry.is_async:
            return SyncEngine(self)
        engine = AsyncEngine(self)
        engine.loop.run_until_complete(self.entry.prepare())
        self.frames.on_end = lambda: self.leave_loop(engine)
        return engine

    def leave_loop(self, engine: AsyncEngine) -> None:
        """End of file with an application that has a lifespan: its shutdown first, within a bound."""
        if getattr(self.entry, "lifespan", None) is None:
            os._exit(0)
        self.frames.on_end = lambda: None

        async def leave() -> None:
            try:
                await self.entry.shutdown()
            finally:
                os._exit(0)

        def bound() -> None:
            time.sleep(SHUTDOWN_SECONDS)
            os._exit(0)

        start_new_thread(bound, ())

        def begin() -> None:
            engine.loop.remove_reader(self.frames.fd)
            self.leaving = engine.loop.create_task(leave())

        engine.loop.call_soon_threadsafe(begin)

    def engine_ready(self) -> NoReturn:
        engine = self.engine
        if self.early:
            self.receive(self.early, engine.ready)  # type: ignore[attr-defined]
        engine.serve()  # type: ignore[attr-defined]
        raise AssertionError("serve does not return")

    def give_up(self, error: BaseException) -> NoReturn:
        phase = "import" if self.phase == "import" else "init"
        if isinstance(error, Failure) and error.code == "INIT_FAILED":
            phase = error.phase
        try:
            body = "{" + error_object(error, "INIT_FAILED", phase) + "}"
        except BaseException:
            body = (
                '{"code":"INIT_FAILED","phase":"%s","message":"out of memory","exception_type":null,"traceback":null}'
            )
            body = body % phase
        self.attendant.pump()
        self.instance.close()
        self.wire.post(FAILED, 0, body.encode("utf-8", "replace"))
        self.wire.flush()
        os._exit(1)

    # Frames in, on whichever thread reads.

    def receive(self, frames: list[tuple[int, int, str]], ready: deque[Call]) -> None:
        for kind, id_, text in frames:
            if kind == CALL:
                try:
                    call = Call(id_, parse(text))
                except (ValueError, RecursionError, MemoryError) as error:
                    self.refuse(id_, error)
                    continue
                self.running[id_] = self.unanswered[id_] = call
                self.starts += 1
                ready.append(call)
            elif kind == CANCEL:
                found = self.running.get(id_)
                if found is not None:
                    self.engine.cancel(found)
            elif kind == PING:
                self.pong(id_)
                path = (parse(text) if text else {}).get("path")
                if path and isinstance(self.entry, AsgiEntry):
                    self.entry.probe(id_, path)

    def pong(self, id_: int, status: int | None = None) -> None:
        busy = b"true" if self.is_busy() else b"false"
        self.wire.post(PONG, id_, b'{"busy":%b%b}' % (busy, b"" if status is None else b',"status":%d' % status))
        self.wire.flush()

    def refuse(self, id_: int, error: BaseException) -> None:
        """Input that Python cannot hold: nested beyond its recursion limit, an integer of thousands of digits."""
        code = "OUT_OF_MEMORY" if isinstance(error, MemoryError) else "HANDLER_RAISED"
        reason = Failure(code, "handler", f"Python cannot read the input: {type_name(error)}: {safe_text(error)}")
        self.fail(Call(id_, {}), reason, perf_counter(), None)
        self.wire.flush()

    def is_busy(self) -> bool:
        try:
            return self.entry.is_busy()
        except Exception:
            return False

    # Frames out.

    def sink(self) -> Sink:
        """Where the lines of whoever is running now belong."""
        call = _current.get()
        return self.instance if call is None else self.sink_of(call)

    def sink_of(self, call: Call) -> Sink:
        if call.answered:
            return self.instance
        sink = call.sink
        if sink is None:
            sink = call.sink = Sink(call.id, self)
        return sink

    def only_sink(self) -> Sink:
        unanswered = self.unanswered
        if len(unanswered) == 1:
            try:
                return self.sink_of(next(iter(unanswered.values())))
            except (StopIteration, RuntimeError):
                pass
        return self.instance

    def items(self, call: Call) -> Items:
        return Items(self, call)

    def chunk(self, call: Call, body: bytes) -> None:
        if not call.answered:
            self.wire.post(CHUNK, call.id, b'{"data":%b}' % body)
            self.wire.flush()

    def finish(self, call: Call, value: Any, ended: float) -> None:
        try:
            output = serialize(value, self.limits.result_bytes)
        except BaseException as error:
            self.fail(call, error, ended, None)
            return
        self.wire.post(RESULT, call.id, b'{%b,"output":%b}' % (self.numbers(call, ended), output))

    def fail(self, call: Call, error: BaseException, ended: float, cpu: float | None) -> None:
        if cpu is not None:
            call.cpu = cpu - call.step_at
        try:
            code, phase = "HANDLER_RAISED", "handler"
            if call.cancelled:
                code = "CANCELLED"
                error = plain_cancel(error)
            elif isinstance(error, MemoryError):
                code = "OUT_OF_MEMORY"
            members = error_object(error, code, phase)
        except BaseException:  # no memory even to describe it
            members = (
                '"code":"OUT_OF_MEMORY","phase":"handler","message":"out of memory while describing an error",'
                '"exception_type":null,"traceback":null'
            )
        self.wire.post(ERROR, call.id, b"{%b,%b}" % (members.encode("utf-8", "replace"), self.numbers(call, ended)))

    def numbers(self, call: Call, ended: float) -> bytes:
        """The measured part of RESULT and ERROR. Flushes the call's lines first: they must come before it."""
        self.attendant.pump_if_ready()
        self.unanswered.pop(call.id, None)
        call.answered = True
        sink, dropped = call.sink, 0
        if sink is not None:
            sink.close()
            dropped = sink.dropped
        metrics = b"{}" if call.metrics is None else dump(call.metrics).encode("utf-8", "replace")
        return b'"cpu_ms":%.3f,"memory_peak_mb":%b,"handler_ms":%.3f,"tokens":%b,"metrics":%b,"log_dropped":%d' % (
            call.cpu * 1000,
            self.memory.peak(ended),
            (ended - call.started_at) * 1000 if call.started_at else 0.0,
            b"null" if call.tokens is None else str(call.tokens).encode(),
            metrics,
            dropped,
        )


# ---------------------------------------------------------------------------------------------------------------------
# The template.

FILES_MOST, FILES_BYTES = 256, 4 << 20  # what the import left in /tmp, and every fork gets a copy of
SHARED = "/dev/shm"
HARMLESS = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
PR_SET_DUMPABLE, CAPABILITY_VERSION = 4, 0x20080522


class Template:
    forking = False

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        import ctypes
        import threading  # noqa: F401 (takes whichever thread imports it first for the main one: it must be this)

        self.libc = ctypes.CDLL(None, use_errno=True)
        self.number = ctypes.c_ulong
        self.no_capabilities = ctypes.create_string_buffer(24)
        self.header = ctypes.create_string_buffer(CAPABILITY_VERSION.to_bytes(4, sys.byteorder) + bytes(4), 8)

    def serve(self, import_ms: float, imported: float) -> None:
        """Forks for as long as there is an executor. Returns in what was forked, once it has been adopted."""
        worker = self.worker
        if worker.warm_up is not None:
            self.handle_once()
        worker.memory = Memory()
        reason = self.why_not()
        body = {
            "entrypoint_kind": worker.entry.kind,
            "import_ms": round(import_ms, 3),
            "init_ms": round((perf_counter() - imported) * 1000, 3),
            "python": ".".join(map(str, sys.version_info[:3])),
            "spawn_only": reason,
        }
        worker.instance.close()
        worker.wire.post(READY, 0, dump(body).encode())
        worker.wire.flush()
        if reason is not None:
            os._exit(0)
        # No other instance may look into what all are forked from.
        self.libc.prctl(PR_SET_DUMPABLE, self.number(0), self.number(0), self.number(0), self.number(0))
        import gc

        gc.collect()
        gc.freeze()  # a collection must not write to what is shared
        while True:
            fd = self.next_fork()
            if self.fork():
                self.adopt(fd)
                return
            os.close(fd)

    def next_fork(self) -> int:
        """Blocks for a FORK; the descriptor of the new one's socket comes with it."""
        import socket

        wire = socket.socket(fileno=self.worker.wire.fd)
        try:
            data, fds, _, _ = socket.recv_fds(wire, 13, 1, socket.MSG_CMSG_CLOEXEC)
            while data and len(data) < 13:
                data += wire.recv(13 - len(data))
            if not data:
                os._exit(0)
            length, kind, _ = HEADER.unpack(data)
            if kind != FORK or length < 9 or length > 4096 or len(fds) != 1:
                os._exit(1)
            rest = length - 9
            while rest:
                got = len(wire.recv(rest))
                if got == 0:
                    os._exit(0)
                rest -= got
        finally:
            wire.detach()
        return int(fds[0])

    def fork(self) -> bool:
        """Twice, so that nobody here has to wait for the end of what is forked: its parent is process 1."""
        Template.forking = True
        try:
            middle = os.fork()
            if middle == 0:
                if os.fork() != 0:
                    os._exit(0)
                return True
            os.waitpid(middle, 0)
        finally:
            Template.forking = False
        return False

    def adopt(self, fd: int) -> None:
        """In what was forked: says that it is there, waits until it is wanted, and becomes what it is to be."""
        worker = self.worker
        os.dup2(fd, worker.wire.fd, inheritable=False)
        os.close(fd)
        for _ in range(5000):
            if os.getppid() == 1:
                break
            time.sleep(0.0002)
        os.write(worker.wire.fd, b"f")
        worker.frames = Frames(worker.wire.fd, worker.limits.frame_bytes)
        kind, _, text = worker.first_frame()
        if kind != ADOPT:
            os._exit(1)
        root = parse(text).get("root")
        if root is not None:
            copy_files(worker.scratch, root + worker.scratch)
            os.chroot(root)
            os.chdir(worker.scratch)
        if self.libc.capset(self.header, self.no_capabilities) != 0:
            raise Failure("INIT_FAILED", "init", "the right to change its root could not be given away")
        # What is the process's own in /proc can be opened only now, and by nobody else after it.
        self.libc.prctl(PR_SET_DUMPABLE, self.number(1), self.number(0), self.number(0), self.number(0))
        worker.memory.open()
        self.libc.prctl(PR_SET_DUMPABLE, self.number(0), self.number(0), self.number(0), self.number(0))
        worker.is_template = False
        worker.instance = Sink(0, worker)
        worker.attendant = Attendant(worker)
        worker.attendant.capture()
        worker.attendant.start()
        reseed()

    def handle_once(self) -> None:
        """The warm-up input goes the way of a call's; what comes of it is nobody's. An error is a line of the log."""
        worker = self.worker
        call = Call(0, {"input": worker.warm_up, "execution_id": "warm-up"})
        call.sink = worker.instance

        async def on_a_loop() -> None:
            await worker.entry.prepare()
            try:
                value = worker.entry.invoke(call)
                if type(value) not in PLAIN:
                    value = await settle_value(worker, call, value)
                serialize(value, worker.limits.result_bytes)
            finally:
                await worker.entry.shutdown()

        def once() -> None:
            _current.set(call)
            if worker.entry.is_async:
                import asyncio

                asyncio.run(on_a_loop())
                return
            value = worker.entry.invoke(call)
            if type(value) not in PLAIN:
                value = SyncEngine(worker).complete(call, value)
            serialize(value, worker.limits.result_bytes)

        try:
            copy_context().run(once)
        except BaseException as error:
            worker.instance.line("WARN", f"the warm-up input failed: {type_name(error)}: {safe_text(error)}")

    def why_not(self) -> str | None:
        """What a fork would break or share: `None` if there is nothing."""
        try:
            threads = os.listdir("/proc/self/task")
            if len(threads) > 1:
                return f"it has {len(threads)} threads after its import"
            with open(f"/proc/self/task/{threads[0]}/children") as file:
                if file.read().split():
                    return "it has child processes after its import"
            for fd in os.listdir("/proc/self/fd"):
                reason = self.why_not_open(int(fd))
                if reason is not None:
                    return reason
            with open("/proc/self/maps") as file:
                for line in file:
                    _, modes, _, _, _, *name = line.split(None, 5)
                    if modes[1] == "w" and modes[3] == "s":
                        return f"it shares memory after its import: {''.join(name).strip() or 'without a name'}"
        except OSError as error:
            return f"it cannot be looked at: {safe_text(error)}"
        count, size = measure_files(self.worker.scratch)
        if count > FILES_MOST or size > FILES_BYTES:
            return f"its import leaves {count} files of {size} bytes in /tmp, too many to be copied for each"
        if count:
            import shutil  # noqa: F401 (for `copy_files`, which others wait for)
        if set(os.listdir(SHARED)) - self.worker.shared:
            return "its import leaves files in /dev/shm"
        return None

    def why_not_open(self, fd: int) -> str | None:
        if fd <= 2 or fd == self.worker.wire.fd:
            return None
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            return None  # the one that listed them
        if target in HARMLESS:
            return None
        kind = "an open socket" if target.startswith("socket:") else f"an open file, {target},"
        return f"it has {kind} after its import"


def reseed() -> None:
    """Python does it for `random` by itself, for no other generator."""
    random: Any = sys.modules.get("random")
    if random is not None:
        random.seed()
    numpy: Any = sys.modules.get("numpy.random")
    if numpy is not None and hasattr(numpy, "seed"):
        numpy.seed()
    uuid: Any = sys.modules.get("uuid")
    if uuid is not None and hasattr(uuid, "_last_timestamp"):
        uuid._last_timestamp = None
        uuid._node = None
    tempfile: Any = sys.modules.get("tempfile")
    if tempfile is not None:
        tempfile._name_sequence = None


def measure_files(folder: str) -> tuple[int, int]:
    count = size = 0
    for path, folders, names in os.walk(folder):
        count += len(folders) + len(names)
        for name in names:
            size += os.lstat(os.path.join(path, name)).st_size
        if count > FILES_MOST:
            break
    return count, size


def copy_files(source: str, target: str) -> None:
    if os.listdir(source):
        import shutil

        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)


def plain_cancel(error: BaseException) -> BaseException:
    """A cancelled call's error; ours and asyncio's say nothing, so a sentence stands in."""
    if isinstance(error, Failure):
        return Failure("CANCELLED", error.phase, error.args[0])
    if not error.args and type(error).__name__ in ("Interrupted", "CancelledError"):
        error.args = ("the execution was cancelled",)
    return error


def on_signal(number: int, frame: FrameType | None) -> None:
    """Returns from a blocking system call; an interrupt that waits for the main thread is met on the way."""


def add_site_dir(folder: str) -> None:
    try:
        has_paths = any(name.endswith(".pth") for name in os.listdir(folder))
    except OSError:
        has_paths = False
    if has_paths:
        import site

        site.addsitedir(folder)
    if folder not in sys.path:
        sys.path.append(folder)


def adopt_socket() -> int:
    """Moves fd 3 out of the way of what agents and subprocesses think they own."""
    try:
        fd = os.dup2(3, 200, inheritable=False)
    except OSError:
        fd = os.dup(3)
    os.close(3)
    return fd


def main() -> NoReturn:
    Worker(adopt_socket()).start()


if __name__ == "__main__":
    main()
