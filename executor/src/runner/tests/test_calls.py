"""CALL to RESULT: context, concurrency, streams, measures, cancel and ping."""

from __future__ import annotations

import time

import pytest
from harness import PING, Worker, measure

BOTH = pytest.mark.parametrize("word", ["", "async "])


@BOTH
def test_context(word: str) -> None:
    source = f"""
        {word}def handler(input, context):
            context.progress(50)
            context.metric("tokens", 3)
            context.metric("tokens", 4)
            context.metric("cost", 0.5)
            context.log("hello", level="WARN", a=1, bad=object())
            return [context.user_id, context.session_id, context.request_id, context.metadata, context.execution_id,
                    context.attempt, context.deadline > 0, context.traceparent]
    """
    with Worker(source) as worker:
        worker.ready()
        outcome = worker.run(user_id="u", session_id="s", request_id="r", metadata={"k": 1}, traceparent="t")
    assert outcome.output == ["u", "s", "r", {"k": 1}, "exec-1", 1, True, "t"]
    assert outcome.progress == [50]
    assert outcome.body["tokens"] == 7
    assert outcome.body["metrics"] == {"cost": 0.5}
    assert outcome.lines[0][1:] == ["WARN", "hello", {"a": 1}]


@BOTH
@pytest.mark.parametrize("concurrency", [1, 10])
def test_raising(word: str, concurrency: int) -> None:
    source = f"""
        def inner():
            raise KeyError("gone")
        {word}def handler(input):
            if input == "exit": raise SystemExit(4)
            if input == "interrupt": raise KeyboardInterrupt
            if input == "memory": raise MemoryError
            if input == "deep": return (lambda f: f(f))(lambda f: f(f))
            try:
                inner()
            except KeyError as e:
                raise ValueError("no \\ud800 such") from e
    """
    with Worker(source, concurrency=concurrency) as worker:
        worker.ready()
        error = worker.run().body
        assert (error["code"], error["exception_type"], error["phase"]) == ("HANDLER_RAISED", "ValueError", "handler")
        assert "no \\ud800 such" in error["message"]
        assert "in inner" in error["traceback"] and "direct cause" in error["traceback"]
        assert "worker.py" not in error["traceback"]
        assert worker.run("exit").body["exception_type"] == "SystemExit"
        assert worker.run("interrupt").body["exception_type"] == "KeyboardInterrupt"
        assert worker.run("memory").body["code"] == "OUT_OF_MEMORY"
        assert worker.run("deep").body["exception_type"] == "RecursionError"


@BOTH
def test_hostile_exceptions(word: str) -> None:
    source = f"""
        class Bad(Exception):
            def __str__(self): raise RuntimeError("no")
            __repr__ = __str__
        class Worse(Exception):
            def __str__(self): raise SystemExit
        {word}def handler(input):
            if input == "loop":
                a, b = ValueError("a"), ValueError("b")
                a.__cause__, b.__cause__ = b, a
                raise a
            if input == "chain":
                e = None
                for n in range(5000):
                    new = ValueError(n); new.__cause__ = e; e = new
                raise e
            if input == "huge": raise ValueError("start" + "é" * 50_000_000 + "end")
            raise (Bad if input == "bad" else Worse)()
    """
    with Worker(source) as worker:
        worker.ready()
        for name in ("bad", "worse", "loop", "chain", "huge"):
            error = worker.run(name).body
            assert error["code"] == "HANDLER_RAISED", name
            assert len(error["message"].encode()) <= 8192
            assert error["traceback"] and len(error["traceback"].encode()) <= 32768
        assert error["message"].startswith("start") and error["message"].endswith("end")


def test_sync_calls_run_side_by_side() -> None:
    with Worker("import time\ndef handler(): time.sleep(1)", concurrency=100) as worker:
        worker.ready()
        begin = time.perf_counter()
        ids = [worker.call() for _ in range(100)]
        assert all(worker.wait(id_).ok for id_ in ids)
        assert time.perf_counter() - begin < 2.5


def test_async_calls_run_side_by_side() -> None:
    with Worker("import asyncio\nasync def handler(): await asyncio.sleep(1)", concurrency=1000) as worker:
        worker.ready()
        begin = time.perf_counter()
        ids = [worker.call() for _ in range(1000)]
        assert all(worker.wait(id_).ok for id_ in ids)
        assert time.perf_counter() - begin < 3


def test_a_quick_handler_that_blocks_once_blocks_nobody() -> None:
    source = "import time\ndef handler(i):\n    if i == 'slow': time.sleep(3)\n    return i"
    with Worker(source, concurrency=10) as worker:
        worker.ready()
        for _ in range(40):
            worker.run("quick")
        slow = worker.call("slow")
        others = [worker.call("quick") for _ in range(5)]
        begin = time.perf_counter()
        for id_ in others:
            assert worker.wait(id_).output == "quick"
        worker.ping()
        assert time.perf_counter() - begin < 1
        assert slow not in worker.ended
        worker.wait(slow)
        assert worker.run("quick").ok


def test_concurrency_one_keeps_to_the_main_thread() -> None:
    source = """
        import sqlite3, threading, time
        db = sqlite3.connect(":memory:")
        def handler(i):
            time.sleep(0.005)
            return [db.execute("select 1").fetchone()[0], threading.current_thread() is threading.main_thread()]
    """
    with Worker(source, concurrency=1) as worker:
        worker.ready()
        ids = [worker.call() for _ in range(20)]
        assert all(worker.wait(id_).output == [1, True] for id_ in ids)


@BOTH
def test_context_variables_do_not_leak_between_calls(word: str) -> None:
    source = f"""
        import contextvars
        v = contextvars.ContextVar("v", default="clean")
        {word}def handler(input):
            seen = v.get(); v.set("dirty"); return seen
    """
    with Worker(source, concurrency=1) as worker:
        worker.ready()
        assert [worker.run().output for _ in range(5)] == ["clean"] * 5


@BOTH
def test_generators(word: str) -> None:
    source = f"""
        {word}def handler(input):
            for n in range(3): yield {{"n": n}}
            if input == "raise": raise ValueError("after three")
            if input == "bad": yield object()
    """
    with Worker(source) as worker:
        worker.ready()
        items = [{"n": 0}, {"n": 1}, {"n": 2}]
        assert worker.run().output == items
        assert worker.run().chunks == []
        streamed = worker.run(stream=True)
        assert streamed.output == items and streamed.chunks == items
        failed = worker.run("raise", stream=True)
        assert failed.chunks == items and failed.body["exception_type"] == "ValueError"
        assert worker.run("bad", stream=True).body["code"] == "OUTPUT_NOT_SERIALIZABLE"


@BOTH
def test_chunks_come_while_the_generator_runs(word: str) -> None:
    pause = "await asyncio.sleep" if word else "time.sleep"
    source = f"import asyncio, time\n{word}def handler():\n    yield 1\n    {pause}(5)\n    yield 2"
    with Worker(source) as worker:
        worker.ready()
        id_ = worker.call(stream=True)
        worker.receive(lambda: id_ in worker.before, 3)
        assert id_ not in worker.ended


@BOTH
def test_a_stream_over_the_bound(word: str) -> None:
    source = f"{word}def handler():\n    for _ in range(50): yield 'x' * 100"
    with Worker(source, limits={"result_bytes": 1000}) as worker:
        worker.ready()
        assert worker.run().body["code"] == "OUTPUT_TOO_LARGE"
        streamed = worker.run(stream=True)
        assert streamed.ok and streamed.output is None and len(streamed.chunks) == 50
        assert "over the bound of 1000" in streamed.messages[-1]


@BOTH
def test_measures(word: str) -> None:
    source = f"""
        import time
        {word}def handler(input):
            end = time.process_time() + 0.1
            while time.process_time() < end: pass
            block = b"x" * (input << 20)
            return len(block)
    """
    with Worker(source) as worker:
        worker.ready()
        small, large = worker.run(1).body, worker.run(60).body
        again = worker.run(1).body
    assert 80 < large["cpu_ms"] < 1000 and large["handler_ms"] >= 90
    assert large["memory_peak_mb"] > small["memory_peak_mb"] + 40
    assert again["memory_peak_mb"] < large["memory_peak_mb"] - 30, "the peak is each call's own"


def test_cpu_of_an_async_call_is_its_own() -> None:
    source = """
        import asyncio, time
        async def handler(input):
            if input == "idle":
                await asyncio.sleep(0.5)
                return
            for _ in range(5):
                end = time.thread_time() + 0.04
                while time.thread_time() < end: pass
                await asyncio.sleep(0)
    """
    with Worker(source) as worker:
        worker.ready()
        idle, busy = worker.call("idle"), worker.call("busy")
        assert worker.wait(idle).body["cpu_ms"] < 30
        assert worker.wait(busy).body["cpu_ms"] > 150


@pytest.mark.parametrize("concurrency", [1, 5])
def test_cancel_sync(concurrency: int) -> None:
    source = """
        import time
        def handler(input):
            print("begun")
            if input == "swallow":
                try:
                    while True: time.sleep(0.01)
                except BaseException:
                    return "went on"
            if input == "echo": return input
            while True: time.sleep(0.01)
    """
    with Worker(source, concurrency=concurrency) as worker:
        worker.ready()
        for _ in range(5):
            id_ = worker.call()
            worker.wait_line(id_, "begun")
            worker.cancel(id_)
            error = worker.wait(id_).body
            assert error["code"] == "CANCELLED" and error["message"] == "the execution was cancelled"
        id_ = worker.call("swallow")
        worker.wait_line(id_, "begun")
        worker.cancel(id_)
        assert worker.wait(id_).output == "went on"
        assert worker.run("echo").output == "echo"


def test_cancel_interrupts_a_system_call_of_the_main_thread() -> None:
    with Worker("import time\ndef handler():\n    print('begun')\n    time.sleep(30)", concurrency=1) as worker:
        worker.ready()
        id_ = worker.call()
        worker.wait_line(id_, "begun")
        worker.cancel(id_)
        assert worker.wait(id_, 3).body["code"] == "CANCELLED"


def test_cancel_async() -> None:
    source = """
        import asyncio
        async def handler(input):
            print("begun")
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                if input == "swallow": return "went on"
                raise
    """
    with Worker(source) as worker:
        worker.ready()
        ids = [worker.call(), worker.call("swallow")]
        for id_ in ids:
            worker.wait_line(id_, "begun")
        for id_ in ids:
            worker.cancel(id_)
        assert worker.wait(ids[0]).body["code"] == "CANCELLED"
        assert worker.wait(ids[1]).output == "went on"


def test_cancel_before_the_start() -> None:
    with Worker("import time\ndef handler(i):\n    print('begun')\n    time.sleep(1)", concurrency=1) as worker:
        worker.ready()
        first, second = worker.call(), worker.call()
        worker.wait_line(first, "begun")
        worker.cancel(second)
        error = worker.wait(second).body
        assert error["code"] == "CANCELLED" and "before it started" in error["message"]
        assert worker.wait(first).ok
        worker.cancel(first)  # over: nothing to do
        assert worker.run(0).ok


def test_many_cancels_at_any_moment_answer_every_call_once() -> None:
    source = "import time\ndef handler(i):\n    time.sleep(i)\n    return i"
    with Worker(source, concurrency=8) as worker:
        worker.ready()
        ids = []
        for n in range(400):
            id_ = worker.call((n % 5) / 5000)
            ids.append(id_)
            if n % 2:
                worker.cancel(id_)
            if n % 8 == 7:
                worker.wait(id_)
        for id_ in ids:
            outcome = worker.wait(id_)
            assert outcome.ok or outcome.body["code"] == "CANCELLED"


def test_cancels_do_not_tear_the_frames_of_others() -> None:
    source = """
        def handler(n, context):
            for i in range(10**9):
                context.log("x" * 200) if i % 3 else context.progress(i % 100)
                yield "y" * 300
                if i >= n: return
    """
    with Worker(source, concurrency=6) as worker:
        worker.ready()
        for _ in range(30):
            endless = [worker.call(10**9, stream=True) for _ in range(3)]
            short = [worker.call(50, stream=True) for _ in range(3)]
            for id_ in endless:
                worker.receive(lambda id_=id_: id_ in worker.before)  # type: ignore[misc]
                worker.cancel(id_)
            assert all(worker.wait(id_).body["code"] == "CANCELLED" for id_ in endless)
            assert all(len(worker.wait(id_).chunks) == 51 for id_ in short)


def test_ping_and_calls_are_heard_while_the_loop_is_blocked() -> None:
    source = "import time\nasync def handler(i):\n    time.sleep(i)\n    return i"
    with Worker(source) as worker:
        worker.ready()
        slow = worker.call(2)
        begin = time.perf_counter()
        assert worker.ping() == {"busy": False}
        assert time.perf_counter() - begin < 1
        assert slow not in worker.ended
        assert worker.wait(worker.call(0)).output == 0


def test_an_application_is_asked_for_its_health() -> None:
    source = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("no lifespan")
    assert scope["method"] == "GET" and (await receive())["body"] == b""
    if scope["path"] == "/raises":
        raise ValueError("ill")
    status = {"/health": 200, "/ill": 503}.get(scope["path"], 404)
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": scope["query_string"]})
"""
    with Worker(source, "app") as worker:
        worker.ready()
        for path, status in (("/health?deep=1", 200), ("/ill", 503), ("/none", 404), ("/raises", 500)):
            assert worker.ping(path=path) == {"busy": False, "status": status}
        worker.wait_line(0, "GET /raises raised ValueError: ill")
        assert worker.ping() == {"busy": False}


def test_who_has_no_paths_answers_once() -> None:
    with Worker("def handler(i):\n    return i") as worker:
        worker.ready()
        worker.send(PING, 7, {"path": "/health"})
        worker.receive(lambda: len(worker.pongs) == 1)
        assert worker.run(1).output == 1
        assert worker.pongs == [{"busy": False}]


def test_a_background_task_that_exits_does_not_end_the_worker() -> None:
    source = """
        import asyncio
        async def bad(): raise SystemExit(3)
        async def handler(i):
            asyncio.get_running_loop().create_task(bad())
            await asyncio.sleep(0.05)
            return i
    """
    with Worker(source) as worker:
        worker.ready()
        assert worker.run(1).output == 1
        worker.wait_line(0, "SystemExit")


def test_undeclared_async_functions() -> None:
    source = """
        import asyncio
        async def real(i):
            await asyncio.sleep(0)
            return i
        def handler(i): return real(i)
    """
    with Worker(source) as worker:
        assert worker.ready()["entrypoint_kind"] == "function"
        assert worker.run(7).output == 7


def test_a_forked_child_cannot_speak_for_us() -> None:
    source = """
        import multiprocessing
        def work(n):
            print("child", n, flush=True)
            return n * 2
        def handler(i):
            with multiprocessing.get_context("fork").Pool(2) as pool:
                return pool.map(work, [1, 2, 3])
    """
    with Worker(source, concurrency=1) as worker:
        worker.ready()
        outcome = worker.run()
        assert outcome.output == [2, 4, 6]
        assert sorted(outcome.messages) == ["child 1", "child 2", "child 3"]


def test_input_that_python_cannot_hold() -> None:
    with Worker("def handler(i): return 1") as worker:
        worker.ready()
        body = b'{"execution_id":"e","attempt":1,"stream":false,"context":{},"input":' + b"[" * 90_000 + b"]" * 90_000
        body += b"}"
        from harness import CALL, HEADER

        worker.socket.sendall(HEADER.pack(9 + len(body), CALL, 77) + body)
        assert "cannot read the input" in worker.wait(77).body["message"]
        assert worker.run().output == 1


@BOTH
def test_cost_of_a_call(word: str) -> None:
    """A smoke alarm, far above the measured cost: it goes off when every call pays for a thread switch or a timer."""
    with Worker(f"{word}def handler(i): return i", concurrency=64) as worker:
        worker.ready()
        measure(worker, 500, 64)
        assert min(measure(worker, 3000, 64) for _ in range(3)) < 250
