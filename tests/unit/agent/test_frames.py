"""The relay's look at HTTP/2: however the bytes are cut, header blocks are measured and honest connections pass."""

from __future__ import annotations

import random

import pytest

from mrelease_agent.rpc.frames import MAX_HEADER_BLOCK, Frames
from support import http2
from support.http2 import END_HEADERS, HEADERS, PING, frame

CALLS = 50
CONTINUATION = 9


def honest(rng: random.Random) -> bytes:
    """A connection with calls of several sizes."""
    calls = (http2.call(1 + 2 * number, "/x/Y", bytes(rng.randrange(300))) + frame(PING, 0, 0, bytes(8)) for number in range(CALLS))
    return http2.PREFACE + b"".join(calls)


def block(size: int) -> bytes:
    """A header block of so many bytes, in frames of 1,000 after the first."""
    first = min(size, 16_000)
    rest = b"".join(frame(CONTINUATION, 0, 101, bytes(min(1000, size - at))) for at in range(first, size, 1000))
    return frame(HEADERS, 0, 101, bytes(first)) + rest


def follow(rng: random.Random, data: bytes) -> Frames | None:
    """The frames of data that comes in pieces; None where the connection was closed."""
    frames, at = Frames(), 0
    while at < len(data):
        piece = memoryview(data)[at : at + rng.choice((1, 2, 3, 8, 9, 10, 50, 1000, 65536))]
        if not frames.pass_on(piece):
            return None
        at += len(piece)
    return frames


@pytest.mark.parametrize("seed", range(50))
def test_however_it_is_cut(seed: int) -> None:
    rng = random.Random(seed)
    good = honest(rng)
    passed = follow(rng, good)
    assert passed is not None
    assert passed.calls == CALLS
    longest = follow(rng, good + block(MAX_HEADER_BLOCK) + frame(HEADERS, END_HEADERS, 103, b"x" * 100))
    assert longest is not None
    assert longest.calls == CALLS + 2
    assert follow(rng, good + block(MAX_HEADER_BLOCK + 1)) is None
    assert follow(rng, http2.PREFACE + block(1 << 20)) is None
