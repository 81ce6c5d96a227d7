"""The duel as a picture: memory still held over time, by matplotlib (extra ``plot``)."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from mrelease import _text
from mrelease.demo import report
from mrelease.demo.duel import Duel
from mrelease.demo.observe import Track
from mrelease.demo.views import LABELS

#: What to say where matplotlib is missing.
INSTALL = "a picture needs matplotlib: pip install 'mrelease[plot]'"
_COLORS = ("#c0392b", "#1e8449")
_FIRST_SECONDS = 0.001


def is_available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(duel: Duel, file: str) -> None:
    """Write the picture; the same duel gives the same bytes. Raises OSError where the file cannot be written."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    library: Any = mpl
    with library.rc_context({"svg.hashsalt": "mrelease", "font.size": 10}):
        figure: Any = Figure(figsize=(8, 4), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        for label, track, color in zip(LABELS, (duel.killed, duel.released), _COLORS, strict=True):
            seconds, held = _steps(track, duel.limit_seconds)
            axes.step(seconds, held, where="post", label=label, color=color, linewidth=2)
            axes.fill_between(seconds, held, step="post", color=color, alpha=0.12)
        axes.set_xscale("log")
        axes.set_xlim(_FIRST_SECONDS, duel.limit_seconds)
        axes.set_ylim(0, None)
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))
        axes.set_xlabel("time since SIGKILL")
        axes.set_ylabel("memory still held, MiB")
        axes.set_title(report.ratio(duel), fontsize=10)
        axes.grid(visible=True, which="major", alpha=0.25)
        axes.legend(loc="center left", frameon=False)
        figure.supxlabel(
            f"two victims of {_text.size(duel.size_bytes)}, starved by {duel.starved_by}; "
            f"{duel.machine.cpus} CPUs, Linux {duel.machine.kernel}",
            fontsize=7,
        )
        metadata = {"Date": None, "Creator": None} if Path(file).suffix == ".svg" else {}
        figure.savefig(file, metadata=metadata)


def _steps(track: Track, limit: float) -> tuple[list[float], list[float]]:
    samples = [(_FIRST_SECONDS, track.before)]
    for second, held in track.samples:
        if second > _FIRST_SECONDS and held != samples[-1][1]:
            samples.append((second, held))
    if track.exit_seconds is not None:
        samples = [(s, h) for s, h in samples if s < track.exit_seconds] + [(track.exit_seconds, 0)]
    samples.append((limit, samples[-1][1]))
    return [s for s, _ in samples], [h / (1 << 20) for _, h in samples]


def _tick(seconds: float, _: int | None = None) -> str:
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"
