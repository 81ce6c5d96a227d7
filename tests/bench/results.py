"""Everything that the bench found, as docs/performance.json keeps it: the page and its pictures are made from it alone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from bench.contenders import EVERYBODY
from bench.statistics_of import Ratio, Spread

SCHEMA = 2
_MOST_SAMPLES = 40


@dataclass(slots=True)
class Run:
    """One call of the bench: everything measured in it names it."""

    date: str
    command: str
    machine: dict[str, str]


@dataclass(slots=True)
class Measurement:
    """What one contender did in one round; seconds after its first step, None: not within the limit.

    ``wrong`` says what was wrong with the agent's verdict. ``samples`` (seconds, bytes held) are kept of the first round.
    """

    contender: str
    round: int
    held_bytes: int
    left_bytes: int
    back_seconds: float | None
    exit_seconds: float | None
    own_release_seconds: float | None
    call_seconds: float | None
    verdict: str
    boost: str
    wrong: str
    samples: list[tuple[float, int]]

    def thinned(self) -> Measurement:
        """Keep of the samples what a picture shows, and only of the first round."""
        samples = _thin(self.samples, self.held_bytes) if self.round == 0 else []
        times = [
            None if seconds is None else round(seconds, 6)
            for seconds in (self.back_seconds, self.exit_seconds, self.own_release_seconds, self.call_seconds)
        ]
        back, exited, release, call = times
        return replace(self, samples=samples, back_seconds=back, exit_seconds=exited, own_release_seconds=release, call_seconds=call)


@dataclass(slots=True)
class CaseResult:
    """One case: its measurements, or why there are none (``skipped``); ``missing`` says by contender why it did not take part."""

    name: str
    run: Run
    size_bytes: int
    limit: float
    rounds: int
    took_seconds: float = 0.0
    how: str = ""
    observed_by: str = ""
    skipped: str = ""
    missing: dict[str, str] = field(default_factory=dict[str, str])
    measurements: list[Measurement] = field(default_factory=list[Measurement])

    @property
    def contenders(self) -> list[str]:
        """Who took part, in the order of the tables."""
        return [name for name in EVERYBODY if any(m.contender == name for m in self.measurements)]

    def by(self, contender: str) -> list[Measurement]:
        """The measurements of one contender."""
        return [m for m in self.measurements if m.contender == contender]

    def back(self, contender: str) -> Spread:
        """Time to memory back."""
        return Spread.of(m.back_seconds for m in self.by(contender))

    def exited(self, contender: str) -> Spread:
        """Time to exit."""
        return Spread.of(m.exit_seconds for m in self.by(contender))

    def ratio(self, slower: str, faster: str, *, of_exit: bool = False) -> Ratio | None:
        """How many times longer ``slower`` took to have the memory back, or to exit; None where that cannot be said."""
        if not {slower, faster} <= set(self.contenders):
            return None
        spread = self.exited if of_exit else self.back
        return Ratio.of(spread(slower), spread(faster), self.limit)


@dataclass(slots=True)
class Latency:
    """Seconds of many calls of one kind."""

    calls: int
    p50: float
    p99: float


@dataclass(slots=True)
class RpcCost:
    """What the way to the agent and back costs: a Health Check, a KillAndRelease, and what of the latter was not killing and releasing."""

    run: Run
    check: Latency
    call: Latency
    over: Latency
    tcp_check: Latency
    tcp_call: Latency
    tcp_over: Latency


@dataclass(slots=True)
class Guarded:
    """KillAndRelease by plaintext on loopback, by mutual TLS with an access policy, and with the audit log too: whole, and what of it was
    not killing and releasing.
    """

    run: Run
    plain: Latency
    trusted: Latency
    audited: Latency
    plain_over: Latency
    trusted_over: Latency
    audited_over: Latency


@dataclass(slots=True)
class Callers:
    """Calls a second of ``callers`` at once, in each round: a bare echo, Health Checks, kills of victims of 1 MiB."""

    run: Run
    callers: int
    echo: list[float]
    check: list[float]
    kill: list[float]


@dataclass(slots=True)
class Stuck:
    """Health Checks while no reap is stuck in the kernel and while ``reaps`` are; ``skipped``: why that was not measured."""

    run: Run
    reaps: int = 0
    idle: Latency | None = None
    stuck: Latency | None = None
    skipped: str = ""


@dataclass(slots=True)
class Load:
    """What one client made of its calls; ``rate`` in calls a second."""

    latency: Latency
    rate: float


@dataclass(slots=True)
class GhzRow:
    """The same calls by ghz and by the SDK, by one way, with so many callers at once on one connection."""

    way: str
    method: str
    callers: int
    ghz: Load
    sdk: Load


@dataclass(slots=True)
class Ghz:
    """The agent called from Go beside the SDK; ``skipped``: why that was not measured."""

    run: Run
    rounds: int = 0
    rows: list[GhzRow] = field(default_factory=list[GhzRow])
    skipped: str = ""


@dataclass(slots=True)
class Footprint:
    """``ready_seconds`` from the start of the process until it says that it is ready (sd_notify(3)); ``cpu_share`` of one CPU."""

    run: Run
    starts: int
    ready_seconds: float
    rss_bytes: int
    cpu_share: float
    idle_seconds: float
    threads: int


@dataclass(slots=True)
class Results:
    """The last measurements of everything, each with the run that it is of."""

    schema: int = SCHEMA
    cases: list[CaseResult] = field(default_factory=list[CaseResult])
    rpc: RpcCost | None = None
    guarded: Guarded | None = None
    callers: Callers | None = None
    stuck: Stuck | None = None
    ghz: Ghz | None = None
    footprint: Footprint | None = None

    def case(self, name: str) -> CaseResult | None:
        """The case of that name, where it was measured."""
        return next((case for case in self.cases if case.name == name and case.measurements), None)

    def runs(self) -> list[Run]:
        """Every run that something is of, without repetition."""
        found: list[Run] = []
        for part in (*self.cases, self.rpc, self.guarded, self.callers, self.stuck, self.ghz, self.footprint):
            if part is not None and part.run not in found:
                found.append(part.run)
        return found

    def merge(self, newer: Results, order: list[str]) -> None:
        """Take over what ``newer`` has; cases stand in this ``order`` of their names."""
        names = {case.name for case in newer.cases}
        self.cases = sorted([case for case in self.cases if case.name not in names] + newer.cases, key=lambda case: order.index(case.name))
        self.rpc = newer.rpc or self.rpc
        self.guarded = newer.guarded or self.guarded
        self.callers = newer.callers or self.callers
        self.stuck = newer.stuck or self.stuck
        self.ghz = newer.ghz or self.ghz
        self.footprint = newer.footprint or self.footprint


def load(file: Path) -> Results:
    """Read docs/performance.json; empty results where there is none, or one of another schema."""
    if not file.exists() or json.loads(file.read_text(encoding="utf-8")).get("schema") != SCHEMA:
        return Results()
    return msgspec.json.decode(file.read_bytes(), type=Results)


def save(results: Results, file: Path) -> None:
    """Write docs/performance.json, a measurement a line."""
    file.write_text(_layout(msgspec.to_builtins(results)) + "\n", encoding="utf-8")


def _layout(value: Any, indent: str = "") -> str:
    """JSON in which what is short has one line."""
    flat = json.dumps(value)
    if len(indent) >= 4 or len(flat) <= 120 or flat[0] not in "{[":
        return flat
    deeper = indent + " "
    names = [f"{json.dumps(key)}: " if flat[0] == "{" else "" for key in value]
    parts = list(value.values()) if flat[0] == "{" else value
    lines = (f"{deeper}{name}{_layout(part, deeper)}" for name, part in zip(names, parts, strict=True))
    return flat[0] + "\n" + ",\n".join(lines) + f"\n{indent}" + flat[-1]


def _thin(samples: list[tuple[float, int]], before: int) -> list[tuple[float, int]]:
    """Keep a sample where what is held has changed by 1 %, or time by a fifth, and no more than fit into a picture."""
    kept: list[tuple[float, int]] = []
    for seconds, held in samples:
        if not kept or abs(held - kept[-1][1]) > before / 100 or seconds > kept[-1][0] * 1.2:
            kept.append((seconds, held))
    step = max(1, math.ceil(len(kept) / _MOST_SAMPLES))
    return [*kept[:-1:step], *kept[-1:]]
