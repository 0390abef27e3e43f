"""INIT to READY or FAILED: entry points, and what is said when one cannot be used."""

from __future__ import annotations

import pytest
from harness import Worker


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("def handler(): return 1", "function"),
        ("async def handler(input): return 1", "async_function"),
        ("def handler(input, context): yield 1", "generator"),
        ("async def handler(input): yield 1", "async_generator"),
        ("class A:\n    def __call__(self, input): return 1\nhandler = A()", "function"),
        ("class A:\n    async def __call__(self, input, context): return 1\nhandler = A()", "async_function"),
        ("import functools\ndef f(a, input): return 1\nhandler = functools.partial(f, 0)", "function"),
        ("def handler(*args): return 1", "function"),
        ("def handler(input, temperature=1.0): return int(temperature)", "function"),
    ],
)
def test_kinds_and_arities(source: str, kind: str) -> None:
    with Worker(source) as worker:
        assert worker.ready()["entrypoint_kind"] == kind
        assert worker.run({}).output in (1, [1])


@pytest.mark.parametrize(
    ("files", "entrypoint"),
    [
        ({"main.py": "def run(): return 'here'"}, "run"),
        ({"solo.py": "def run(): return 'here'"}, "run"),
        ({"solo/__init__.py": "def run(): return 'here'"}, "run"),
        ({"x.py": "def run(): return 'here'", "y.py": ""}, "x:run"),
        ({"p/__init__.py": "", "p/m.py": "class A:\n    def run(self): return 'here'\na = A()"}, "p.m:a.run"),
        ({"x.py": "def handler(): return 'here'"}, "x.py"),
        ({"x.py": "def handler(): return 'here' if __name__ == '__main__' else ''"}, "x.py"),
    ],
)
def test_entrypoint_grammar(files: dict[str, str], entrypoint: str) -> None:
    with Worker(files, entrypoint) as worker:
        worker.ready()
        assert worker.run().output == "here"


@pytest.mark.parametrize(
    ("source", "entrypoint", "phase", "kind", "words"),
    [
        ("import nowhere", "handler", "import", "ModuleNotFoundError", "No module named 'nowhere'"),
        ("def handler(:", "handler", "import", "SyntaxError", "invalid syntax"),
        ("import sys\nsys.exit(3)", "handler", "import", "SystemExit", "3"),
        ("1/0", "handler", "import", "ZeroDivisionError", "division by zero"),
        ("def handlr(): pass", "handler", "init", None, "did you mean handlr"),
        ("def other(): pass", "handler", "init", None, "it has other"),
        ("handler = 5", "handler", "init", None, "is a int, which cannot be called; allowed are functions"),
        ("class handler: pass", "handler", "init", None, "is a class"),
        ("def handler(a, b, c): pass", "handler", "init", None, "takes (a, b, c); a handler takes ()"),
        ("def handler(a, *, key): pass", "handler", "init", None, "takes (a, *, key)"),
        ("x = 1", "nowhere:handler", "import", "ModuleNotFoundError", "No module named 'nowhere'"),
        ("x = 1", "agent.py", "init", None, "agent.py serves nothing"),
        ("x = 1", "other.py", "import", None, "there is no file other.py; there is agent.py"),
        ("x = 1", "no-name!", "import", None, "allowed are function, module:attribute"),
    ],
)
def test_failures(source: str, entrypoint: str, phase: str, kind: str | None, words: str) -> None:
    with Worker(source, entrypoint) as worker:
        error = worker.failed()
    assert error["code"] == "INIT_FAILED"
    assert error["phase"] == phase
    assert error["exception_type"] == kind
    assert words in error["message"]
    if kind is not None and entrypoint == "handler" and kind != "SyntaxError":
        assert "agent.py" in error["traceback"] and "worker.py" not in error["traceback"]


def test_a_name_that_no_module_is_clear_for() -> None:
    with Worker({"a.py": "", "b.py": ""}, "handler") as worker:
        assert "found a, b: write module:function" in worker.failed()["message"]


def test_environment_paths_and_import_lines() -> None:
    source = """
        import os, sys, subprocess, helper
        print("importing", os.environ["COLOUR"])
        subprocess.run(["echo", "from a subprocess"])
        def handler():
            return [sys.path[0].endswith("code"), helper.NAME, os.getcwd().endswith("tmp")]
    """
    with Worker({"agent.py": source, "helper.py": "NAME = 'h'"}, environment={"COLOUR": "red"}) as worker:
        worker.ready()
        assert worker.run().output == [True, "h", True]
        worker.wait_line(0, "importing red")
        worker.wait_line(0, "from a subprocess")


def test_import_that_prints_more_than_a_pipe_holds() -> None:
    with Worker(
        "import os\nos.write(1, b'x' * 70 + b'\\n')\nfor _ in range(3000): os.write(2, b'y' * 99 + b'\\n')\n"
        "def handler(): return 1"
    ) as worker:
        worker.ready()
        assert worker.run().output == 1


def test_end_of_file_ends_the_worker() -> None:
    with Worker("import time\ndef handler(): time.sleep(60)", concurrency=1) as worker:
        worker.ready()
        worker.call()
        worker.ping()
        worker.socket.close()
        assert worker.process.wait(5) == 0


def test_the_socket_is_not_inherited() -> None:
    source = """
        import os, subprocess
        def handler():
            return subprocess.run("ls -l /proc/self/fd", shell=True, capture_output=True, text=True).stdout
    """
    with Worker(source) as worker:
        worker.ready()
        assert "socket" not in worker.run().output


def test_a_standard_library_handler_imports_nothing_heavy() -> None:
    source = "import sys\nat_start = set(sys.modules)\ndef handler(): return sorted(at_start)"
    with Worker(source, flags=("-I", "-S", "-u")) as worker:
        worker.ready()
        loaded = worker.run().output
    assert not {"asyncio", "inspect", "json", "logging", "re", "typing", "ctypes", "socket", "threading"} & set(loaded)
