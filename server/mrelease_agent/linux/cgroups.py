"""The memory cgroup of a process: where its memory is charged, and stays charged until it is really free."""

from __future__ import annotations

import contextlib
import errno
import os
from functools import lru_cache
from typing import Final

from mrelease_agent.linux import cgroup_tree
from mrelease_agent.linux.cgroup_tree import Tree
from mrelease_agent.linux.procfs import ProcessGoneError

_USAGE: Final = {1: "memory.usage_in_bytes", 2: "memory.current"}


@lru_cache(maxsize=1)
def memory_tree() -> Tree | None:
    """Find the hierarchy that counts memory: v1's memory hierarchy where it is mounted, else v2 with that controller."""
    tree = cgroup_tree.tree("memory")
    if tree is None or tree.version == 1:
        return tree
    with contextlib.suppress(OSError):
        top = tree.open(tree.top)
        try:
            return tree if b"memory" in cgroup_tree.read(top, "cgroup.controllers").split() else None
        finally:
            os.close(top)
    return None


class MemoryCgroup:
    """The memory cgroup in which a process is now. Holds it and its usage file open, so that a later move of the process changes nothing.

    ``path`` is canonical, see Tree. ``alone`` says that the process is its only member: then a fall of the charge can be nobody else's
    doing.
    """

    __slots__ = ("_fd", "_usage", "alone", "before", "last", "path")

    def __init__(self, path: str, fd: int, usage: int, *, alone: bool) -> None:
        self.path = path
        self._fd = fd
        self._usage = usage
        self.alone = alone
        #: Usage in bytes when this was made.
        self.before = self.last = 0
        self.before = self.usage()

    @classmethod
    def of(cls, pid: int, proc: int, ppid: int = 0) -> MemoryCgroup | None:
        """Open the memory cgroup of a process; None where it has none that can be read here. The root cgroup does not count its own.

        ``ppid``: its parent where that is known, which mostly is a member too: then the others need not be listed, which can take long.

        A cgroup of v2 whose parent passes the memory controller not on (podman's, a nested manager's) is charged with the next one above
        that has it.
        """
        tree = memory_tree()
        if tree is None:
            return None
        try:
            path = tree.path_of(proc)
            if path is None or path == "/":
                return None
            charged, fd, usage = _open_charged(tree, path)
        except (ProcessGoneError, OSError):
            return None
        return cls(charged, fd, usage, alone=not _in_cgroup(tree, ppid, path) and _alone(fd, pid))

    def usage(self) -> int:
        """Charge in bytes now; the last one known where it can no longer be read (ENODEV: the cgroup was removed)."""
        with contextlib.suppress(OSError, ValueError):
            self.last = int(os.pread(self._usage, 32, 0))
        return self.last

    def anon(self) -> int:
        """Anonymous memory charged here now, in bytes; 0 where that can no longer be read. Slower than usage()."""
        with contextlib.suppress(OSError, ValueError):
            lines = cgroup_tree.read(self._fd, "memory.stat").splitlines()
            return next((int(line.split()[1]) for line in lines if line.startswith((b"anon ", b"rss "))), 0)
        return 0

    def close(self) -> None:
        """Close what is open; harmless when repeated."""
        fds, self._fd, self._usage = (self._fd, self._usage), -1, -1
        for fd in fds:
            if fd >= 0:
                os.close(fd)


def _open_charged(tree: Tree, path: str) -> tuple[str, int, int]:
    """Open the cgroup that is charged for the processes of ``path``, and its usage file; returns its path first. Raises OSError."""
    fd = tree.open(path)
    try:
        return path, fd, os.open(_USAGE[tree.version], os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd)
    except OSError as error:
        os.close(fd)
        above = path.rpartition("/")[0]
        if error.errno != errno.ENOENT or not above:
            raise
    return _open_charged(tree, above)


def _in_cgroup(tree: Tree, pid: int, path: str) -> bool:
    try:
        table = os.open(f"/proc/{pid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return tree.path_in(os.read(table, 65536)) == path
        finally:
            os.close(table)
    except OSError:
        return False


def _alone(fd: int, pid: int) -> bool:
    # Without children first: listing the members costs the kernel time for each of them.
    try:
        if os.fstat(fd).st_nlink != 2:
            return False
        members = os.open("cgroup.procs", os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd)
        try:
            return os.read(members, 64).split() == [b"%d" % pid]
        finally:
            os.close(members)
    except OSError:
        return False
