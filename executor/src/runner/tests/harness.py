"""The executor's side of the worker protocol, for tests: starts a worker on a socketpair and speaks frames with it."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

WORKER = Path(__file__).parent.parent / "worker.py"
REPOSITORY = WORKER.parents[3]
HEADER = struct.Struct(">IBQ")
INIT, CALL, CANCEL, PING, FORK, ADOPT = 1, 2, 3, 4, 5, 6
READY, FAILED, RESULT, ERROR, LOG, CHUNK, PROGRESS, PONG = 65, 66, 67, 68, 69, 70, 71, 72
DEADLINE = 20.0


def packages() -> list[str]:
    """The site directory that the tests' own packages live in: the agent's environment."""
    return [path for path in sys.path if path.endswith("site-packages")]


class Outcome:
    """How a call ended, and everything that came before the end."""

    def __init__(self, kind: int, body: dict[str, Any], before: list[tuple[int, dict[str, Any]]]) -> None:
        self.ok = kind == RESULT
        self.body = body
        self.output: Any = body.get("output")
        self.chunks = [b["data"] for k, b in before if k == CHUNK]
        self.progress = [b["percent"] for k, b in before if k == PROGRESS]
        self.lines = [line for k, b in before if k == LOG for line in b["lines"]]
        self.messages = [line[2] for line in self.lines]

    def __repr__(self) -> str:
        return f"Outcome(ok={self.ok}, body={self.body!r}, messages={self.messages!r}, chunks={self.chunks!r})"


class Worker:
    def __init__(
        self,
        source: str | dict[str, str] | Path,
        entrypoint: str = "handler",
        *,
        concurrency: int = 10,
        log_level: str = "INFO",
        environment: dict[str, str] | None = None,
        site_dirs: list[str] | None = None,
        limits: dict[str, int] | None = None,
        template: bool = False,
        warm_up: object = None,
        flags: tuple[str, ...] = ("-I", "-u"),
    ) -> None:
        self.folder = tempfile.TemporaryDirectory()
        code = Path(self.folder.name) / "code"
        scratch = Path(self.folder.name) / "tmp"
        scratch.mkdir()
        if isinstance(source, Path):
            code = source
        else:
            code.mkdir()
            for name, text in ({"agent.py": source} if isinstance(source, str) else source).items():
                path = code / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(textwrap.dedent(text))
        self.socket, theirs = socket.socketpair()
        self.started_at = time.perf_counter()
        self.process = (
            subprocess.Popen(
                [sys.executable, *flags, "-c", BOOT, str(theirs.fileno()), sys.executable, *flags, str(WORKER)],
                pass_fds=(theirs.fileno(),),
                cwd=scratch,
                stdin=subprocess.DEVNULL,
            )
            if theirs.fileno() != 3
            else self.direct(flags, scratch)
        )
        theirs.close()
        self.reset()
        bounds = {
            "frame_bytes": 64 << 20,
            "result_bytes": 4 << 20,
            "log_lines": 1000,
            "log_bytes": 1 << 20,
            "log_line_bytes": 8192,
        }
        self.send(
            INIT,
            0,
            {
                "code_dir": str(code),
                "site_dirs": site_dirs or [],
                "entrypoint": entrypoint,
                "concurrency": concurrency,
                "log_level": log_level,
                "environment": environment or {},
                "limits": bounds | (limits or {}),
                "template": template,
                **({} if warm_up is None else {"warm_up": warm_up}),
            },
        )

    def reset(self) -> None:
        """Nothing has been said yet."""
        self.buffer = bytearray()
        self.next_id = 1
        self.before: dict[int, list[tuple[int, dict[str, Any]]]] = {}
        self.ended: dict[int, tuple[int, dict[str, Any]]] = {}
        self.pongs: list[dict[str, Any]] = []
        self.start: tuple[int, dict[str, Any]] | None = None
        self.at_end = False

    def direct(self, flags: tuple[str, ...], scratch: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, *flags, str(WORKER)], pass_fds=(3,), cwd=scratch)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(3)
        self.folder.cleanup()

    # Frames.

    def send(self, kind: int, id_: int, body: Any = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.socket.sendall(HEADER.pack(9 + len(data), kind, id_) + data)

    def receive(self, until: Callable[[], bool], deadline: float = DEADLINE) -> None:
        """Reads frames until `until()`; the wait has a deadline and tells what was seen."""
        end = time.monotonic() + deadline
        while not until():
            left = end - time.monotonic()
            if left <= 0 or self.at_end:
                seen = {id_: [k for k, _ in frames] for id_, frames in self.before.items()}
                raise AssertionError(f"not seen in time: start={self.start} before={seen} ended={list(self.ended)}")
            if select.select([self.socket], [], [], left)[0]:
                data = self.socket.recv(1 << 20)
                if not data:
                    self.at_end = True
                self.buffer += data
                self.split()

    def split(self) -> None:
        while len(self.buffer) >= 13:
            length, kind, id_ = HEADER.unpack_from(self.buffer, 0)
            if len(self.buffer) < 4 + length:
                return
            body = json.loads(bytes(self.buffer[13 : 4 + length]) or b"null")
            del self.buffer[: 4 + length]
            if kind in (READY, FAILED):
                self.start = (kind, body)
            elif kind in (RESULT, ERROR):
                assert id_ not in self.ended, "a call was answered twice"
                self.ended[id_] = (kind, body)
            elif kind == PONG:
                self.pongs.append(body)
            else:
                assert id_ not in self.ended, f"frame {kind} after the answer of call {id_}: {body}"
                self.before.setdefault(id_, []).append((kind, body))

    # What tests say.

    def ready(self) -> dict[str, Any]:
        self.receive(lambda: self.start is not None)
        assert self.start is not None and self.start[0] == READY, self.start
        return self.start[1]

    def failed(self) -> dict[str, Any]:
        self.receive(lambda: self.start is not None)
        assert self.start is not None and self.start[0] == FAILED, self.start
        assert self.process.wait(DEADLINE) == 1
        return self.start[1]

    def call(self, input: Any = None, *, stream: bool = False, **context: Any) -> int:
        id_ = self.next_id
        self.next_id += 1
        body = {
            "execution_id": f"exec-{id_}",
            "attempt": 1,
            "deadline_ms": int((time.time() + 60) * 1000),
            "stream": stream,
            "input": input,
            "context": {"user_id": None, "session_id": None, "request_id": None, "metadata": {}, "traceparent": None}
            | context,
        }
        self.send(CALL, id_, body)
        return id_

    def wait(self, id_: int, deadline: float = DEADLINE) -> Outcome:
        self.receive(lambda: id_ in self.ended, deadline)
        return Outcome(*self.ended[id_], self.before.get(id_, []))

    def run(self, input: Any = None, *, stream: bool = False, **context: Any) -> Outcome:
        return self.wait(self.call(input, stream=stream, **context))

    def cancel(self, id_: int) -> None:
        self.send(CANCEL, id_, {"reason": "cancelled"})

    def ping(self, deadline: float = DEADLINE, path: str | None = None) -> dict[str, Any]:
        """With a path: the answer that holds the application's status."""
        count = len(self.pongs)
        self.send(PING, 0, None if path is None else {"path": path})
        self.receive(lambda: any(path is None or "status" in pong for pong in self.pongs[count:]), deadline)
        return self.pongs[-1]

    def instance_lines(self) -> list[list[Any]]:
        return [line for k, b in self.before.get(0, []) if k == LOG for line in b["lines"]]

    def wait_line(self, id_: int, text: str) -> list[Any]:
        """Waits until a line of the call (0: of the instance) contains the text."""

        def lines() -> Iterator[list[Any]]:
            for kind, body in self.before.get(id_, []):
                if kind == LOG:
                    yield from body["lines"]

        self.receive(lambda: any(text in line[2] for line in lines()))
        return next(line for line in lines() if text in line[2])


# fd 3 is what the worker wants; pass_fds keeps numbers, so a tiny first stage moves the descriptor and execs.
BOOT = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
if int(sys.argv[1]) != 3: os.close(int(sys.argv[1]))
os.execv(sys.argv[2], sys.argv[2:])
"""


def measure(worker: Worker, calls: int, in_flight: int) -> float:
    """Microseconds a call, pipelined."""
    body = json.dumps(
        {"execution_id": "e", "attempt": 1, "deadline_ms": 1, "stream": False, "input": {"a": 1}, "context": {}}
    )
    data = body.encode()
    sent = got = 0
    buffer = bytearray()
    begin = time.perf_counter()
    base = worker.next_id
    worker.next_id += calls
    while got < calls:
        batch = []
        while sent < calls and sent - got < in_flight:
            batch.append(HEADER.pack(9 + len(data), CALL, base + sent) + data)
            sent += 1
        if batch:
            worker.socket.sendall(b"".join(batch))
        buffer += worker.socket.recv(1 << 18)
        start = 0
        while len(buffer) - start >= 13:
            length, kind, _ = HEADER.unpack_from(buffer, start)
            if len(buffer) - start < 4 + length:
                break
            assert kind == RESULT, kind
            got += 1
            start += 4 + length
        del buffer[:start]
    return (time.perf_counter() - begin) / calls * 1e6


def environment_path() -> str:
    return os.environ.get("PATH", "")
