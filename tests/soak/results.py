"""The result of a run: what docs/soak.md, docs/soak.json and the picture are made of."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from bench.statistics_of import percentile
from soak.health import Sample, drift, growth, settled
from soak.judge import CHARGE_SLACK, CLOCK_ERROR, CPUS, KERNEL, WHATS
from soak.tally import Tally

#: Share of the run in which the agent's caches fill: it is not judged by that.
WARM_UP = 0.25
#: What "flat" and "no drift" mean. Memory: over the rest of the run, of the median.
MOST_MEMORY, MOST_COUNT, MOST_DRIFT = 0.02, 1.0, 1.25


@dataclass(frozen=True, slots=True)
class Criterion:
    """Something that has to hold."""

    what: str
    found: str
    wanted: str
    met: bool


def criteria(results: dict[str, Any]) -> list[Criterion]:
    """What the run has to show, and whether it does."""
    faults: dict[str, int] = results["faults"]
    made = [
        Criterion(f"answers that were wrong: {text}", str(faults.get(what, 0)), "0", not faults.get(what)) for what, text in WHATS.items()
    ]
    flat = results["flat"]
    made += [
        Criterion("memory of the agent (RSS), growth", f"{flat['rss']:+.2%}", f"<= {MOST_MEMORY:.0%}", flat["rss"] <= MOST_MEMORY),
        Criterion("descriptors of the agent, growth", f"{flat['fds']:+.2f}", f"<= {MOST_COUNT:g}", flat["fds"] <= MOST_COUNT),
        Criterion("threads of the agent, growth", f"{flat['threads']:+.2f}", f"<= {MOST_COUNT:g}", flat["threads"] <= MOST_COUNT),
        Criterion("latency of kills, last quarter / first", f"{flat['took']:.2f}", f"<= {MOST_DRIFT:g}", flat["took"] <= MOST_DRIFT),
        Criterion("latency of GetNode, last quarter / first", f"{flat['ping']:.2f}", f"<= {MOST_DRIFT:g}", flat["ping"] <= MOST_DRIFT),
    ]
    return made


def results_of(tally: Tally, samples: list[Sample], run: dict[str, Any]) -> dict[str, Any]:
    """Sum a run up, also one that is not at its end."""
    steady = settled(samples, WARM_UP)
    times = [each.seconds for each in steady]
    rss = [float(each.rss) for each in steady]
    loads = [each.load for each in samples] or [0.0]
    gaps = tally.gaps or [0.0]
    return {
        "run": run,
        "kills": tally.kills,
        "processes": tally.processes,
        "samples": tally.samples,
        "seconds": samples[-1].seconds if samples else 0.0,
        "load": {"least": min(loads), "median": statistics.median(loads), "most": max(loads)},
        "gaps_ms": {"p50": round(statistics.median(gaps) * 1e3, 2), "p99": round(percentile(gaps, 0.99) * 1e3, 2)},
        "allowed": {"charge_bytes": CHARGE_SLACK, "process_bytes": KERNEL, "clock_ns": CLOCK_ERROR, "cpus": CPUS},
        "faults": dict(tally.faults),
        "flat": {
            "rss": growth(times, rss) / statistics.median(rss) if rss else 0.0,
            "fds": growth(times, [each.fds for each in steady]),
            "threads": growth(times, [each.threads for each in steady]),
            "took": drift(*tally.relative()),
            "ping": drift([each.seconds for each in samples], [float(each.ping) for each in samples]),
        },
        "kinds": {name: tally.kinds[name].row() for name in sorted(tally.kinds)},
        "faulty": tally.faulty,
        "failed": tally.failed,
        "agent": [asdict(each) for each in samples],
        "latency": _over_time(tally),
    }


def _over_time(tally: Tally) -> list[dict[str, float]]:
    """Latency in slices of the run, for the picture."""
    times, values = tally.relative()
    if not times:
        return []
    begin, end = min(times), max(times)
    width = max((end - begin) / 60, 1.0)
    slices: dict[int, list[float]] = {}
    for at, value in zip(times, values, strict=True):
        slices.setdefault(int((at - begin) / width), []).append(value)
    return [
        {
            "seconds": round(begin + (number + 0.5) * width, 1),
            "p50": round(statistics.median(found), 3),
            "p90": round(percentile(found, 0.9), 3),
        }
        for number, found in sorted(slices.items())
    ]
