"""What an earlier agent left: read from the newest file, all of it checked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Final, cast

from mrelease import _audit_chain
from mrelease._audit_chain import GENESIS, BadRecordError, Head

#: Bytes of the longest line: 512 processes of the longest names have less.
LONGEST: Final = 8 << 20
_INTENT: Final = re.compile(rb'"intent":([1-9][0-9]{0,17})[,}]')
#: What refusals come in: their share of a file is bounded.
REFUSALS: Final = frozenset({"refused", "suppressed"})


@dataclass(slots=True)
class Tail:
    """Where a file ends.

    ``seq`` and ``hash``: of the last record that is whole; ``size``: bytes up to its end; ``torn``: bytes of a line without an end
    behind it; ``open``: intents without a result; ``refusals``: bytes of refusals; ``problem``: what else is wrong, empty where nothing is.
    """

    seq: int = 0
    hash: str = GENESIS
    size: int = 0
    torn: int = 0
    open: set[int] = field(default_factory=set[int])
    refusals: int = 0
    problem: str = ""


def read_tail(fd: int, name: str, head: Head | None) -> Tail:
    """Check a file from its beginning, and that it has the record that ``head`` names, where that belongs in it. Raises OSError."""
    tail = Tail()
    expected: tuple[int, str] | None = None
    with open(os.dup(fd), "rb") as file:
        file.seek(0)
        number = 0
        while line := file.readline(LONGEST):
            number += 1
            if not line.endswith(b"\n"):
                tail.torn = os.fstat(fd).st_size - tail.size
                break
            try:
                link = _audit_chain.link(line[:-1])
                begun = _audit_chain.fields(line[:-1]) if link.event == "begin" else {}
            except BadRecordError as error:
                tail.problem = tail.problem or f"line {number} of {name} is damaged: {error}"
                expected = None
            else:
                if expected is not None and (link.seq, link.prev) != expected:
                    tail.problem = tail.problem or f"line {number} of {name} does not follow the one before"
                if head is not None and head.seq == link.seq and head.hash != link.hash:
                    tail.problem = tail.problem or f"record {head.seq} is not the one that was written"
                expected = (link.seq + 1, link.hash)
                tail.seq, tail.hash = link.seq, link.hash
                _follow(tail, link.event, link.seq, line, begun.get("open"))
            tail.size += len(line)
    return tail


def _follow(tail: Tail, event: str, seq: int, line: bytes, opened: object) -> None:
    if event == "intent":
        tail.open.add(seq)
    elif event in ("result", "interrupted"):
        found = _INTENT.search(line)
        if found:
            tail.open.discard(int(found[1]))
    elif event == "begin" and isinstance(opened, list):
        earlier = cast("list[object]", opened)
        tail.open.update(number for number in earlier if isinstance(number, int) and 0 < number < seq)
    elif event in REFUSALS:
        tail.refusals += len(line)
