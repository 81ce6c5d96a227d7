"""What is not run in a machine of `make test-vm`: deselect.txt, each line with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """Tests whose ids begin with ``test``, on ``kernels`` (all where there is None)."""

    kernels: frozenset[str] | None
    test: str
    reason: str


@lru_cache(maxsize=1)
def entries() -> list[Entry]:
    """Read deselect.txt. Raises ValueError for a line without a reason."""
    found: list[Entry] = []
    for line in Path(__file__).with_name("deselect.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            kernels, test, reason = line.split(maxsplit=2)
            found.append(Entry(None if kernels == "*" else frozenset(kernels.split(",")), test, reason))
    return found


def left_out(nodeid: str, kernel: str) -> str | None:
    """Return why a test is left out on a kernel; None where it is not."""
    return next(
        (entry.reason for entry in entries() if nodeid.startswith(entry.test) and (entry.kernels is None or kernel in entry.kernels)), None
    )
