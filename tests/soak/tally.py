"""What many kills come to: counts by kind, latencies, margins; plain values, so that it can be saved."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.statistics_of import percentile
from soak.answer import BACK
from soak.watching import Kill

#: Kills with a fault of which everything is kept.
_KEPT = 50


@dataclass(frozen=True, slots=True)
class Timed:
    """One kill whose memory came back. Times in seconds: when in the run, and how long it took."""

    at: float
    kind: str
    busy: bool
    took: float


@dataclass(slots=True)
class KindTally:
    """All kills of one kind."""

    kills: int = 0
    verdicts: Counter[str] = field(default_factory=Counter[str])
    causes: Counter[str] = field(default_factory=Counter[str])
    faults: Counter[str] = field(default_factory=Counter[str])
    errors: Counter[str] = field(default_factory=Counter[str])
    unavailable: str = ""
    released: int = 0
    took: list[float] = field(default_factory=list[float])
    margins: list[float] = field(default_factory=list[float])

    def row(self) -> dict[str, Any]:
        """As it is saved; times in milliseconds."""
        return {
            "kills": self.kills,
            "verdicts": dict(self.verdicts.most_common()),
            "causes": dict(self.causes.most_common()),
            "faults": dict(self.faults),
            "errors": dict(self.errors),
            "unavailable": self.unavailable,
            "released_bytes": self.released,
            "took_ms": _spread(self.took),
            "after_seen_ms": _spread(self.margins),
        }


def _spread(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    found = {"least": min(seconds), "p50": statistics.median(seconds), "p99": percentile(seconds, 0.99), "most": max(seconds)}
    return {name: round(value * 1000, 3) for name, value in found.items()}


class Tally:
    """Everything that was killed so far."""

    def __init__(self) -> None:
        self.kinds: dict[str, KindTally] = {}
        self.timed: list[Timed] = []
        self.faulty: list[dict[str, Any]] = []
        self.failed: list[dict[str, Any]] = []
        self.processes = self.samples = 0
        self.gaps: list[float] = []

    @property
    def kills(self) -> int:
        """Answers that were compared."""
        return sum(kind.kills for kind in self.kinds.values())

    @property
    def faults(self) -> Counter[str]:
        """Faults by what they are."""
        return sum((kind.faults for kind in self.kinds.values()), Counter[str]())

    def add(self, kill: Kill, at: float, *, busy: bool) -> None:
        """Count one that was done ``at`` seconds after the beginning."""
        kind = self.kinds.setdefault(kill.kind, KindTally())
        if kill.unavailable:
            kind.unavailable = kill.unavailable
        if kill.error:
            kind.errors[kill.error[:120]] += 1
            self.failed = [*self.failed, asdict(kill)][-_KEPT:]
        if not kill.verdict:
            return
        kind.kills += 1
        kind.verdicts[kill.verdict] += 1
        kind.causes.update(kill.causes)
        kind.faults.update(fault["what"] for fault in kill.faults)
        kind.released += kill.released
        self.processes += kill.processes
        self.samples += kill.samples
        self.gaps.append(kill.longest_gap / 1e9)
        if kill.faults and len(self.faulty) < _KEPT:
            self.faulty.append(asdict(kill))
        if kill.verdict in BACK:
            self.timed.append(Timed(at, kill.kind, busy, kill.took / 1e9))
            kind.took.append(kill.took / 1e9)
            if kill.back_after:
                kind.margins.append((kill.took - kill.back_after) / 1e9)

    def relative(self) -> tuple[list[float], list[float]]:
        """When each was done, and how long it took over the median of its kind in phases of its sort."""
        by: dict[tuple[str, bool], list[float]] = {}
        for each in self.timed:
            by.setdefault((each.kind, each.busy), []).append(each.took)
        medians = {key: statistics.median(values) for key, values in by.items()}
        return [each.at for each in self.timed], [each.took / medians[each.kind, each.busy] for each in self.timed]
