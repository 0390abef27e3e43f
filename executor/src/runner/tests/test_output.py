"""What a handler may return, and what is said when it is no JSON or too much."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Worker, packages

SOURCE = """
    import collections, dataclasses, datetime, decimal, enum, pathlib, uuid
    class Colour(enum.Enum):
        RED = "red"
    @dataclasses.dataclass
    class Point:
        x: int
        when: datetime.date
    class Custom:
        def to_dict(self): return {"custom": True}
    class Bad:
        def to_dict(self): raise RuntimeError("will not")
    class Endless:
        def to_dict(self): return self
    circle = []; circle.append({"again": circle})
    deep = []
    for _ in range(100_000): deep = [deep]
    def handler(input):
        return eval(input)
"""


@pytest.fixture(scope="module")
def worker() -> Any:
    with Worker(SOURCE, limits={"result_bytes": 100_000}, site_dirs=packages()) as running:
        running.ready()
        yield running


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("None", None),
        ("'한국어 \\u0000 \"'", '한국어 \u0000 "'),
        ("{'a': [1, 2.5, True, None], 3: (1, 2)}", {"a": [1, 2.5, True, None], "3": [1, 2]}),
        ("10**30", 10**30),
        ("Colour.RED", "red"),
        ("Point(1, datetime.date(2026, 1, 2))", {"x": 1, "when": "2026-01-02"}),
        ("Custom()", {"custom": True}),
        ("{3, 1, 2}", [1, 2, 3]),
        ("decimal.Decimal('1.10')", "1.10"),
        ("uuid.UUID(int=1)", "00000000-0000-0000-0000-000000000001"),
        ("datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc)", "2026-01-02T00:00:00+00:00"),
        ("datetime.timedelta(seconds=90)", 90.0),
        ("pathlib.PurePosixPath('/a')", "/a"),
        ("collections.deque([1])", [1]),
        ("collections.OrderedDict(a=1)", {"a": 1}),
        ("__import__('pydantic').create_model('M', a=(int, 1))()", {"a": 1}),
        ("(n for n in range(2))", [0, 1]),
    ],
)
def test_json_of(worker: Worker, expression: str, expected: Any) -> None:
    outcome = worker.run(expression)
    assert outcome.ok, outcome
    assert outcome.output == expected


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("{'a': [1, {'b': float('nan')}]}", "output.a[1].b is nan, which JSON does not have"),
        ("float('inf')", "output is inf"),
        ("{'a': b'x'}", "output.a is bytes: decode it"),
        ("[object()]", "output[0] is a object"),
        ("{(1, 2): 3}", "a key of type tuple"),
        ("['ok', '\\ud800']", "output[1] holds a lone surrogate (U+D800"),
        ("{'\\ud800': 1}", "lone surrogate"),
        ("circle", "is circular"),
        ("deep", "nested too deeply"),
        ("[Bad()]", "output[0] is a"),
        ("Endless()", "circular"),
    ],
)
def test_not_json(worker: Worker, expression: str, words: str) -> None:
    error = worker.run(expression).body
    assert (error["code"], error["phase"]) == ("OUTPUT_NOT_SERIALIZABLE", "serialize")
    assert words in error["message"]


@pytest.mark.parametrize("expression", ["'x' * 100_000", "'é' * 60_000", "[0] * 60_000", "{'a': ['y' * 60_000] * 2}"])
def test_too_large(worker: Worker, expression: str) -> None:
    error = worker.run(expression).body
    assert (error["code"], error["phase"]) == ("OUTPUT_TOO_LARGE", "serialize")
    assert "100000" in error["message"]


def test_the_bound_itself_is_allowed(worker: Worker) -> None:
    assert worker.run("'x' * 99_998").ok
