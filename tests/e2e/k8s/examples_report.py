"""The section of the examples in docs/performance.md, made from the measurements alone."""

from __future__ import annotations

import statistics
from typing import Any, Final

from bench.markdown import facts, table

WITHOUT: Final = "the scheduler preempts"
WITH: Final = "examples/preemption.py"
NOBODY: Final = "nobody"
KEEPER: Final = "examples/memory_floor.py"
#: What the victim does with SIGTERM.
ENDS, IGNORES, HANGS = "ends at once", "ignores it, 30 s of grace", "waits for a dead file system (state D)"


def section(results: dict[str, Any]) -> str:
    """The section."""
    about = [("command", f"`{results['command']}`"), ("date", results["date"]), ("cluster", results["cluster"])]
    limit = results["limit"]
    pending = [_row(results, case, who, limit) for case in (ENDS, IGNORES, HANGS) for who in (WITHOUT, WITH)]
    floor = [_row(results, "floor", who, limit / 4)[1:] for who in (NOBODY, KEEPER)]
    return f"""## What the examples change

Measured by `python -m e2e.k8s.bench_examples`; the raw numbers are in [examples-performance.json](examples-performance.json).

{facts([*about, *results["machine"].items()])}

### A pod that pends for memory

A node is full of requests: two pods of low priority, of which either would make room for an important one. *{WITHOUT}*: its PriorityClass
has `preemptionPolicy: PreemptLowerPriority`. *{WITH}*: it has `Never`, and [the example](../examples/preemption.py) runs, with `--force`.
Seconds from the creation of the important pod until it is Running; medians of all rounds, with the least and the most in brackets.

{table(["at SIGTERM the victim", "who makes room", "pending pod Running after", "pods killed"], pending)}

The scheduler waits for kubelet, which waits for the grace period (30 s for both), and for a process in state D for as long as its
file system is dead. The example gives no grace, which is its default: `--grace` gives some. Where the victim ends at once there is nothing
to gain, and the example's turn, once a second, costs up to that.

### A node below its floor

A BestEffort pod takes 1 GiB on a node whose floor is 600 MiB below what was available; a smaller BestEffort pod runs beside it. A process
that thrashes in a small memory cgroup of its own makes the kernel's PSI trigger fire, as on a node in trouble. Seconds for which
MemAvailable is below the floor.

{table(["who keeps it", "below the floor for", "pods killed"], floor)}

The trigger fires at most once in its window of 2 s. Nobody: kubelet evicts only when 100 MiB are available (`evictionHard`), and the kernel
kills only when there is nothing left.
"""


def _row(results: dict[str, Any], case: str, who: str, limit: float) -> list[str]:
    chosen = [one for one in results["measurements"] if (one["case"], one["contender"]) == (case, who)]
    seconds = [limit if one["seconds"] is None else one["seconds"] for one in chosen]
    cells = [f"> {limit:g} s" if value >= limit else f"{value:.1f} s" for value in (statistics.median(seconds), min(seconds), max(seconds))]
    killed = sorted({one["killed"] for one in chosen})
    return [case, who, f"{cells[0]} ({cells[1]} to {cells[2]})", " or ".join(map(str, killed))]
