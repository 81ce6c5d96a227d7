"""Medians and ratios of measurements of which some did not end within the limit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most of some durations in seconds; infinite where more than the limit."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread:
        """Summarize; None is a duration beyond the limit."""
        known = [math.inf if value is None else value for value in values]
        return cls(statistics.median_low(known), min(known), max(known))

    def text(self, limit: float) -> str:
        """``12.3 ms (11.0 to 14.1)``, with ``> 20 s`` for what took longer than the limit."""
        if math.isinf(self.least):
            return f"> {limit:g} s"
        return f"{duration(self.median, limit)} ({duration(self.least, limit)} to {duration(self.most, limit)})"


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times longer one thing took than another; ``at_least`` where the longer one did not end within the limit."""

    value: float
    at_least: bool = False

    @classmethod
    def of(cls, slower: Spread, faster: Spread, limit: float) -> Ratio | None:
        """Compare medians; None where the faster one did not end."""
        if math.isinf(faster.median) or faster.median <= 0:
            return None
        return cls(min(slower.median, limit) / faster.median, math.isinf(slower.median))

    def __str__(self) -> str:
        number = f"{self.value:.0f}" if self.value >= 10 else f"{self.value:.2f}"
        return f"> {number}" if self.at_least else number


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of the values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def duration(seconds: float, limit: float) -> str:
    """A duration for people."""
    if math.isinf(seconds):
        return f"> {limit:g} s"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
