"""Memory and memory pressure of a node as it is watched: frozen values that mirror the messages of ``proto/mrelease/v1``.

Names are the contract's. Sizes are bytes, durations ``timedelta``, times ``datetime`` with a time zone; None where a field is absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from mrelease import _text
from mrelease._enums import PressureKind
from mrelease._models import NodeMemory, NodeRef


@dataclass(frozen=True, slots=True)
class PressureStall:
    """Share of the last 10, 60 and 300 s for which tasks waited for memory, in percent, and all such time since boot.

    Of a cgroup ``total_duration`` counts since the cgroup was made. Documentation/accounting/psi.rst of the kernel.
    """

    avg10_percent: float
    avg60_percent: float
    avg300_percent: float
    total_duration: timedelta

    def __str__(self) -> str:
        return f"{self.avg10_percent:.2f} % of 10 s, {self.avg60_percent:.2f} % of 60 s, {self.avg300_percent:.2f} % of 300 s"


@dataclass(frozen=True, slots=True)
class MemoryPressure:
    """Pressure stall information of memory. ``some``: at least one task waited; ``full``: all that were not idle waited at once."""

    some: PressureStall
    full: PressureStall

    def __str__(self) -> str:
        return f"some {self.some.avg10_percent:.2f} %, full {self.full.avg10_percent:.2f} % of 10 s"


@dataclass(frozen=True, slots=True)
class WatchedCgroup:
    """A cgroup with what is charged to it. ``limit_bytes``: None where it has none; ``pressure``: None where the kernel measures none."""

    path: str
    usage_bytes: int
    limit_bytes: int | None
    pressure: MemoryPressure | None

    def __str__(self) -> str:
        used = _text.size(self.usage_bytes) if self.limit_bytes is None else _text.share(self.usage_bytes, self.limit_bytes)
        return f"{_text.printable(self.path)}: {used}" + (f", {self.pressure}" if self.pressure else "")


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Memory of a node at one moment, as ``watch_memory`` gives it.

    ``sample_time``: when it was read; ``memory``: that of the whole node. ``pressure``: None where the kernel measures none. ``cgroup``:
    what was asked for with ``within``. ``triggered``: the trigger fired for this sample. ``node``: who answers, in the first sample alone.
    """

    sample_time: datetime
    memory: NodeMemory
    pressure: MemoryPressure | None
    cgroup: WatchedCgroup | None
    triggered: bool
    node: NodeRef | None

    def __str__(self) -> str:
        parts = [f"{_text.share(self.memory.available_bytes, self.memory.total_bytes)} available"]
        if self.pressure is not None:
            parts.append(str(self.pressure))
        if self.cgroup is not None:
            parts.append(str(self.cgroup))
        if self.triggered:
            parts.append("triggered")
        return f"{self.sample_time:%H:%M:%S} " + "; ".join(parts)


@dataclass(frozen=True, slots=True)
class PressureTrigger:
    """A threshold of memory pressure: fires when tasks waited for ``stall`` seconds within ``window`` seconds.

    ``kind``: whether it is enough that one task waited (SOME) or all that were not idle must have (FULL). ``stall``: more than 0 and at
    most ``window``. ``window``: 0.5 to 10 s; an agent without CAP_SYS_RESOURCE rounds it up to a multiple of 2 s, and ``stall`` counts
    within that. It fires at most once in a window, and the first time not before a window has passed.
    """

    kind: PressureKind = PressureKind.SOME
    stall: float | timedelta = 0.1
    window: float | timedelta = 2.0

    def __str__(self) -> str:
        return f"{self.kind} {_text.duration(_timedelta(self.stall))} in {_text.duration(_timedelta(self.window))}"


def _timedelta(value: float | timedelta) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta(seconds=value)
