"""Lines: where they come from, whose they are, and their bounds."""

from __future__ import annotations

import pytest
from harness import Worker

BOTH = pytest.mark.parametrize("word", ["", "async "])


@BOTH
def test_every_source(word: str) -> None:
    source = f"""
        import logging, os, subprocess, sys, warnings
        log = logging.getLogger("shop")
        {word}def handler(input):
            print("one", 2)
            print("three", end="")
            sys.stderr.write(" err\\n")
            log.info("bought %d", 3, extra={{"item": "tea", "thing": object()}})
            log.debug("not said")
            try:
                1 / 0
            except ZeroDivisionError:
                log.exception("failed")
            warnings.warn("old", stacklevel=1)
            sys.stdout.buffer.write("é\\n".encode())
            subprocess.run(["echo", "sub"]); os.write(2, b"raw\\n")
    """
    with Worker(source) as worker:
        worker.ready()
        outcome = worker.run()
        again = worker.run()
    lines = {line[2].split("\n")[0]: line for line in outcome.lines}
    assert lines["one 2"][1] == "INFO" and lines["one 2"][3] is None
    assert lines[" err"][1] == "WARN"
    assert lines["bought 3"][1] == "INFO" and lines["bought 3"][3] == {"logger": "shop", "item": "tea"}
    assert "not said" not in lines
    assert lines["failed"][1] == "ERROR" and "ZeroDivisionError" in lines["failed"][2]
    assert lines["UserWarning: old"][1] == "WARN"
    assert {"threeé", "sub", "raw"} <= set(lines)
    assert lines["raw"][1] == "WARN" and lines["sub"][1] == "INFO"
    assert "one 2" in again.messages
    assert worker.instance_lines() == []


def test_the_agents_own_logging_configuration() -> None:
    source = """
        import logging, sys
        logging.basicConfig(level=logging.DEBUG, format="%(levelname)s/%(message)s")
        other = logging.getLogger("other")
        other.addHandler(logging.StreamHandler(sys.stdout))
        def handler():
            logging.debug("detail")
            other.error("once")
    """
    with Worker(source) as worker:
        worker.ready()
        assert [line[1:3] for line in worker.run().lines] == [["DEBUG", "DEBUG/detail"], ["ERROR", "once"]]


def test_log_level() -> None:
    source = """
        import logging
        def handler(i, context):
            logging.info("no"); logging.error("yes"); context.log("no"); context.log("yes too", level="ERROR")
            print("printed")
    """
    with Worker(source, log_level="ERROR") as worker:
        worker.ready()
        assert worker.run().messages == ["yes", "yes too", "printed"]


@pytest.mark.parametrize("concurrency", [1, 20])
@BOTH
def test_lines_belong_to_their_call(word: str, concurrency: int) -> None:
    pause = "await asyncio.sleep" if word else "time.sleep"
    source = f"""
        import asyncio, logging, threading, time
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(2)
        {word}def handler(n):
            print("print", n)
            {pause}(0.01)
            logging.warning("log %d", n)
            thread = threading.Thread(target=lambda: print("thread", n))
            thread.start(); thread.join()
            pool.submit(print, "pool", n).result()
            {"await asyncio.create_task(task(n)); await asyncio.to_thread(print, 'to_thread', n)" if word else "pass"}
            {pause}(0.01)
            print("end", n)
        async def task(n): print("task", n)
    """
    with Worker(source, concurrency=concurrency) as worker:
        worker.ready()
        ids = {n: worker.call(n) for n in range(20)}
        for n, id_ in ids.items():
            want = ["print", "log", "thread", "pool"] + (["task", "to_thread"] if word else []) + ["end"]
            assert worker.wait(id_).messages == [f"{what} {n}" for what in want]


def test_lines_come_before_the_end() -> None:
    with Worker("import time\ndef handler():\n    print('early')\n    time.sleep(5)", concurrency=1) as worker:
        worker.ready()
        id_ = worker.call()
        worker.wait_line(id_, "early")
        assert id_ not in worker.ended


def test_lines_of_nobody_are_the_instances() -> None:
    source = """
        import threading, time
        def later():
            time.sleep(0.2); print("too late")
        def handler(): threading.Thread(target=later).start()
    """
    with Worker(source) as worker:
        worker.ready()
        worker.run()
        worker.wait_line(0, "too late")


def test_bounds() -> None:
    source = """
        def handler(i):
            if i == "lines":
                for n in range(100): print("line", n)
            if i == "bytes":
                for n in range(100): print("x" * 90)
            if i == "long": print("y" * 5000); print("é" * 400)
    """
    with Worker(source, limits={"log_lines": 50, "log_bytes": 2000, "log_line_bytes": 500}) as worker:
        worker.ready()
        lines = worker.run("lines")
        assert len(lines.lines) == 50 and lines.body["log_dropped"] == 50
        sized = worker.run("bytes")
        assert len(sized.lines) == 23 and sized.body["log_dropped"] == 77
        long = worker.run("long")
        assert long.messages == ["y" * 500 + "… [line cut]", "é" * 250 + "… [line cut]"]


@pytest.mark.parametrize(
    "how", ["print(text, end='')", "os.write(1, text.encode())", "sys.stdout.write('z' * 1_000_000)"]
)
def test_a_flood_is_cheap(how: str) -> None:
    source = f"""
        import os, sys
        text = ("x" * 99 + "\\n") * 600
        def handler():
            for _ in range(17_000): {how}
    """
    with Worker(source.replace("17_000", "1_000" if "z" in how else "3_000"), concurrency=1) as worker:
        worker.ready()
        outcome = worker.run()
    assert outcome.ok, outcome
    assert outcome.body["memory_peak_mb"] < 60
    if "z" not in how:
        assert len(outcome.lines) + outcome.body["log_dropped"] == 1_800_000
