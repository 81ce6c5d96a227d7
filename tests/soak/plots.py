"""The picture of docs/soak.md: the agent over the run, and the latency of its kills; the same results give the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from soak.results import WARM_UP

_GREEN, _LIGHT, _GREY, _RED = "#1e8449", "#7dcea0", "#95a5a6", "#c0392b"


def draw(results: dict[str, Any], file: Path) -> None:
    """Write the picture."""
    library: Any = mpl
    style = {"svg.hashsalt": "mrelease", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    with library.rc_context(style):
        figure: Any = Figure(figsize=(8, 8.4), layout="constrained")
        axes = figure.subplots(4, 1, sharex=True)
        agent = results["agent"]
        minutes = [each["seconds"] / 60 for each in agent]
        memory, counts, latency, load = axes
        memory.plot(minutes, [each["rss"] / (1 << 20) for each in agent], color=_GREEN)
        memory.set_ylabel("agent's RSS, MiB")
        memory.set_ylim(0, None)
        counts.step(minutes, [each["fds"] for each in agent], color=_GREEN, where="post", label="descriptors")
        counts.step(minutes, [each["threads"] for each in agent], color=_GREY, where="post", label="threads")
        counts.set_ylim(0, None)
        counts.legend(loc="center right", frameon=False)
        counts.set_ylabel("agent, number")
        over = results["latency"]
        latency.plot([each["seconds"] / 60 for each in over], [each["p50"] for each in over], color=_GREEN, label="median")
        latency.plot([each["seconds"] / 60 for each in over], [each["p90"] for each in over], color=_LIGHT, label="p90")
        latency.set_yscale("log")
        latency.set_ylabel("latency of a kill over\nthe median of its kind")
        latency.legend(loc="upper right", frameon=False)
        load.plot(minutes, [each["load"] for each in agent], color=_GREY)
        load.set_ylabel("load average, 1 minute")
        load.set_ylim(0, None)
        load.set_xlabel("minutes")
        for each in axes:
            each.axvspan(0, results["seconds"] / 60 * WARM_UP, color=_GREY, alpha=0.12, lw=0)
            each.grid(visible=True, alpha=0.25)
            each.set_xlim(0, results["seconds"] / 60)
        wrong = sum(results["faults"].values())
        title = f"{results['kills']:,} kills compared, {wrong} wrong"
        figure.suptitle(title, fontsize=11, color=_RED if wrong else "black")
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, metadata={"Date": None, "Creator": None})
