"""What an agent costs while nobody asks it anything."""

from __future__ import annotations

import compileall
import os
import statistics
import time
from pathlib import Path

import mrelease
import mrelease_agent
from bench.results import Footprint, Run
from bench.scratch import scratch
from support.agent import running_agent

_TICK = os.sysconf("SC_CLK_TCK")


def footprint(run: Run, starts: int, idle_seconds: float) -> Footprint:
    """Start an agent ``starts`` times, take the median of the time until it is ready, and watch the last one idle."""
    # As pip and the image install it; an editable install under PYTHONDONTWRITEBYTECODE would compile itself at every start.
    for package in (mrelease, mrelease_agent):
        compileall.compile_dir(str(Path(package.__path__[0])), quiet=1)
    ready = [_ready_seconds() for _ in range(starts)]
    with scratch() as folder, running_agent(folder) as agent:
        before, begin = _cpu_seconds(agent.pid), time.monotonic()
        time.sleep(idle_seconds)
        share = (_cpu_seconds(agent.pid) - before) / (time.monotonic() - begin)
        status = dict(line.split(":", 1) for line in Path(f"/proc/{agent.pid}/status").read_text(encoding="ascii").splitlines())
    rss = int(status["VmRSS"].split()[0]) * 1024
    return Footprint(run, starts, statistics.median(ready), rss, share, idle_seconds, int(status["Threads"]))


def _ready_seconds() -> float:
    with scratch() as folder:
        start = time.monotonic()
        with running_agent(folder):
            return time.monotonic() - start


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICK
