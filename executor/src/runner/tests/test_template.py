"""A template: imports, says whether it can be forked, forks, and what is forked answers calls."""

from __future__ import annotations

import os
import socket

import pytest
from harness import ADOPT, FORK, HEADER, LOG, Worker


class Forked(Worker):
    """What a template has forked, spoken with like any other worker."""

    def __init__(self, template: Worker) -> None:
        self.socket, theirs = socket.socketpair()
        frame = HEADER.pack(11, FORK, 1) + b"{}"
        socket.send_fds(template.socket, [frame], [theirs.fileno()])
        theirs.close()
        self.process = template.process
        self.reset()
        self.socket.settimeout(20)
        assert self.socket.recv(1) == b"f"

    def adopt(self) -> Forked:
        self.send(ADOPT, 0, {"root": None})
        self.ready()
        return self

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def template(source: str, warm_up: object = None, **options: object) -> Worker:
    return Worker(source, template=True, warm_up=warm_up, **options)  # type: ignore[arg-type]


def test_what_is_forked_answers_calls_of_its_own() -> None:
    source = """
        import os, threading
        def handler(input):
            return [os.getpid(), input, threading.current_thread() is threading.main_thread()]
    """
    with template(source, concurrency=1) as parent:
        assert parent.ready()["spawn_only"] is None
        with Forked(parent) as one, Forked(parent) as two:
            first, second = one.adopt().run(1).output, two.adopt().run(2).output
            assert [first[1], second[1]] == [1, 2] and first[2] and second[2]
            assert len({first[0], second[0], parent.process.pid}) == 3
            assert one.start is not None and one.start[1]["import_ms"] == 0


def test_the_end_of_its_socket_is_its_end_and_nobody_else_s() -> None:
    source = "import os\ndef handler(input): return os.getpid()"
    with template(source) as parent:
        parent.ready()
        with Forked(parent) as lives:
            with Forked(parent) as ends:
                pid = ends.adopt().run().output
                waits = Forked(parent)
            waits.socket.close()
            lives.adopt()
            lives.receive(lambda: not os.path.exists(f"/proc/{pid}") or dead(pid))
            assert lives.run().output != pid


def dead(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] in "ZX"


def test_chance_differs() -> None:
    source = """
        import random, uuid, secrets, tempfile
        def handler(input):
            return [random.random(), str(uuid.uuid4()), secrets.token_hex(), str(uuid.uuid1())]
    """
    with template(source) as parent:
        parent.ready()
        with Forked(parent) as one, Forked(parent) as two:
            first, second = one.adopt().run().output, two.adopt().run().output
            assert not set(first) & set(second)


def test_after_fork_runs_once_in_each_and_never_in_the_template() -> None:
    source = """
        import os
        seen = []
        def after_fork(): seen.append(os.getpid())
        def handler(input): return [seen, os.getpid()]
    """
    with template(source) as parent:
        parent.ready()
        with Forked(parent) as one, Forked(parent) as two:
            for forked in (one, two):
                seen, own = forked.adopt().run().output
                assert seen == [own]


def test_an_after_fork_that_fails_is_the_instance_s_failure() -> None:
    with template("def after_fork(): raise ValueError('no')\ndef handler(input): return 1") as parent:
        parent.ready()
        with Forked(parent) as one:
            one.send(ADOPT, 0, {"root": None})
            one.receive(lambda: one.start is not None)
            assert one.start is not None
            assert one.start[1]["code"] == "INIT_FAILED" and "no" in one.start[1]["message"]


@pytest.mark.parametrize("word", ["", "async "])
def test_the_warm_up_input_is_handled_once(word: str) -> None:
    source = f"""
        calls = []
        {word}def handler(input):
            calls.append(input)
            print("handled", input)
            return len(calls)
    """
    with template(source, {"warm": 1}) as parent:
        parent.ready()
        assert [line[2] for line in parent.instance_lines()] == ["handled {'warm': 1}"]
        with Forked(parent) as one, Forked(parent) as two:
            assert one.adopt().run({}).output == 2
            assert two.adopt().run({}).output == 2
            assert one.run({}).output == 3


def test_a_warm_up_that_fails_is_a_line() -> None:
    with template("def handler(input): 1 / input", 0) as parent:
        assert parent.ready()["spawn_only"] is None
        assert "the warm-up input failed: ZeroDivisionError" in parent.instance_lines()[0][2]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "2 threads"),
        ("import socket\nkept = socket.socket()", "an open socket"),
        ("kept = open(__file__)", "an open file, "),
        ("import subprocess\nkept = subprocess.Popen(['sleep', '60'])", "child processes"),
        ("import mmap\nkept = mmap.mmap(-1, 4096)", "it shares memory"),
    ],
)
def test_what_is_not_safe_is_said(source: str, words: str) -> None:
    with template(source + "\ndef handler(input): return 1") as parent:
        reason = parent.ready()["spawn_only"]
        assert reason is not None and words in reason
        assert parent.process.wait(20) == 0


def test_lines_after_the_fork_are_of_its_calls_and_subprocesses_are_heard() -> None:
    source = """
        import logging, os, subprocess
        print("imported")
        def handler(input):
            print("printed")
            logging.getLogger("x").warning("logged")
            subprocess.run(["echo", "echoed"], check=True)
    """
    with template(source) as parent:
        parent.ready()
        with Forked(parent) as one:
            outcome = one.adopt().run()
            assert outcome.ok and set(outcome.messages) == {"printed", "logged", "echoed"}
            assert not [kind for kind, _ in one.before.get(0, []) if kind == LOG]


def test_an_application_s_lifespan_begins_in_each() -> None:
    source = """
        import os
        begun = []
        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                while True:
                    message = await receive()
                    if message["type"] == "lifespan.startup":
                        begun.append(os.getpid())
                        await send({"type": "lifespan.startup.complete"})
                    else:
                        return await send({"type": "lifespan.shutdown.complete"})
            body = ("[%s, %d]" % (begun, os.getpid())).encode()
            await send({"type": "http.response.start", "status": 200,
                        "headers": [(b"content-type", b"application/json")]})
            await send({"type": "http.response.body", "body": body})
    """
    with template(source, entrypoint="agent:app") as parent:
        assert parent.ready()["entrypoint_kind"] == "asgi"
        with Forked(parent) as one:
            begun, own = one.adopt().run().output
            assert begun == [own]


def test_cancel_reaches_what_is_forked() -> None:
    source = "import time\ndef handler(input): time.sleep(60)"
    with template(source) as parent:
        parent.ready()
        with Forked(parent) as one:
            id_ = one.adopt().call()
            one.cancel(id_)
            assert one.wait(id_).body["code"] == "CANCELLED"
