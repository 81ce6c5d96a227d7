"""When a Reclaim stops: so many bytes proven back, so many available on the node, or memory pressure below a share of the time."""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol

from mrelease.v1 import memory_pb2, release_service_pb2
from mrelease_agent.linux import node as linux_node
from mrelease_agent.linux import pressure

#: MemAvailable lags behind memory that is proven back: freed pages stay on lists of each CPU, which the kernel drains once a second. Who
#: decided by it at once would kill again for memory that is free already.
_SETTLE: Final = 3.0
_SETTLED_SHARE: Final = 0.9
_LOOK: Final = 0.01
_WINDOW: Final = 1.0


class Goal(Protocol):
    """What is still missing decides whether another candidate has to die."""

    async def missing(self) -> int:
        """How much is missing now: bytes, or hundredths of a percent; 0 or less: met."""
        ...

    async def gained(self, released: int, *, real: bool) -> None:
        """A candidate gave back ``released`` bytes; not ``real``: would give."""
        ...

    #: Whether a dry run can say what more than one candidate would change.
    predictable: bool


class ReleasedBytes:
    """So many bytes proven back by this request."""

    predictable = True

    def __init__(self, wanted: int) -> None:
        self._missing = wanted

    async def missing(self) -> int:
        """See Goal."""
        return self._missing

    async def gained(self, released: int, *, real: bool) -> None:  # noqa: ARG002
        """See Goal."""
        self._missing -= released


class AvailableBytes:
    """MemAvailable of the node."""

    predictable = True

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._promised = 0
        self._last = 0

    async def missing(self) -> int:
        """See Goal."""
        self._last = linux_node.memory().available
        return self._wanted - self._last - self._promised

    async def gained(self, released: int, *, real: bool) -> None:
        """See Goal. Waits until the kernel counts as available what is proven back."""
        if not real:
            self._promised += released
            return
        until = time.monotonic() + _SETTLE
        there = min(self._wanted, self._last + int(released * _SETTLED_SHARE))
        while linux_node.memory().available < there and time.monotonic() < until:  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(_LOOK)


class PressureBelow:
    """Memory pressure of the node over a window that begins when it is asked for."""

    predictable = False

    def __init__(self, goal: release_service_pb2.PressureGoal) -> None:
        self._full = goal.kind == memory_pb2.PRESSURE_KIND_FULL
        self._percent = goal.percent
        self._window = goal.window.ToNanoseconds() / 1e9 if goal.HasField("window") else _WINDOW

    async def missing(self) -> int:
        """See Goal."""
        start, before = time.monotonic(), self._total()
        await asyncio.sleep(self._window)
        stalled = (self._total() - before) / (time.monotonic() - start) * 100
        # Rounded up, for "not quite below" is not met: at 0 it would be.
        return int((stalled - self._percent) * 100) + 1 if stalled >= self._percent else 0

    async def gained(self, released: int, *, real: bool) -> None:
        """See Goal: the next measurement tells."""

    def _total(self) -> float:
        now = pressure.node()
        return (now.full if self._full else now.some).total


def goal_of(message: release_service_pb2.ReclaimGoal) -> Goal:
    """The goal that a checked request names."""
    if message.HasField("released_bytes"):
        return ReleasedBytes(message.released_bytes)
    if message.HasField("available_bytes"):
        return AvailableBytes(message.available_bytes)
    return PressureBelow(message.pressure_below)
