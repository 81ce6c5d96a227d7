"""How much memory dying processes still hold, told by the kernel and not by who killed them.

RSS 0 is no proof: from the moment that a process gives up its address space until that is really freed, its own figures read 0 while every
page is still allocated. A starved process stays there for many seconds. So there are two ways, the first wherever a memory cgroup can be
made, and the output says which was used.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from mrelease.demo.budget import meminfo


class Gauge(Protocol):
    """Measures the memory that some processes hold."""

    #: How, in a few words.
    method: str

    def read(self) -> list[int]:
        """Bytes held now, one figure a process."""
        ...

    def close(self) -> None:
        """Give up what the gauge keeps open."""
        ...


class ChargeGauge:
    """The charge of a memory cgroup for each process: it falls when pages are really given back."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.method = f"charge of a memory cgroup for each victim ({files[0].name})"
        self._fds = [os.open(file, os.O_RDONLY | os.O_CLOEXEC) for file in files]

    def read(self) -> list[int]:
        """Read every charge."""
        return [int(os.pread(fd, 32, 0)) for fd in self._fds]

    def close(self) -> None:
        """Close the files."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()


class NodeGauge:
    """RssAnon while a thread has the address space, proc_pid_status(5); from then on the node's AnonPages, less what is not the victims'.

    What AnonPages shows beyond the baseline and beyond the victims that can still be read is shared out among those that cannot, by what
    each was last seen to hold, and is never more than that: an address space that was given up does not grow. Whatever else on the node
    takes or gives back anonymous memory meanwhile is an error of this method.
    """

    def __init__(
        self,
        pids: Sequence[int],
        has_exited: Callable[[int], bool],
        *,
        proc: Path = Path("/proc"),
        anon_pages: Callable[[], int] | None = None,
    ) -> None:
        self.method = "RssAnon while it can be read, then AnonPages of the node less its baseline"
        self._pids = list(pids)
        self._has_exited = has_exited
        self._proc = proc
        self._anon_pages = anon_pages or (lambda: meminfo("AnonPages"))
        self._last = [rss_anon(proc, pid) or 0 for pid in pids]
        self._baseline = self._anon_pages() - sum(self._last)

    def read(self) -> list[int]:
        """Read what can be read and share out the rest."""
        seen = [0 if self._has_exited(pid) else rss_anon(self._proc, pid) for pid in self._pids]
        hidden = sum(last for last, held in zip(self._last, seen, strict=True) if held is None)
        rest = max(0, self._anon_pages() - self._baseline - sum(held or 0 for held in seen)) if hidden else 0
        self._last = [
            min(last, rest * last // hidden if hidden else 0) if held is None else held for last, held in zip(self._last, seen, strict=True)
        ]
        return list(self._last)

    def close(self) -> None:
        """Keep nothing open, so nothing to do."""


def rss_anon(proc: Path, pid: int) -> int | None:
    """RssAnon in bytes of the first thread that still has an address space; None where none has: they may hold everything still."""
    with contextlib.suppress(OSError):
        for task in (proc / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError), open(task / "status", "rb") as lines:
                for line in lines:
                    if line.startswith(b"RssAnon:"):
                        return int(line.split()[1]) * 1024
    return None
