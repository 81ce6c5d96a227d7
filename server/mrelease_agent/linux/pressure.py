"""Pressure stall information of memory: how much time tasks lost waiting for it, Documentation/accounting/psi.rst."""

from __future__ import annotations

import asyncio
import errno
import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

NODE_FILE: Final = "/proc/pressure/memory"
#: The same of a cgroup, v2 alone.
CGROUP_FILE: Final = "memory.pressure"

Kind = Literal["some", "full"]
#: kernel/sched/psi.c: without CAP_SYS_RESOURCE windows are multiples of the 2 s in which averages are made anyway.
_UNPRIVILEGED_WINDOW: Final = 2_000_000


@dataclass(frozen=True, slots=True)
class Stall:
    """One line: percent of the last 10, 60 and 300 s; ``total`` in seconds since boot, or since the cgroup was made."""

    avg10: float
    avg60: float
    avg300: float
    total: float


@dataclass(frozen=True, slots=True)
class Pressure:
    """``some``: at least one task stalled; ``full``: all that were not idle stalled at once."""

    some: Stall
    full: Stall


def parse(raw: bytes) -> Pressure:
    """Read the text of a pressure file. Raises ValueError, KeyError where it is none."""
    lines: dict[bytes, Stall] = {}
    for line in raw.splitlines():
        kind, *fields = line.split()
        values = dict(field.split(b"=", 1) for field in fields)
        lines[kind] = Stall(float(values[b"avg10"]), float(values[b"avg60"]), float(values[b"avg300"]), int(values[b"total"]) / 1e6)
    return Pressure(some=lines[b"some"], full=lines[b"full"])


def node() -> Pressure:
    """Memory pressure of the node. Raises OSError: ENOENT without PSI or with psi=0."""
    with open(NODE_FILE, "rb", buffering=0) as file:
        return parse(file.read())


class Trigger:
    """The kernel's own watch over a threshold: calls ``fired`` on the running loop, at most once in a window, until close().

    ``fd`` is a pressure file open for reading and writing, which this closes; ``stall`` and ``window`` are in seconds. Raises OSError:
    EINVAL where the kernel does not take the window, EOPNOTSUPP where PSI is off for this cgroup.
    """

    def __init__(self, fd: int, kind: Kind, stall: float, window: float, fired: Callable[[], None]) -> None:
        self._fd = fd
        self._epoll: select.epoll | None = None
        self._fired = fired
        self._loop = asyncio.get_running_loop()
        try:
            #: What the kernel watches, in seconds: the window that was asked for, or the next longer one that this agent may use.
            self.window = _set(fd, kind, stall, window)
            # asyncio watches EPOLLIN and EPOLLOUT, a trigger is EPOLLPRI: hence an epoll of its own, which is readable when it fires.
            self._epoll = select.epoll()
            self._epoll.register(fd, select.EPOLLPRI)
            self._loop.add_reader(self._epoll.fileno(), self._readable)
        except BaseException:
            self.close()
            raise

    def _readable(self) -> None:
        # psi_trigger_poll() takes the event back when it is asked, and the loop's own epoll has asked: that this runs is the event.
        # poll() takes the file off the list of those that are ready, and shows the one thing that is not an event.
        assert self._epoll is not None
        if any(events & select.EPOLLERR for _, events in self._epoll.poll(0)):
            # The cgroup was removed, and this would be readable for ever.
            self._loop.remove_reader(self._epoll.fileno())
        self._fired()

    def close(self) -> None:
        """Watch no more; harmless when repeated."""
        if self._epoll is not None and not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def open_node() -> int:
    """Open the node's pressure file for a Trigger. Raises OSError: EPERM without CAP_SYS_RESOURCE before Linux 6.4."""
    return os.open(NODE_FILE, TRIGGER_FLAGS)


#: How a pressure file is opened for a Trigger.
TRIGGER_FLAGS: Final = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC


def _set(fd: int, kind: Kind, stall: float, window: float) -> float:
    wanted = int(window * 1e6)
    threshold = min(max(int(stall * 1e6), 1), wanted)
    try:
        _write(fd, kind, threshold, wanted)
    except OSError as error:
        rounded = -(-wanted // _UNPRIVILEGED_WINDOW) * _UNPRIVILEGED_WINDOW
        if error.errno != errno.EINVAL or rounded == wanted:
            raise
        _write(fd, kind, threshold, rounded)
        wanted = rounded
    return wanted / 1e6


def _write(fd: int, kind: Kind, threshold: int, window: int) -> None:
    # The kernel replaces the last byte by the end of the string, whatever it is.
    os.write(fd, b"%s %d %d\0" % (kind.encode(), threshold, window))
