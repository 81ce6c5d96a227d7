"""The pictures of docs/performance.md; the same results give the same bytes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.results import AGENT, FLOOR, KILL, CaseResult, Results

_COLORS = {KILL: "#c0392b", FLOOR: "#7f8c8d", AGENT: "#1e8449"}
_STYLES = {KILL: "-", FLOOR: "--", AGENT: "-"}
_FIRST_SECONDS = 0.001


def draw(results: Results, directory: Path) -> dict[str, str]:
    """Write the pictures into ``directory``; return their names by the case that they show."""
    directory.mkdir(parents=True, exist_ok=True)
    library: Any = mpl
    names: dict[str, str] = {}
    with library.rc_context({"svg.hashsalt": "mrelease", "svg.fonttype": "path", "font.size": 10}):
        measured = [case for case in results.cases if case.measurements]
        if measured:
            names["medians"] = _save(_medians(measured), directory, "bench-medians")
        for case in measured:
            names[case.case.name] = _save(_held(case), directory, f"bench-{case.case.name}")
    return names


def _held(result: CaseResult) -> Any:
    figure: Any = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    limit = result.case.limit
    for name in result.contenders:
        first = result.by(name)[0]
        end = math.inf if first.exit_seconds is None else first.exit_seconds
        points = [(_FIRST_SECONDS, first.held_bytes), *((s, h) for s, h in first.samples if _FIRST_SECONDS < s < end)]
        if first.exit_seconds is not None:
            points.append((first.exit_seconds, 0))
        points.append((limit, points[-1][1]))
        axes.step(
            [s for s, _ in points], [h / (1 << 20) for _, h in points], _STYLES[name], where="post", label=name, color=_COLORS[name], lw=2
        )
    _scale(axes, limit)
    axes.set_ylim(0, None)
    axes.set_ylabel("memory still held, MiB")
    axes.set_xlabel("time since the first step")
    axes.set_title(f"{result.case.title}, first round", fontsize=10)
    axes.legend(loc="best", frameon=False)
    return figure


def _medians(measured: list[CaseResult]) -> Any:
    figure: Any = Figure(figsize=(8, 1 + 0.9 * len(measured)), layout="constrained")
    axes = figure.add_subplot()
    limit = max(result.case.limit for result in measured)
    names = [name for name in (KILL, FLOOR, AGENT) if any(name in result.contenders for result in measured)]
    for number, name in enumerate(names):
        for row, result in enumerate(measured):
            if name not in result.contenders:
                continue
            median = result.back(name).median
            shown = min(median, result.case.limit)
            place = row + (number - (len(names) - 1) / 2) * 0.26
            axes.barh(place, shown, 0.24, color=_COLORS[name], label=name if row == 0 else None)
            text = f" > {result.case.limit:g} s" if math.isinf(median) else f" {_tick(float(f'{median:.3g}'))}"
            axes.text(shown, place, text, va="center", fontsize=8)
    axes.set_yticks(range(len(measured)), [result.case.title for result in measured])
    axes.invert_yaxis()
    _scale(axes, limit * 4)
    axes.set_xlabel("time to memory back, median")
    axes.legend(loc="lower right", frameon=False)
    return figure


def _scale(axes: Any, limit: float) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_xscale("log")
    axes.set_xlim(_FIRST_SECONDS, limit)
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.grid(visible=True, axis="x", alpha=0.25)


def _tick(seconds: float, _: int | None = None) -> str:
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"


def _save(figure: Any, directory: Path, name: str) -> str:
    figure.savefig(directory / f"{name}.svg", metadata={"Date": None, "Creator": None})
    return f"{directory.name}/{name}.svg"
