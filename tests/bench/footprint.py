"""What an agent costs while nobody asks it anything."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from support.agent import running_agent

_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Footprint:
    """``ready_seconds`` from the start of the process until it says that it is ready (sd_notify(3)); ``cpu_share`` of one CPU."""

    starts: int
    ready_seconds: float
    rss_bytes: int
    cpu_share: float
    idle_seconds: float
    threads: int

    def data(self) -> dict[str, float]:
        """As JSON has it."""
        return asdict(self)


def footprint(starts: int, idle_seconds: float) -> Footprint:
    """Start an agent ``starts`` times, take the median of the time until it is ready, and watch the last one idle."""
    ready = [_ready_seconds() for _ in range(starts)]
    with tempfile.TemporaryDirectory() as folder, running_agent(Path(folder)) as agent:
        before, begin = _cpu_seconds(agent.pid), time.monotonic()
        time.sleep(idle_seconds)
        share = (_cpu_seconds(agent.pid) - before) / (time.monotonic() - begin)
        status = dict(line.split(":", 1) for line in Path(f"/proc/{agent.pid}/status").read_text(encoding="ascii").splitlines())
    rss = int(status["VmRSS"].split()[0]) * 1024
    return Footprint(starts, statistics.median(ready), rss, share, idle_seconds, int(status["Threads"]))


def _ready_seconds() -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        with running_agent(Path(folder)):
            return time.monotonic() - start


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICK
