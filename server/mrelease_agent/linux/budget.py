"""A bound on a look around: who looks asks between two steps, and stops with what there is."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]


class Budget:
    """Time that may be spent, in seconds of ``clock``."""

    __slots__ = ("_clock", "_end")

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left(self) -> float:
        """Seconds that may still be spent; 0 where none may."""
        return max(0.0, self._end - self._clock())

    @property
    def spent(self) -> bool:
        """Whether it is time to stop."""
        return self._clock() >= self._end

    def part(self, share: float) -> Budget:
        """A share of what is left, for a step that must not take it all."""
        return Budget(self.left * share, self._clock)
