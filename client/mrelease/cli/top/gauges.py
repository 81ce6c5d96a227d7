"""Memory and its pressure as lines: with bars for a full screen, as words for a table."""

from __future__ import annotations

from collections import deque
from typing import Final

from rich.text import Text

from mrelease import MemorySample, _text

_BAR: Final = 32
_SPARKS: Final = "▁▂▃▄▅▆▇█"
#: Shares from which a gauge is yellow, and red.
_FULL: Final = (0.75, 0.9)
_STALLED: Final = (0.05, 0.2)


class History:
    """Share of the time for which tasks stalled for memory, from one sample to the next."""

    def __init__(self, length: int = _BAR) -> None:
        self._shares: deque[float] = deque(maxlen=length)
        self._last: MemorySample | None = None

    def add(self, sample: MemorySample) -> None:
        """Take the next sample."""
        last, self._last = self._last, sample
        if last is None or last.pressure is None or sample.pressure is None:
            return
        elapsed = (sample.sample_time - last.sample_time).total_seconds()
        stalled = (sample.pressure.some.total_duration - last.pressure.some.total_duration).total_seconds()
        if elapsed > 0 and stalled >= 0:  # else another boot of the node answers
            self._shares.append(min(1.0, stalled / elapsed))

    def sparks(self) -> Text:
        """One character a sample."""
        line = Text()
        for share in self._shares:
            height = min(len(_SPARKS) - 1, int(share * len(_SPARKS)))
            line.append(_SPARKS[height], style=_style(share, _STALLED) if share else "dim")
        return line


def words(sample: MemorySample) -> list[tuple[str, str]]:
    """What each gauge is called, and what it says."""
    memory = sample.memory
    used = memory.total_bytes - memory.available_bytes
    lines = [("memory", f"{_text.share(used, memory.total_bytes)} used, {_text.size(memory.available_bytes)} available")]
    if memory.swap_total_bytes:
        lines.append(("swap", f"{_text.share(memory.swap_total_bytes - memory.swap_free_bytes, memory.swap_total_bytes)} used"))
    else:
        lines.append(("swap", "none"))
    lines.append(("pressure", "not measured (why: mrelease doctor)" if sample.pressure is None else str(sample.pressure)))
    if sample.cgroup is not None:
        lines.append(("cgroup", str(sample.cgroup)))
    return lines


def bars(sample: MemorySample, history: History) -> Text:
    """The gauges, one a line, each with its bar or its history."""
    memory = sample.memory
    shares: dict[str, float] = {
        "memory": _share(memory.total_bytes - memory.available_bytes, memory.total_bytes),
        "swap": _share(memory.swap_total_bytes - memory.swap_free_bytes, memory.swap_total_bytes),
    }
    if sample.cgroup is not None and sample.cgroup.limit_bytes is not None:
        shares["cgroup"] = _share(sample.cgroup.usage_bytes, sample.cgroup.limit_bytes)
    text = Text()
    for name, said in words(sample):
        text.append(f"{name:<9}", style="bold")
        if name == "pressure":
            sparks = history.sparks()
            text.append_text(sparks).append(" " * (_BAR - len(sparks)))
        else:
            filled = round(shares.get(name, 0.0) * _BAR)
            text.append("█" * filled, style=_style(shares.get(name, 0.0), _FULL)).append("░" * (_BAR - filled), style="dim")
        text.append(f"  {said}\n")
    text.rstrip()
    return text


def _share(part_bytes: int, whole_bytes: int) -> float:
    return min(1.0, max(0.0, part_bytes / whole_bytes)) if whole_bytes else 0.0


def _style(share: float, limits: tuple[float, float]) -> str:
    return "red" if share >= limits[1] else "yellow" if share >= limits[0] else "green"
