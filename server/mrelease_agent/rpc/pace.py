"""How fast one user may begin calls through the relay: who is faster is read more slowly, and nothing of it is lost."""

from __future__ import annotations

import time
from typing import Final

#: Calls a second, more than the agent could serve; above it gRPC would drop calls of all users.
_RATE: Final = 1000.0
#: Calls at once after a pause.
_BURST: Final = 1000.0
_LONGEST: Final = 10.0


class Pace:
    """Of all connections of one user. ``spent``: whether the next read should be a small one."""

    __slots__ = ("_allowance", "_last", "connections")

    def __init__(self) -> None:
        self._allowance = _BURST
        self._last = time.monotonic()
        self.connections = 0

    @property
    def spent(self) -> bool:
        """Whether more calls were begun than may be."""
        return self._allowance < 0

    def begin(self, calls: int) -> float:
        """Count calls; seconds for which the connection is not to be read."""
        now = time.monotonic()
        self._allowance = min(_BURST, self._allowance + (now - self._last) * _RATE) - calls
        self._last = now
        return min(_LONGEST, -self._allowance / _RATE) if self._allowance < 0 else 0.0
