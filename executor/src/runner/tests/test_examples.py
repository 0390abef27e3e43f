"""Every example runs as it stands, with the entry point that its own text names."""

from __future__ import annotations

import re

import pytest
from harness import REPOSITORY, Worker, packages

# Those that need a program of the system are run by the front door, which installs it: tests/it/api/system_packages.rs.
FILES = sorted(path for path in (REPOSITORY / "examples").glob("*.py") if "--system-package" not in path.read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_example(path: object) -> None:
    assert hasattr(path, "read_text") and hasattr(path, "name")
    source = path.read_text()
    named = re.search(r"phalanx deploy examples/\S+ --entrypoint (\S+)", source)
    assert named, "the docstring tells how to deploy it"
    with Worker({path.name: source}, named.group(1), site_dirs=packages()) as worker:
        worker.ready()
        plain = worker.run({"message": "hi", "prompt": "hi", "text": "a b", "name": "you"}, session_id="s1")
        assert plain.ok and plain.output, plain
        assert worker.run({"message": "hi"}, stream=True, session_id="s1").ok
