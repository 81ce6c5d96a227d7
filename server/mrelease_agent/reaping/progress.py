"""How far an operation is, for those who watch it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mrelease_agent.reaping.operation import Operation
from mrelease_agent.reaping.outcome import Proof


@dataclass(frozen=True, slots=True)
class Look:
    """One look at an operation: sizes in bytes, ``elapsed`` in seconds; ``cost`` is what the look took."""

    before: int
    held: int
    processes: int
    done: int
    elapsed: float
    cost: float


class Progress:
    """The operations on the processes of one target, as they come."""

    def __init__(self) -> None:
        self._operations: list[Operation] = []
        self._start = time.monotonic()

    def track(self, operation: Operation) -> Operation:
        """Count this one, too."""
        self._operations.append(operation)
        return operation

    @property
    def tracked(self) -> int:
        """Number of processes so far."""
        return len(self._operations)

    def look(self) -> Look:
        """Measure now: some 30 us for each process that still holds memory."""
        start = time.monotonic()
        reports = [operation.report for operation in self._operations]
        held = sum(operation.held for operation in self._operations)
        end = time.monotonic()
        return Look(
            before=sum(report.before.reclaimable for report in reports if report.before is not None),
            held=held,
            processes=len(reports),
            done=sum(report.proof is not Proof.NONE for report in reports),
            elapsed=end - self._start,
            cost=end - start,
        )
