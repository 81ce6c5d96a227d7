"""The memory cgroup of a process: where its memory is charged, and stays charged until it is really free."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from mrelease_agent.linux import procfs


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted cgroup hierarchy that can carry the memory controller; ``root`` is what of it is mounted."""

    version: int
    root: str
    path: str


@lru_cache(maxsize=1)
def memory_mount() -> Mount | None:
    """Find the hierarchy with the memory controller: v1's where it is mounted, else v2, proc_pid_mountinfo(5)."""
    unified = None
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            kind, _, options = after.split(" ", 2)
            root, path = before.split(" ")[3:5]
            if kind == "cgroup" and "memory" in options.strip().split(","):
                return Mount(1, root, path)
            if kind == "cgroup2":
                unified = unified or Mount(2, root, path)
    if unified is not None:
        with contextlib.suppress(OSError), open(f"{unified.path}/cgroup.controllers", encoding="ascii") as controllers:
            if "memory" in controllers.read().split():
                return unified
    return None


def memory_path(proc: int) -> str | None:
    """Path of the process's memory cgroup below the mount, proc_pid_cgroup(5); None where there is none.

    Raises ProcessGoneError.
    """
    mount = memory_mount()
    if mount is None:
        return None
    for line in procfs.read(proc, "cgroup").decode("utf-8", "surrogateescape").splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if (hierarchy == "0") if mount.version == 2 else ("memory" in controllers.split(",")):
            return path
    return None


class MemoryCgroup:
    """The memory cgroup in which a process is now. Holds its usage file open, so that a later move of the process changes nothing.

    ``alone`` says that the process is its only member: then a fall of the charge can be nobody else's doing.
    """

    __slots__ = ("_fd", "_stat", "alone", "before", "last", "path")

    def __init__(self, path: str, fd: int, stat: str, *, alone: bool) -> None:
        self.path = path
        self._fd = fd
        self._stat = stat
        self.alone = alone
        #: Usage in bytes when this was made.
        self.before = self.last = 0
        self.before = self.usage()

    @classmethod
    def of(cls, pid: int, proc: int) -> MemoryCgroup | None:
        """Open the memory cgroup of a process; None where it has none that can be read here. The root cgroup does not count its own."""
        mount = memory_mount()
        try:
            path = memory_path(proc)
        except procfs.ProcessGoneError:
            return None
        if mount is None or path is None or path == "/" or ".." in PurePosixPath(path).parts or not path.startswith(mount.root):
            return None
        folder = mount.path + (path if mount.root == "/" else path[len(mount.root) :])
        try:
            fd = os.open(f"{folder}/{'memory.current' if mount.version == 2 else 'memory.usage_in_bytes'}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            # Without children first: listing the members costs the kernel time for each of them.
            alone = Path(folder).stat().st_nlink == 2
            if alone:
                with open(f"{folder}/cgroup.procs", "rb", buffering=0) as members:
                    alone = members.read(64).split() == [b"%d" % pid]
        except OSError:
            alone = False
        return cls(path, fd, f"{folder}/memory.stat", alone=alone)

    def usage(self) -> int:
        """Charge in bytes now; the last one known where it can no longer be read (ENODEV: the cgroup was removed)."""
        with contextlib.suppress(OSError, ValueError):
            self.last = int(os.pread(self._fd, 32, 0))
        return self.last

    def anon(self) -> int:
        """Anonymous memory charged here now, in bytes; 0 where that can no longer be read. Slower than usage()."""
        with contextlib.suppress(OSError, ValueError), open(self._stat, "rb") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith((b"anon ", b"rss "))), 0)
        return 0

    def close(self) -> None:
        """Close the usage file; harmless when repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
