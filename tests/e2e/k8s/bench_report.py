"""The section of Kubernetes in docs/performance.md, and its picture: made from the measurements alone."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from bench import page
from bench.goals import Goal
from bench.markdown import facts, table

FORCE_DELETE: Final = "kubectl delete --force"
OURS: Final = "mrelease"
#: Times as long as with us that a starved pod keeps its memory at least.
_WANTED: Final = 100
_COLORS: Final = {FORCE_DELETE: "#c0392b", OURS: "#1e8449"}


def write(results: dict[str, Any], directory: Path) -> list[Path]:
    """Write numbers, picture and page; their paths."""
    numbers = directory / "kubernetes-performance.json"
    picture = directory / "img" / "kubernetes-delete.svg"
    picture.parent.mkdir(parents=True, exist_ok=True)
    numbers.write_text(json.dumps(results, indent=1) + "\n")
    library: Any = mpl
    with library.rc_context({"svg.hashsalt": "mrelease", "svg.fonttype": "none", "font.size": 10, "font.family": "sans-serif"}):
        _draw(results).savefig(picture, metadata={"Date": None, "Creator": None})
    return [numbers, picture, page.write(directory)]


def median(results: dict[str, Any], contender: str, neighbours: int, what: str) -> float:
    """The median in seconds; one that was given up counts as the limit, which is less than it was."""
    return statistics.median(_values(results, contender, neighbours, what))


def _values(results: dict[str, Any], contender: str, neighbours: int, what: str) -> list[float]:
    chosen = [one for one in results["measurements"] if one["contender"] == contender and one["neighbours"] == neighbours]
    return [results["limit"] if one[what] is None else one[what] for one in chosen]


def _counts(results: dict[str, Any]) -> list[int]:
    return sorted({one["neighbours"] for one in results["measurements"]})


def _duration(seconds: float, limit: float) -> str:
    if seconds >= limit:
        return f"> {limit:g} s"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _spread(results: dict[str, Any], contender: str, neighbours: int, what: str) -> str:
    values, limit = _values(results, contender, neighbours, what), results["limit"]
    return f"{_duration(statistics.median(values), limit)} ({_duration(min(values), limit)} to {_duration(max(values), limit)})"


def goals(results: dict[str, Any]) -> list[Goal]:
    """What was promised, and what was found."""
    found: list[Goal] = []
    for count in _counts(results):
        ratio, sign = _ratio(results, OURS, count)
        what = f"starved pod, {count} BestEffort neighbours: kubectl delete --force / mrelease, memory back"
        found.append(Goal(what, ">= 100", f"{sign}{ratio:.0f}", ratio >= _WANTED))
    return found


def _ratio(results: dict[str, Any], contender: str, count: int) -> tuple[float, str]:
    """How many times as long a force delete takes, and "> " where it was given up."""
    deleted = median(results, FORCE_DELETE, count, "back")
    return deleted / median(results, contender, count, "back"), "> " if deleted >= results["limit"] else ""


def section(results: dict[str, Any]) -> str:
    """The section."""
    counts = _counts(results)
    rounds = len(_values(results, OURS, counts[0], "back"))
    about = [("command", f"`{results['command']}`"), ("date", results["date"]), ("cluster", results["cluster"])]
    rows: list[list[str]] = []
    for count in counts:
        for contender in (FORCE_DELETE, OURS):
            cells = [_spread(results, contender, count, what) for what in ("back", "exit", "returned")]
            ratio, sign = _ratio(results, contender, count)
            rows.append([str(count), contender, *cells, "" if contender == FORCE_DELETE else f"{sign}{ratio:.0f}"])
    header = ["BestEffort neighbours", "", "memory back", "exit", "call returned", "force delete / it, memory back"]
    return f"""## On Kubernetes

Measured by `python -m e2e.k8s.bench_delete`; the raw numbers are in [kubernetes-performance.json](kubernetes-performance.json).

{facts([*about, *results["machine"].items()])}

A BestEffort pod that holds {results["mib"]} MiB, on a node on which {results["burstable"]} Burstable pods and {counts[0]} to {counts[-1]}
other BestEffort pods want all CPU time. It is deleted with `kubectl delete pod --grace-period=0 --force`, or killed through the agent that
the Helm chart installs, by an SDK call through `kubectl port-forward`. {rounds} round{"s" * (rounds > 1)} of each, in turns, each on a
fresh pod.

{table(header, rows)}

![Time to memory back, medians](img/kubernetes-delete.svg)

Medians, with the least and the most in brackets. The load begins when the victim is full: a starved pod needs minutes to take its
memory. *Memory back*: the charge of the container's memory cgroup has fallen by 95 %. *Exit*: the pidfd of its process is readable. Both
are seen by an observer that is neither of the two and has the highest priority. Times begin when kubectl is started, which takes some
0.1 s of its own, or when the SDK is called; its connection is there already. The victim ends on SIGTERM; were it to ignore that, a second
later comes SIGKILL (its terminationGracePeriodSeconds is 1). A force delete returns as soon as the API object is gone:
*call returned* says nothing about memory there, and is the proof here.
"""


def _draw(results: dict[str, Any]) -> Any:
    counts = _counts(results)
    figure: Any = Figure(figsize=(8, 1.2 + 0.7 * len(counts)), layout="constrained")
    axes = figure.add_subplot()
    for row, count in enumerate(counts):
        for place, contender in ((row - 0.18, FORCE_DELETE), (row + 0.18, OURS)):
            seconds = median(results, contender, count, "back")
            axes.barh(place, seconds, 0.34, color=_COLORS[contender], label=None if row else contender)
            axes.text(seconds, place, f" {_duration(seconds, results['limit'])}", va="center", fontsize=8)
            values = _values(results, contender, count, "back")
            axes.plot(values, [place] * len(values), ".", color="black", ms=3)
    axes.set_yticks(range(len(counts)), [f"{count} neighbours" for count in counts])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(0.01, results["limit"] * 4)
    axes.grid(visible=True, axis="x", alpha=0.25)
    axes.set_xlabel("seconds to memory back: median, and each round")
    axes.set_title(f"BestEffort pod of {results['mib']} MiB on a busy node", fontsize=10)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    return figure
