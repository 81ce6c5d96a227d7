"""Whether the agent stays as it is: its memory, descriptors and threads at quiet moments, and its latency."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mrelease import Client
from soak.scene import PAGE

_PINGS = 50


@dataclass(frozen=True, slots=True)
class Sample:
    """The agent between two phases, with nothing to do. ``ping``: median time of GetNode in ns; ``load``: the machine's, 1 minute."""

    seconds: float
    kills: int
    rss: int
    fds: int
    threads: int
    ping: int
    load: float
    busy: bool
    slots: int


def sample(client: Client, pid: int, since: float, kills: int, *, busy: bool, slots: int) -> Sample:
    """Look at the agent now; ``busy`` and ``slots`` are of the phase that ended."""
    times: list[int] = []
    for _ in range(_PINGS):
        begin = time.monotonic_ns()
        client.get_node()
        times.append(time.monotonic_ns() - begin)
    return Sample(
        seconds=round(time.monotonic() - since, 1),
        kills=kills,
        rss=int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE,
        fds=len(os.listdir(f"/proc/{pid}/fd")),
        threads=len(os.listdir(f"/proc/{pid}/task")),
        ping=int(statistics.median(times)),
        load=round(os.getloadavg()[0], 2),
        busy=busy,
        slots=slots,
    )


def settled(samples: Sequence[Sample], warm_up: float) -> list[Sample]:
    """Those after the warm-up, a share of the run."""
    end = samples[-1].seconds if samples else 0.0
    return [each for each in samples if each.seconds >= end * warm_up]


def growth(times: Sequence[float], values: Sequence[float]) -> float:
    """By how much a straight line through the values (least squares) rises from the first time to the last."""
    if len(times) < 3 or times[-1] == times[0]:
        return 0.0
    slope, _ = statistics.linear_regression(times, values)
    return slope * (times[-1] - times[0])


def drift(times: Sequence[float], values: Sequence[float]) -> float:
    """Median of the last quarter of the time over that of the first."""
    if not times:
        return 1.0
    begin, end = min(times), max(times)
    quarter = (end - begin) / 4
    first = [value for at, value in zip(times, values, strict=True) if at <= begin + quarter]
    last = [value for at, value in zip(times, values, strict=True) if at >= end - quarter]
    return statistics.median(last) / statistics.median(first) if first and last else 1.0
