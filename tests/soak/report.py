"""docs/soak.md, docs/soak.json and docs/img/soak.svg, made from the results alone."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from soak.judge import WHATS
from soak.results import WARM_UP, criteria

_COMPARED = """## What is compared

A C program that knows nothing of the agent ([observer.c](../tests/soak/observer.c)) opens `statm` of every thread of a victim, the
charge of its memory cgroup and its pidfd before the kill, and reads them up to 6,000 times a second until after the answer. The agent
kills for an ordinary caller of the SDK, with options drawn by lot; when the caller has the answer, the observer looks at everything at
once. RELEASED or EXITED is wrong where a sample that *began after the answer had come*, or after the moment since which the agent says
that the memory was back, still shows memory by `statm` or by the charge: no time is allowed for. Released bytes are wrong where they
differ from what went by more than 1 % or a page for each thread, an exit where the pidfd was not readable, and HELD or PARTIAL without a
cause and a remedy, or where the memory had been back for a second. What could not be compared for a reason of the lab's own, such as a
victim that was not ready within a minute, is counted apart.

That it can fail is tested: agents that lie in each of these ways are found out (`tests/soak/test_soak.py`)."""

_ERRORS = """## What is not seen

- `statm` is exact here: Linux 6.18 sums its per-CPU counters when it is read (0 of 400 steps off, with pages touched on both CPUs in
  turn). Kernels since 6.2 that do not may be off by 32 pages for each CPU and counter.
- The charge of a cgroup may exceed what its processes hold by what each CPU keeps in stock and by pages on their way to the LRU lists:
  {slack} KiB on {cpus} CPUs, and {kernel} KiB for each process for kernel stack and page tables, which go with the exit. Less than that is
  not seen by the charge; `statm` shows it until the last thread gives up the address space.
- Between two samples lie at most {gap_median} ms in the median kill, {gap_high} ms in 99 of 100: memory that was there again in between
  is not seen. The look right after the answer does not depend on that.
- The time of the kill is told by the wall clock: the moment since which memory is said to be back is known to {clock} us.
- Reading `statm` takes a reference to the address space for some microseconds: now and then the observer is the last to have one, and
  frees the memory itself. Therefore it is read a thousand times a second at most. The charge and the pidfd have no such effect.
- Pages inherited by fork(2), or taken before the victim came into its cgroup, are charged elsewhere: what the agent says of them
  (COPY_ON_WRITE) is added to what it says it released.
- Pages on their way to swap outlive their owner in the swap cache: of swapped victims only `statm` and the pidfd are looked at. So it is
  where the lab puts a victim into no cgroup: pages of hugetlbfs, core dumps.
- A cgroup that forks while it is killed holds more in the end than in the beginning: its bytes are not compared, only that nobody lives."""

_PICTURE = """![The agent over the run](img/soak.svg)

The agent is looked at between two phases, when it has nothing to do. The first {warm:.0%} of the run, grey, are its warm-up: what it
remembers of finished operations grows up to its bound. After that a straight line through each curve has to be level. The latency is that
of each kill over the median of all kills of its kind in phases of its sort, idle or busy. The load is the machine's: of the soak itself,
and of whatever else ran on it."""


def write(results: dict[str, Any], out: Path) -> None:
    """Write all of it into ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "soak.json").write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (out / "soak.md").write_text(markdown(results), encoding="utf-8")
    try:
        from soak.plots import draw
    except ModuleNotFoundError:  # the extra `plot`
        return
    draw(results, out / "img" / "soak.svg")


def markdown(results: dict[str, Any]) -> str:
    """The page."""
    wrong = sum(results["faults"].values())
    run, load, gaps, allowed = results["run"], results["load"], results["gaps_ms"], results["allowed"]
    rows = [["command", f"`{run['command']}`"], ["date", run["date"]], *([name, value] for name, value in run["machine"].items())]
    rows += [
        ["time", f"{results['seconds'] / 60:.0f} minutes, phases with and without CPU hogs in turn, 1 to 8 victims at once"],
        ["load average", f"{load['least']:.1f} to {load['most']:.1f}, median {load['median']:.1f}"],
        ["compared", f"{results['kills']:,} answers on {results['processes']:,} processes, by {results['samples']:,} samples"],
        ["not compared", f"{sum(sum(kind['errors'].values()) for kind in results['kinds'].values()):,}"],
        ["**wrong**", f"**{wrong}**"],
    ]
    errors = _ERRORS.format(
        slack=allowed["charge_bytes"] >> 10,
        cpus=allowed["cpus"],
        kernel=allowed["process_bytes"] >> 10,
        gap_median=gaps["p50"],
        gap_high=gaps["p99"],
        clock=allowed["clock_ns"] // 1000,
    )
    parts = [
        "# Does it tell the truth?",
        "Made by `make soak`; the numbers are in [soak.json](soak.json). Do not edit.",
        _table(["", ""], rows),
        _table(
            ["what has to hold", "wanted", "found", "holds"],
            [[each.what, each.wanted, each.found, "yes" if each.met else "**no**"] for each in criteria(results)],
        ),
        _COMPARED,
        _PICTURE.format(warm=WARM_UP),
        "## Kinds of victims",
        "*After it was seen*: from the sample in which the observer first saw the memory gone to the answer in the caller's hands.",
        _kinds(results["kinds"]),
        *_wrong(results),
        errors,
    ]
    return "\n\n".join(parts) + "\n"


def _kinds(kinds: dict[str, dict[str, Any]]) -> str:
    rows = [
        [
            name,
            str(kind["kills"]),
            _counts(kind["verdicts"]),
            _counts(kind["causes"]),
            _times(kind["took_ms"]),
            _times(kind["after_seen_ms"]),
            str(sum(kind["faults"].values())),
        ]
        for name, kind in kinds.items()
        if kind["kills"]
    ]
    head = ["victim", "kills", "verdicts", "causes of what is held", "back: p50, p99 ms", "after it was seen: p50, p99 ms", "wrong"]
    missing = [f"- {name}: {kind['unavailable']}" for name, kind in kinds.items() if kind["unavailable"] and not kind["kills"]]
    return "\n\n".join([_table(head, rows), *(["Not here:\n\n" + "\n".join(missing)] if missing else [])])


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _times(spread: dict[str, float]) -> str:
    return f"{spread['p50']:.1f}, {spread['p99']:.1f}" if spread else ""


def _wrong(results: dict[str, Any]) -> list[str]:
    if not results["faulty"]:
        return []
    lines = [
        f"- {kill['kind']}, seed {kill['seed']}, {kill['verdict']}: {WHATS[fault['what']]}: {fault['text']}"
        for kill in results["faulty"]
        for fault in kill["faults"]
    ]
    return ["## What was wrong", "\n".join(lines)]


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells)
