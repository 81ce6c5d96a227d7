"""The agent's answer on one kill, as plain values on the observer's clock. Times are nanoseconds of CLOCK_MONOTONIC, sizes bytes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import timedelta

from mrelease import ReleaseResult, UnreleasedCause

#: Verdicts and outcomes which say that the memory is back.
BACK = frozenset({"RELEASED", "EXITED"})
#: A wall clock that was set by more than so much during the call says nothing.
_CLOCK_SET = 1_000_000


@dataclass(frozen=True, slots=True)
class ProcessAnswer:
    """What is said of one process. ``back_at`` and ``exit_at``: when its memory was back and it had exited, by the agent; 0: not said."""

    pid: int
    outcome: str
    proof: str
    released: int
    back_at: int
    exit_at: int
    held_cause: str
    cause: str
    remedy: str
    boost: str = ""
    #: Bytes that it left and that are charged to another cgroup: inherited by fork(2), or taken before it was moved.
    inherited: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. ``error`` names the exception where there is no verdict."""

    called: int
    answered: int
    verdict: str = ""
    released: int = 0
    processes: list[ProcessAnswer] = field(default_factory=list[ProcessAnswer])
    error: str = ""

    @property
    def is_back(self) -> bool:
        """Whether it says that all memory is back."""
        return self.verdict in BACK


class Clocks:
    """From the wall clock, by which the agent tells the time of the kill, to the observer's."""

    def __init__(self) -> None:
        self._offset = self._now()

    @staticmethod
    def _now() -> int:
        return min((time.time_ns() - time.monotonic_ns() for _ in range(5)), key=abs)

    def offset(self) -> int:
        """Wall clock less monotonic clock; 0 where the wall clock was set since this was made."""
        now = self._now()
        return now if abs(now - self._offset) < _CLOCK_SET else 0


def answer_of(result: ReleaseResult, called: int, answered: int, offset: int) -> Answer:
    """Read a result; ``offset`` is that of ``Clocks``."""

    def since(start: int, duration: timedelta | None) -> int:
        return start + round(duration.total_seconds() * 1e9) if start and duration is not None else 0

    processes: list[ProcessAnswer] = []
    for each in result.processes:
        kill = round(each.kill_time.timestamp() * 1e9) - offset if each.kill_time is not None and offset else 0
        processes.append(
            ProcessAnswer(
                pid=each.pid,
                outcome=each.outcome.name,
                proof=each.proof.name,
                released=each.released_bytes,
                back_at=since(kill, each.release_duration),
                exit_at=since(kill, each.exit_duration),
                held_cause=each.held_cause.name,
                cause=each.cause,
                remedy=each.remedy,
                boost=each.boost.name,
                inherited=sum(part.size_bytes for part in each.unreleased if part.cause is UnreleasedCause.COPY_ON_WRITE),
            )
        )
    return Answer(called, answered, result.verdict.name, result.released_bytes, processes)
