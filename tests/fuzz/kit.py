"""What targets share: parts of an input, and what text for people may never be."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path


def halves(data: bytes) -> tuple[bytes, bytes]:
    """Two parts of an input: its first byte says how long the first one is."""
    return (data[1 : 1 + data[0]], data[1 + data[0] :]) if data else (b"", b"")


def assert_readable(message: str, most: int = 2000, about: str = "") -> None:
    """A message for people: on one line, not endless, no terminal obeys it, and it says what it is about."""
    assert message, "there is no message"
    assert about in message, f"it does not name {about}: {message}"
    assert len(message) <= most, f"the message has {len(message)} characters"
    assert message.isprintable(), f"the message has what a terminal obeys: {message!r}"


@cache
def scratch() -> Path:
    """A folder that is removed when this process ends; libFuzzer ends without, so __main__ gives it a TMPDIR."""
    folder = tempfile.TemporaryDirectory(prefix="mrelease-fuzz-")
    _kept.append(folder)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []
