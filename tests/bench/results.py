"""Everything that one run of the bench found."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.footprint import Footprint
from bench.rounds import Case, Measurement
from bench.rpc_cost import RpcCost
from bench.statistics_of import Ratio, Spread

KILL, FLOOR, AGENT = "kill(2)", "C program", "agent"
_MOST_SAMPLES = 200


@dataclass(slots=True)
class CaseResult:
    """One case: its measurements, or why there are none."""

    case: Case
    measurements: list[Measurement] = field(default_factory=list[Measurement])
    how: str = ""
    observed_by: str = ""
    skipped: str = ""

    @property
    def contenders(self) -> list[str]:
        """Who took part, in the order of the tables."""
        return [name for name in (KILL, FLOOR, AGENT) if any(m.contender == name for m in self.measurements)]

    def by(self, contender: str) -> list[Measurement]:
        """The measurements of one contender."""
        return [m for m in self.measurements if m.contender == contender]

    def back(self, contender: str) -> Spread:
        """Time to memory back."""
        return Spread.of(m.back_seconds for m in self.by(contender))

    def exited(self, contender: str) -> Spread:
        """Time to exit."""
        return Spread.of(m.exit_seconds for m in self.by(contender))

    def ratio(self, slower: str, faster: str) -> Ratio | None:
        """How many times longer ``slower`` took to have the memory back; None where that cannot be said."""
        if not {slower, faster} <= set(self.contenders):
            return None
        return Ratio.of(self.back(slower), self.back(faster), self.case.limit)

    def data(self) -> dict[str, Any]:
        """As JSON has it; samples of the first round only, thinned."""
        return {
            "name": self.case.name,
            "size_bytes": self.case.size_bytes,
            "limit_seconds": self.case.limit,
            "starved_by": self.how,
            "observed_by": self.observed_by,
            "skipped": self.skipped,
            "measurements": [asdict(m) | {"samples": _thin(m.samples) if m.round == 0 else []} for m in self.measurements],
        }


@dataclass(slots=True)
class Results:
    """A run of the bench."""

    command: str
    date: str
    machine: dict[str, str]
    cases: list[CaseResult] = field(default_factory=list[CaseResult])
    rpc: RpcCost | None = None
    footprint: Footprint | None = None

    def case(self, name: str) -> CaseResult | None:
        """The case of that name, where it was measured."""
        return next((c for c in self.cases if c.case.name == name and c.measurements), None)

    def data(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "schema": 1,
            "command": self.command,
            "date": self.date,
            "machine": self.machine,
            "goals": [asdict(goal) for goal in goals(self)],
            "cases": [c.data() for c in self.cases],
            "rpc": None if self.rpc is None else self.rpc.data(),
            "footprint": None if self.footprint is None else self.footprint.data(),
        }


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing that must hold, and whether it did."""

    what: str
    wanted: str
    found: str
    met: bool


def goals(results: Results) -> list[Goal]:
    """Compare what was measured with what was promised; what was not measured is left out."""
    found: list[Goal] = []

    def add(name: str, slower: str, faster: str, what: str, *, least: float | None = None, most: float | None = None) -> None:
        case = results.case(name)
        ratio = case.ratio(slower, faster) if case is not None else None
        if ratio is not None:
            met = ratio.value >= least if least is not None else (not ratio.at_least and ratio.value <= (most or math.inf))
            found.append(Goal(what, f">= {least:g}" if least is not None else f"<= {most:g}", str(ratio), met))

    add("starved", KILL, AGENT, "starved victim: kill(2) / agent, memory back", least=10)
    add("starved", AGENT, FLOOR, "starved victim: agent / C program, memory back", most=1.3)
    add("idle", AGENT, KILL, "idle node: agent / kill(2), memory back", most=1.05)
    if (cost := results.rpc) is not None:
        p50, p99 = cost.over_p50 / cost.check_p50, cost.over_p99 / cost.check_p99
        found.append(Goal("RPC over the release itself / Health Check, p50", "<= 1.5", f"{p50:.2f}", p50 <= 1.5))
        found.append(Goal("RPC over the release itself / Health Check, p99", "<= 3", f"{p99:.2f}", p99 <= 3))
    if (idle := results.footprint) is not None:
        found.append(Goal("idle agent, resident memory", "<= 45 MiB", f"{idle.rss_bytes / (1 << 20):.1f} MiB", idle.rss_bytes <= 45 << 20))
        found.append(Goal("idle agent, CPU", "<= 0.3 %", f"{idle.cpu_share * 100:.2f} %", idle.cpu_share <= 0.003))
        found.append(Goal("agent ready after", "<= 0.3 s", f"{idle.ready_seconds:.2f} s", idle.ready_seconds <= 0.3))
    return found


def _thin(samples: list[tuple[float, int]]) -> list[tuple[float, int]]:
    step = max(1, math.ceil(len(samples) / _MOST_SAMPLES))
    return [*samples[:-1:step], *samples[-1:]]
