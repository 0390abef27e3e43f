"""The worker's reader of frames: whatever pieces they come in, the same is read; what is no frame ends the worker."""

from __future__ import annotations

import importlib.util
import os
import random
from types import ModuleType

import pytest
from harness import HEADER, WORKER

BOUND = 300_000


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("worker_of_frames", WORKER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Ended(BaseException):
    """In the place of the worker's end."""


def frame(kind: int, id_: int, body: bytes) -> bytes:
    return HEADER.pack(9 + len(body), kind, id_) + body


def changed(chance: random.Random, good: bytes) -> bytes:
    touched = bytearray(good)
    for _ in range(chance.randrange(3)):
        at = chance.randrange(len(touched) + 1)
        how = chance.randrange(4)
        if how == 0:
            del touched[at : at + 5]
        elif how == 1:
            touched[at:at] = chance.choice([b"\0", b"\xff\xff\xff\xff", b"\xc3", b"\0\0\0\x09"])
        elif how == 2 and at < len(touched):
            touched[at] ^= 1 << chance.randrange(8)
        elif how == 3:
            del touched[at:]
    return bytes(touched)


def test_frames_in_any_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = loaded()

    def end(_: int) -> None:
        raise Ended

    monkeypatch.setattr(os, "_exit", end)
    chance = random.Random(int(os.environ.get("PHALANX_TEST_SEED", "1")))
    for _ in range(int(os.environ.get("PHALANX_TEST_CASES", "256"))):
        sent = [
            (chance.randrange(256), chance.getrandbits(64), "é\0{" * chance.choice([0, 1, 9, 5000, 40_000]))
            for _ in range(chance.randrange(1, 5))
        ]
        good = b"".join(frame(kind, id_, body.encode()) for kind, id_, body in sent)
        left = good if chance.random() < 0.5 else changed(chance, good)
        whole = left == good
        reads, writes = os.pipe()
        try:
            frames, got = worker.Frames(reads, BOUND), []
            while left:
                piece = left[: chance.choice([1, 3, 12, 13, 14, 1000, 60_000])]
                left = left[os.write(writes, piece) :]
                while frames.waiting():
                    got += frames.read()
                assert len(frames.buffer) <= BOUND + 2 * worker.READ_BYTES
            if whole:
                assert got == sent
        except (Ended, UnicodeDecodeError):
            assert not whole
        finally:
            os.close(reads)
            os.close(writes)
