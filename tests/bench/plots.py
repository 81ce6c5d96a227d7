"""The pictures of docs/performance.md; the same results give the same bytes."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.cases import CASES
from bench.contenders import AGENT, BOOSTED, CTR, EARLYOOM, EVERYBODY, FLOOR, KILL, TCP
from bench.results import CaseResult, Latency, Results
from bench.statistics_of import duration

_COLORS = {
    KILL: "#c0392b",
    FLOOR: "#95a5a6",
    BOOSTED: "#34495e",
    AGENT: "#1e8449",
    TCP: "#7dcea0",
    CTR: "#d68910",
    EARLYOOM: "#8e44ad",
}
_DASHED = (FLOOR, BOOSTED, TCP)
_FIRST_SECONDS = 0.001
_TITLES = {case.name: case.title for case in CASES}


def draw(results: Results, directory: Path) -> dict[str, str]:
    """Write the pictures into ``directory`` and remove those of older results; return their names by what they show."""
    directory.mkdir(parents=True, exist_ok=True)
    library: Any = mpl
    names: dict[str, str] = {}
    # Text as text: outlines of letters are most of a picture's size.
    style = {"svg.hashsalt": "mrelease", "svg.fonttype": "none", "font.size": 10, "font.family": "sans-serif", "path.simplify": True}
    with library.rc_context(style):
        measured = [case for case in results.cases if case.measurements]
        figures = {case.name: _held(case) for case in measured}
        if measured:
            figures["medians"] = _medians(measured)
        if (cost := results.rpc) is not None:
            rows = {
                "Health Check": cost.check,
                "over the release": cost.over,
                "Health Check, TCP": cost.tcp_check,
                "over, TCP": cost.tcp_over,
            }
            figures["rpc"] = _latencies(rows)
        if (stuck := results.stuck) is not None and stuck.idle is not None and stuck.stuck is not None:
            figures["stuck"] = _latencies({"no reap stuck": stuck.idle, f"{stuck.reaps} reaps stuck": stuck.stuck})
        if (many := results.callers) is not None:
            figures["callers"] = _rates({"echoes": many.echo, "Health Checks": many.check, "kills": many.kill})
        for name, figure in figures.items():
            figure.savefig(directory / f"bench-{name}.svg", metadata={"Date": None, "Creator": None})
            names[name] = f"{directory.name}/bench-{name}.svg"
    for picture in directory.glob("bench-*.svg"):
        if f"{directory.name}/{picture.name}" not in names.values():
            picture.unlink()  # of what is no longer measured
    return names


def _held(result: CaseResult) -> Any:
    figure: Any = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.add_subplot()
    for name in result.contenders:
        first = result.by(name)[0]
        end = math.inf if first.exit_seconds is None else first.exit_seconds
        points = [(_FIRST_SECONDS, first.held_bytes), *((s, h) for s, h in first.samples if _FIRST_SECONDS < s < end)]
        if first.exit_seconds is not None:
            points.append((first.exit_seconds, 0))
        points.append((result.limit, points[-1][1]))
        axes.step(
            [s for s, _ in points],
            [h / (1 << 20) for _, h in points],
            "--" if name in _DASHED else "-",
            where="post",
            label=name,
            color=_COLORS[name],
            lw=4 if name == KILL else 2,  # others may lie on it
        )
    _scale(axes, result.limit)
    axes.set_ylim(0, None)
    axes.set_ylabel("memory still held, MiB")
    axes.set_xlabel("time since the first step")
    axes.set_title(f"{_TITLES[result.name]}, first round", fontsize=10)
    axes.legend(loc="best", frameon=False, fontsize=8)
    return figure


def _medians(measured: list[CaseResult]) -> Any:
    """kill(2), the better of the C programs, and the agent."""
    figure: Any = Figure(figsize=(8, 1 + 0.62 * len(measured)), layout="constrained")
    axes = figure.add_subplot()
    limit = max(result.limit for result in measured)
    shown = [name for name in EVERYBODY if name in (KILL, FLOOR, BOOSTED, AGENT)]
    labelled: set[str] = set()
    for row, result in enumerate(measured):
        names = [name for name in shown if name in result.contenders and not (name == FLOOR and BOOSTED in result.contenders)]
        for number, name in enumerate(names):
            median = result.back(name).median
            length = min(median, result.limit)
            place = row + (number - (len(names) - 1) / 2) * 0.26
            axes.barh(place, length, 0.24, color=_COLORS[name], label=None if name in labelled else name)
            labelled.add(name)
            axes.text(length, place, f" {duration(median, result.limit)}", va="center", fontsize=7)
    axes.set_yticks(range(len(measured)), [_TITLES[result.name] for result in measured], fontsize=8)
    axes.invert_yaxis()
    _scale(axes, limit * 4)
    axes.set_xlabel("time to memory back, median")
    figure.legend(loc="outside upper center", ncols=len(labelled), frameon=False, fontsize=8)
    return figure


def _latencies(rows: dict[str, Latency]) -> Any:
    figure, axes = _bars(list(rows))
    for row, found in enumerate(rows.values()):
        for place, value, color, label in ((row - 0.18, found.p50, "#1e8449", "p50"), (row + 0.18, found.p99, "#7dcea0", "p99")):
            axes.barh(place, value * 1000, 0.34, color=color, label=None if row else label)
            axes.text(value * 1000, place, f" {duration(value, 60)}", va="center", fontsize=8)
    axes.set_xlabel("ms")
    axes.legend(loc="lower right", frameon=False)
    return figure


def _rates(rows: dict[str, list[float]]) -> Any:
    figure, axes = _bars(list(rows))
    for row, rates in enumerate(rows.values()):
        median = statistics.median(rates)
        axes.barh(row, median, 0.5, color="#1e8449")
        axes.text(median, row, f" {median:.0f}", va="center", fontsize=8)
    axes.set_xlabel("calls a second, median")
    return figure


def _bars(labels: list[str]) -> tuple[Any, Any]:
    figure: Any = Figure(figsize=(8, 0.9 + 0.45 * len(labels)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(visible=True, axis="x", alpha=0.25)
    return figure, axes


def _scale(axes: Any, limit: float) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(_FIRST_SECONDS, limit)
    axes.xaxis.set_major_locator(FixedLocator([tick for tick in (0.001, 0.01, 0.1, 1, 10, 100) if tick <= limit]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.grid(visible=True, axis="x", alpha=0.25)


def _tick(seconds: float, _: int | None = None) -> str:
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"
