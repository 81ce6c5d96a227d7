"""What was promised (DESIGN, "Proof, not belief"), beside what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from bench.contenders import AGENT, BOOSTED, FLOOR, KILL, TCP
from bench.results import CaseResult, Results
from bench.statistics_of import Ratio, duration

#: Victims at which the agent has little to win, or which kill(2) does not end: it must not be worse.
_WHAT = {
    "frozen": "frozen victim",
    "stopped": "stopped victim",
    "sched-idle": "SCHED_IDLE victim",
    "mappings": "20,000 mappings",
    "huge": "huge pages",
    "swap": "swapped victim",
}
#: What the call itself may cost there: milliseconds that are a few percent of 1 GiB are most of what freeing huge pages takes.
_CALL_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing that must hold, and whether it did."""

    what: str
    wanted: str
    found: str
    met: bool


def goals(results: Results) -> list[Goal]:
    """Compare what was measured with what was promised; what was not measured is left out."""
    return [*_cases(results), *_rpc(results)]


def _cases(results: Results) -> Iterator[Goal]:
    for name, size in (("starved", "1 GiB"), ("starved-4g", "4 GiB")):
        what = f"starved victim, {size}"
        yield from _ratio(results, name, KILL, AGENT, f"{what}: kill(2) / agent, memory back", least=100)
        yield from _ratio(results, name, AGENT, BOOSTED, f"{what}: agent / C program + boost, memory back", most=1.05)
        yield from _ratio(results, name, KILL, AGENT, f"{what}: kill(2) / agent, exit", least=100, of_exit=True)
        yield from _ratio(results, name, AGENT, BOOSTED, f"{what}: agent / C program + boost, exit", most=1.05, of_exit=True)
    yield from _d_state(results)
    for name in _WHAT:
        yield from _not_worse(results, name)
    yield from _verdicts(results)
    yield from _ratio(results, "idle", AGENT, KILL, "idle node, 2 GiB: agent / kill(2), memory back", most=1.05)
    yield from _ratio(results, "idle", TCP, KILL, "idle node, 2 GiB: agent by TCP / kill(2), memory back", most=1.05)
    yield from _ratio(results, "pinned", AGENT, BOOSTED, "victim pinned to a busy CPU: agent / C program + boost, memory back", most=1.05)
    yield from _ratio(
        results, "pinned", AGENT, BOOSTED, "victim pinned to a busy CPU: agent / C program + boost, exit", most=1.05, of_exit=True
    )
    yield from _ratio(results, "crowd", AGENT, FLOOR, "1,000 processes: agent / cgroup.kill and reaping in C, memory back", most=1.5)
    yield from _ratio(results, "crowd", AGENT, FLOOR, "1,000 processes: agent / cgroup.kill and reaping in C, exit", most=1.5, of_exit=True)


def _ratio(
    results: Results,
    name: str,
    slower: str,
    faster: str,
    what: str,
    *,
    least: float | None = None,
    most: float = math.inf,
    of_exit: bool = False,
) -> Iterator[Goal]:
    case = results.case(name)
    if case is None or not {slower, faster} <= set(case.contenders):
        return
    wanted = f">= {least:g}" if least is not None else f"<= {most:g}"
    ratio = case.ratio(slower, faster, of_exit=of_exit)
    if ratio is None:
        yield Goal(what, wanted, f"{faster} not within {case.limit:g} s", met=False)
    else:
        met = ratio.value >= least if least is not None else not ratio.at_least and ratio.value <= most
        yield Goal(what, wanted, str(ratio), met)


def _d_state(results: Results) -> Iterator[Goal]:
    case = results.case("d-state")
    if case is None or AGENT not in case.contenders:
        return
    share = min(1 - measurement.left_bytes / measurement.held_bytes for measurement in case.by(AGENT))
    yield Goal("state D: anonymous memory back by the agent, least", ">= 99 %", f"{share * 100:.1f} %", share >= 0.99)
    yield from _ratio(results, "d-state", AGENT, FLOOR, "state D: agent / C program, memory back", most=1.05)


def _not_worse(results: Results, name: str) -> Iterator[Goal]:
    case = results.case(name)
    if case is None or not {KILL, AGENT} <= set(case.contenders):
        return
    kill, agent = case.back(KILL).median, case.back(AGENT).median
    found = f"{duration(agent, case.limit)} and {duration(kill, case.limit)}"
    met = agent <= kill or agent <= max(kill * 1.05, kill + _CALL_SECONDS)
    yield Goal(f"{_WHAT[name]}: agent and kill(2), memory back", f"not worse: within 5 % or {_CALL_SECONDS * 1000:g} ms", found, met)


def _verdicts(results: Results) -> Iterator[Goal]:
    judged = [m for case in results.cases for name in (AGENT, TCP) for m in case.by(name)]
    if judged:
        wrong = sum(bool(measurement.wrong) for measurement in judged)
        yield Goal("verdicts that the observer contradicts", "0", f"{wrong} of {len(judged)}", not wrong)


def _rpc(results: Results) -> Iterator[Goal]:
    if (cost := results.rpc) is not None:
        p50, p99 = cost.over.p50 / cost.check.p50, cost.over.p99 / cost.check.p99
        yield Goal("RPC over the release itself / Health Check, p50", "<= 1.5", f"{p50:.2f}", p50 <= 1.5)
        yield Goal("RPC over the release itself / Health Check, p99", "<= 3", f"{p99:.2f}", p99 <= 3)
    if (trust := results.guarded) is not None:
        for what, plain, guarded in (
            ("RPC by mutual TLS with policy and audit / without", trust.plain, trust.audited),
            ("the same, over the release itself", trust.plain_over, trust.audited_over),
        ):
            yield Goal(f"{what}, p50", "<= 1.6", f"{guarded.p50 / plain.p50:.2f}", guarded.p50 / plain.p50 <= 1.6)
    if (callers := results.callers) is not None:
        share = statistics.median(callers.kill) / statistics.median(callers.check)
        yield Goal(f"{callers.callers} callers: kills / Health Checks a second", ">= 50 %", f"{share * 100:.0f} %", share >= 0.5)
    if (stuck := results.stuck) is not None and stuck.idle is not None and stuck.stuck is not None:
        ratio = Ratio(stuck.stuck.p99 / stuck.idle.p99)
        yield Goal(f"Health Check with {stuck.reaps} reaps stuck / without, p99", "<= 2", str(ratio), ratio.value <= 2)
    if (idle := results.footprint) is not None:
        yield Goal("idle agent, resident memory", "<= 45 MiB", f"{idle.rss_bytes / (1 << 20):.1f} MiB", idle.rss_bytes <= 45 << 20)
        yield Goal("idle agent, CPU", "<= 0.3 %", f"{idle.cpu_share * 100:.2f} %", idle.cpu_share <= 0.003)
        yield Goal("agent ready after", "<= 0.3 s", f"{idle.ready_seconds:.2f} s", idle.ready_seconds <= 0.3)


def wrong_verdicts(cases: list[CaseResult]) -> list[str]:
    """Every verdict that the observer contradicts, for people."""
    return [f"{case.name}, round {m.round + 1}, {m.contender}: {m.wrong}" for case in cases for m in case.measurements if m.wrong]
