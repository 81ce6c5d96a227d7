"""How many refusals are written one by one. The rest is counted: whoever is refused can neither fill the disk nor bury what others did."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

#: So many at once, and one more each so many seconds: of one caller, and of all.
CALLER_BURST: Final = 20
_CALLER_SECONDS: Final = 30.0
BURST: Final = 200
_SECONDS: Final = 5.0
#: Callers that are told apart: who was seen longest ago is forgotten, and has his burst again.
_CALLERS: Final = 256
#: Callers that one record names.
NAMED: Final = 32


class _Bucket:
    def __init__(self, burst: int, seconds: float) -> None:
        self._burst = burst
        self._seconds = seconds
        self._tokens = float(burst)
        self._at = 0.0

    def take(self, now: float) -> bool:
        self._tokens = min(self._burst, self._tokens + (now - self._at) / self._seconds)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Denials:
    """Which refusals are written, and how many were not, by caller. For several threads. ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._all = _Bucket(BURST, _SECONDS)
        self._callers: OrderedDict[str, _Bucket] = OrderedDict()
        self._suppressed: dict[str, int] = {}

    def written(self, caller: str) -> bool:
        """Whether a refusal of this caller is written; if not, it is counted."""
        with self._lock:
            now = self._clock()
            bucket = self._callers.pop(caller, None) or _Bucket(CALLER_BURST, _CALLER_SECONDS)
            self._callers[caller] = bucket
            if len(self._callers) > _CALLERS:
                self._callers.popitem(last=False)
            if bucket.take(now) and self._all.take(now):
                return True
        self.suppress(caller)
        return False

    def suppress(self, caller: str, count: int = 1) -> None:
        """Count refusals of this caller that are not written."""
        with self._lock:
            if caller not in self._suppressed and len(self._suppressed) >= NAMED:
                caller = "other"
            self._suppressed[caller] = self._suppressed.get(caller, 0) + count

    @property
    def waiting(self) -> bool:
        """Whether some were counted that no record tells of."""
        return bool(self._suppressed)

    def take(self) -> dict[str, int]:
        """How many were not written since the last call, by caller."""
        with self._lock:
            taken, self._suppressed = self._suppressed, {}
        return taken
