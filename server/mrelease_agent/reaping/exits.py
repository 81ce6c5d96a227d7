"""Exits of processes: a pidfd becomes readable, pidfd_open(2). All of an event loop are watched by one epoll instance.

The loop's own readers would do, but cost three times as much for each process: a container may have a thousand, which exit at once.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

#: Most exits that are taken in before the event loop goes on with others.
_MOST: Final = 256


class Exits:
    """Tells who has exited. Belongs to one event loop; of() gives it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raises OSError where no descriptor is free."""
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._ready)

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Exits:
        """The one of this event loop, made at the first call. Raises OSError where no descriptor is free for it."""
        found = _by_loop.get(loop)
        if found is None:
            found = _by_loop[loop] = cls(loop)
        return found

    def watch(self, pidfd: int, told: Callable[[], None]) -> None:
        """Call ``told`` once when the process has exited. Raises OSError: ENOMEM, ENOSPC (epoll_ctl(2))."""
        self._epoll.register(pidfd, select.EPOLLIN | select.EPOLLONESHOT)
        self._watched[pidfd] = told

    def forget(self, pidfd: int) -> None:
        """Watch this one no more; to be called before it is closed: a duplicate would keep it on the kernel's list."""
        if self._watched.pop(pidfd, None) is not None:
            self._epoll.unregister(pidfd)

    def _ready(self) -> None:
        for pidfd, _ in self._epoll.poll(0, _MOST):
            told = self._watched.pop(pidfd, None)
            if told is not None:
                self._epoll.unregister(pidfd)
                told()


class Exit:
    """Whether and when one process has exited."""

    __slots__ = ("_exits", "_fd", "_told", "_waiter", "at")

    def __init__(self, pidfd: int, told: Callable[[], None] = lambda: None) -> None:
        self._fd = pidfd
        self._told = told
        self._exits: Exits | None = None
        self._waiter: asyncio.Future[None] | None = None
        #: When that was noticed, time.monotonic(); 0 while it has not exited.
        self.at = 0.0

    def watch(self, exits: Exits) -> None:
        """Begin to watch. Raises what Exits.watch() raises."""
        exits.watch(self._fd, self._happened)
        self._exits = exits

    def close(self) -> None:
        """Watch no more; to be called before the pidfd is closed, and harmless when repeated."""
        exits, self._exits = self._exits, None
        if exits is not None:
            exits.forget(self._fd)

    async def wait(self, seconds: float) -> bool:
        """Wait for the exit for up to ``seconds``; whether it has exited. One waits at a time."""
        if self.at or seconds <= 0:
            return bool(self.at)
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        timer = loop.call_later(seconds, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None
        return bool(self.at)

    def _happened(self) -> None:
        self.at = time.monotonic()
        self._exits = None
        if self._waiter is not None:
            _wake(self._waiter)
        self._told()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Exits] = WeakKeyDictionary()
