"""How much was counted in the last so many seconds: a sliding window, so that never more than a limit is in any of them."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

#: What is counted within this share of a window is kept as one: it leaves together, when the last of it does. So a window is a few
#: entries whatever is counted, and lets a little less through rather than more.
_GRAINS: Final = 128
#: Of a full table, so many of those that were used least recently are looked at for room.
_LOOKED_AT: Final = 8


class Window:
    """What was counted less than ``length`` nanoseconds ago. Times are of one clock that never goes back."""

    __slots__ = ("_entries", "_length", "_total")

    def __init__(self, length: int) -> None:
        self._length = length
        #: Grain, time of the last that is in it, amount.
        self._entries: deque[tuple[int, int, int]] = deque()
        self._total = 0

    def __len__(self) -> int:
        """How many entries it keeps: a bound of its memory."""
        return len(self._entries)

    def used(self, now: int) -> int:
        """How much counts now."""
        while self._entries and self._entries[0][1] + self._length <= now:
            self._total -= self._entries.popleft()[2]
        return self._total

    def wait(self, amount: int, limit: int, now: int) -> int | None:
        """Nanoseconds until so much more is within the limit, 0 where it is now; None where it never will be, because it alone is more."""
        if amount > limit:
            return None
        excess = self.used(now) + amount - limit
        for _, time, counted in self._entries:
            if excess <= 0:
                break
            excess -= counted
            if excess <= 0:
                return time + self._length - now
        return 0

    def add(self, amount: int, now: int) -> None:
        """Count so much."""
        self.used(now)  # what has left makes room
        grain = now * _GRAINS // self._length
        if self._entries and self._entries[-1][0] == grain:
            amount_before = self._entries.pop()[2]
            self._entries.append((grain, now, amount_before + amount))
        else:
            self._entries.append((grain, now, amount))
        self._total += amount

    def is_idle(self, now: int) -> bool:
        """Whether it says nothing any more."""
        return self.used(now) == 0


AWindow = TypeVar("AWindow", bound=Window)


class Table(Generic[AWindow]):
    """A window for each key that counts something, ``most`` of them at once.

    Where all of these still count, keys beyond share one window, and so one limit: who makes up names gets no more for it.
    """

    def __init__(self, most: int, make: Callable[[], AWindow]) -> None:
        self._most = most
        self._make = make
        self._windows: OrderedDict[object, AWindow] = OrderedDict()
        self._rest = make()

    def __len__(self) -> int:
        return len(self._windows)

    def get(self, key: object, now: int) -> AWindow:
        """The window of a key. A new one is kept by put() alone."""
        window = self._windows.get(key)
        if window is not None:
            return window
        if len(self._windows) >= self._most:
            for oldest in list(self._windows)[:_LOOKED_AT]:
                if self._windows[oldest].is_idle(now):
                    del self._windows[oldest]
        return self._make() if len(self._windows) < self._most else self._rest

    def put(self, key: object, window: AWindow) -> None:
        """Keep the window that get() has returned for a key, now that it counts something."""
        if window is not self._rest:
            self._windows[key] = window
            self._windows.move_to_end(key)

    def windows(self) -> Iterable[AWindow]:
        """All of them."""
        return (*self._windows.values(), self._rest)
