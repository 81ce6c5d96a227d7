"""What the bench of the plugins runs: one victim of one orchestrator, ended by the orchestrator alone or with us.

`tests/plugins/NAME/bench.py` has `def cases() -> list[Case]`; `python -m plugins.bench` finds and runs them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, TypeAlias

from mrelease.demo.observe import Observer
from support import lab

#: The contender of every situation, and the usual other one. A situation may have more, under names of their own ("Epilog").
ALONE: Final = "alone"
OURS: Final = "with mrelease"


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of one victim.

    ``held_bytes``: its anonymous memory when it was asked to end. ``back_seconds``: from the request until no more than 5 % of that was
    left; None: not within the limit. ``state``: what the orchestrator says of it at the end, in its own words ("DEAD", "COMPLETING", "task
    FAILURE"). ``usable``: whether the orchestrator gives the node's room to others at the end, and if not why ("yes", "no: drained, Kill
    task failed").
    """

    held_bytes: int
    back_seconds: float | None
    state: str
    usable: str


@dataclass(frozen=True, slots=True)
class Case:
    """One contender in one situation.

    ``orchestrator``: as people write it ("Slurm"): its lower case is its page, docs/plugins/slurm.md. ``situation``: one line of the
    table ("`scancel` of a step with a thread in state D"), the same text for each contender of it. ``contender``: ALONE, OURS or another
    name. ``measure(limit)``: makes a victim, has it ended, watches it for at most ``limit`` seconds, cleans up. It may raise
    lab.Unavailable. ``limit``: seconds; ``version``: of the orchestrator, as the page shows it. ``ground``: what all cases of the
    orchestrator need (its daemons): entered once before them, left after them; the same function in each of them, or None.
    """

    orchestrator: str
    situation: str
    contender: str
    measure: Callable[[float], Measured]
    limit: float = 30.0
    version: str = ""
    ground: Callable[[], AbstractContextManager[object]] | None = None


Cases: TypeAlias = Callable[[], list[Case]]


class Anonymous:
    """The gauge: RssAnon, the largest among the threads of a process, for a leader may be a zombie whose threads hold all."""

    method = "RssAnon, the largest of the threads"

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = tuple(pids)

    def read(self) -> list[int]:
        """Bytes by process."""
        return [lab.rss_anon(pid) for pid in self._pids]

    def close(self) -> None:
        """Nothing is open."""


class Watch:
    """Follows processes from the request on. Made by ``watching``; call ``begin`` right before the request."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._begin = 0.0
        self.held_bytes = sum(track.before for track in observer.tracks)

    def begin(self) -> None:
        """The request is now."""
        self._begin = self._observer.begin()

    def back(self, limit: float) -> float | None:
        """Wait until the memory of all is back; seconds since ``begin``, None where it is not within ``limit`` seconds of that."""
        while not self._all_back() and time.monotonic() - self._begin < limit:
            if self._observer.wait(0.02) and not self._all_back():
                break
        found = [track.until(limit).back_seconds for track in self._observer.tracks]
        known = [seconds for seconds in found if seconds is not None]
        return max(known) if len(known) == len(found) else None

    def _all_back(self) -> bool:
        return all(track.back_seconds is not None for track in self._observer.tracks)


@contextlib.contextmanager
def watching(*pids: int) -> Generator[Watch]:
    """An observer that is neither the orchestrator nor the agent, on processes as this machine numbers them."""
    with contextlib.ExitStack() as stack:
        pidfds: list[int] = []
        for pid in pids:
            pidfds.append(os.pidfd_open(pid))
            stack.callback(os.close, pidfds[-1])
        yield Watch(stack.enter_context(Observer(pidfds, Anonymous(pids))))
