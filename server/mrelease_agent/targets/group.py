"""Group: a cgroup with all below it, that cannot be mistaken for another one."""

from __future__ import annotations

import contextlib
import errno
import os
from types import TracebackType
from typing import Final

from mrelease_agent.linux import cgroup_tree, procfs
from mrelease_agent.linux.cgroup_tree import Tree
from mrelease_agent.linux.procfs import ProcessGoneError
from mrelease_agent.targets.cgroup_path import Membership, describe
from mrelease_agent.targets.group_errors import AmbiguousGroupError

_MOST_READINGS: Final = 8


class Group:
    """One cgroup of the hierarchy that carries memory, with all below it: path and directory fd, closed by close() or ``with``.

    The fd means this very cgroup: when it is removed, and another one is made with its name, the group is empty and stays so.
    """

    __slots__ = ("_fd", "membership", "path", "tree")

    def __init__(self, tree: Tree, path: str) -> None:
        """Open a canonical path, see Tree. Raises what Tree.open() raises."""
        self._fd = tree.open(path)
        self.tree = tree
        #: Canonical path, for people and for comparison.
        self.path = path
        #: What the path says of it.
        self.membership: Membership = describe(path)

    def members(self) -> list[int]:
        """List the pids of all processes in the group, in ascending order; it may hold others a moment later.

        A cgroup is read after the other while processes move and fork, so all are read until two readings are equal, at most 8 times: a
        group that forks all the time has no complete list. Processes of a PID namespace that the agent does not see are left out. A pid
        may be another process's by the time it is used: open a ProcessRef, then ask holds().

        Raises WalkLimitError; PermissionError.
        """
        return sorted(self.places())

    def places(self) -> dict[int, str]:
        """List like members(), with the canonical path of the cgroup that each process is in: the group's, or that of one below it."""
        before = self._read()
        for _ in range(_MOST_READINGS - 1):
            last, before = before, self._read()
            if last.keys() == before.keys():
                break
        before.pop(0, None)
        return before

    def holds(self, proc: int) -> bool:
        """Whether a process that was listed is in the group now, given a directory fd of procfs.open_process(); false when it is gone.

        On v1 a thread that exits says that it is in no cgroup (kernel/cgroup/cgroup.c, proc_cgroup_show). So a process whose first thread
        has exited is where its other threads are, and one that exits altogether is where it was listed: it can do nothing any more.
        """
        try:
            path = self.tree.path_of(proc)
            if path is not None and within(path, self.path):
                return True
            if self.tree.version == 2 or not procfs.stat(proc).exiting:
                return False
            living = procfs.living_threads(proc)
            places = [self.tree.path_in(procfs.read(proc, f"task/{tid}/cgroup")) for tid in living]
        except ProcessGoneError:
            return False
        return not places or any(place is not None and within(place, self.path) for place in places)

    def is_empty(self) -> bool:
        """Whether no process is in the group: none that lives, and none that dies; zombies do not count. Raises like members()."""
        populated = self._event(b"populated")
        # A group that is gone has no events file either, and no process.
        return populated == b"0" or (populated is None and not self._read())

    def threaded(self) -> bool:
        """Whether its processes belong to a cgroup above it (v2 threaded, cgroups(7)): then it can neither be listed nor killed."""
        return cgroup_tree.read(self._fd, "cgroup.type").strip() == b"threaded"

    def kill(self) -> bool:
        """Send SIGKILL to every process in the group by ``cgroup.kill`` (Linux 5.14, v2), which no fork outruns; false where it cannot.

        Where the group's hierarchy is v1, the v2 cgroup with the same path is taken if that is mounted too and holds the same processes.
        """
        if self.tree.version == 2:
            return _kill(self._fd)
        unified = cgroup_tree.tree("unified")
        if unified is None:
            return False
        try:
            fd = unified.open(self.path)
        except OSError:
            return False
        try:
            mine = self._read().keys()
            return bool(mine) and mine == _read(fd, self.path).keys() and _kill(fd)
        except (OSError, cgroup_tree.WalkLimitError):
            return False
        finally:
            os.close(fd)

    def frozen(self) -> bool | None:
        """Whether it is frozen: ``cgroup.events`` (v2), or the v1 freezer's cgroup with the same path; None where that is not known."""
        if self.tree.version == 2:
            frozen = self._event(b"frozen")
            return None if frozen is None else frozen == b"1"
        freezer = cgroup_tree.tree("freezer")
        if freezer is None:
            return None
        with contextlib.suppress(OSError):
            fd = freezer.open(self.path)
            try:
                state = cgroup_tree.read(fd, "freezer.state").strip()
            finally:
                os.close(fd)
            return state in (b"FROZEN", b"FREEZING") if state else None
        return None

    def memory_usage(self) -> int | None:
        """Charge of the group in bytes, memory.current (v2) or memory.usage_in_bytes (v1); None where it is not to be had."""
        with contextlib.suppress(OSError, ValueError):
            return int(cgroup_tree.read(self._fd, "memory.current" if self.tree.version == 2 else "memory.usage_in_bytes"))
        return None

    def shmem(self) -> int:
        """Shared memory and tmpfs files charged to the group, in bytes; 0 where that is not to be had. No death gives it back."""
        return self._stat(b"shmem" if self.tree.version == 2 else b"total_shmem")

    def anon(self) -> int:
        """Anonymous memory charged to the group, in bytes; 0 where that is not to be had. What stays when all have gone is pinned."""
        return self._stat(b"anon" if self.tree.version == 2 else b"total_rss")

    def _stat(self, name: bytes) -> int:
        with contextlib.suppress(OSError, ValueError):
            lines = (line.split() for line in cgroup_tree.read(self._fd, "memory.stat").splitlines())
            return next((int(fields[1]) for fields in lines if fields[0] == name), 0)
        return 0

    def read(self, name: str) -> bytes:
        """Read a control file; empty where the group is gone or has no such file. Raises OSError."""
        return cgroup_tree.read(self._fd, name)

    def open(self, name: str, flags: int) -> int:
        """Open a control file. Raises OSError; FileNotFoundError where the group is gone or has no such file."""
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)

    def gone(self) -> bool:
        """Whether the cgroup was removed."""
        try:
            os.stat("cgroup.procs", dir_fd=self._fd)
        except OSError as error:
            return error.errno in (errno.ENOENT, errno.ENODEV)
        return False

    def is_leaf(self) -> bool:
        """Whether no cgroup is below it: kernfs counts links as file systems on disk do, 2 and one for each child."""
        return os.fstat(self._fd).st_nlink <= 2

    def owner(self) -> int:
        """User id that owns the cgroup: 0 but for one delegated to a user, cgroups(7)."""
        return os.fstat(self._fd).st_uid

    def below(self) -> list[str]:
        """Canonical paths of the cgroups in the group, its own first. Raises WalkLimitError; PermissionError."""
        return [path for path, _ in cgroup_tree.walk(self._fd, self.path, strict=True)]

    def close(self) -> None:
        """Close the fd; harmless when repeated."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Group:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Group({self.path!r})"

    def _read(self) -> dict[int, str]:
        return _read(self._fd, self.path)

    def _event(self, name: bytes) -> bytes | None:
        lines = (line.partition(b" ") for line in cgroup_tree.read(self._fd, "cgroup.events").splitlines())
        return next((value for key, _, value in lines if key == name), None)


def within(path: str, group: str) -> bool:
    """Whether a canonical path is that of a group or below it."""
    return path == group or path.startswith(group.rstrip("/") + "/")


def numbers_in_container(group: Group, pid: int) -> tuple[int, ...]:
    """Find the process that the container numbers ``pid``; returns its pid_numbers(), which its ProcessRef has to verify.

    The container's PID namespace is that of its oldest process; in a container with the node's PID namespace both numbers are the same.

    Raises ProcessGoneError where no process of the container has the number; AmbiguousGroupError where processes of two PID namespaces of
    the same depth have it: the container joined another's; what members() raises.
    """
    numbers: dict[int, tuple[int, ...]] = {}
    oldest: tuple[int, int] | None = None
    for member in group.members():
        with contextlib.suppress(ProcessGoneError, PermissionError):
            proc = procfs.open_process(member)
            try:
                start = procfs.stat(proc).start_time
                numbers[member] = pid_numbers(proc)
            finally:
                os.close(proc)
            oldest = min(oldest or (start, member), (start, member))
    depth = len(numbers[oldest[1]]) if oldest else 0
    found = [member for member, known in numbers.items() if len(known) >= depth > 0 and known[depth - 1] == pid]
    if not found:
        raise ProcessGoneError
    if len(found) > 1:
        raise AmbiguousGroupError("process.pid", str(pid), tuple(str(member) for member in found), "name the process by the node's pid")
    return numbers[found[0]]


def pid_numbers(proc: int) -> tuple[int, ...]:
    """Pids of a process in the PID namespaces that it is in, the agent's own first: ``NSpid`` of proc_pid_status(5).

    Raises ProcessGoneError.
    """
    for line in procfs.read(proc, "status").split(b"\n"):
        if line.startswith(b"NSpid:"):
            return tuple(int(number) for number in line[6:].split())
    return (procfs.stat(proc).pid,)  # CONFIG_PID_NS=n


def _read(fd: int, path: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for place, child in cgroup_tree.walk(fd, path, strict=True):
        found.update(dict.fromkeys(cgroup_tree.pids(child), place))
    return found


def _kill(fd: int) -> bool:
    try:
        cgroup_tree.write(fd, "cgroup.kill", b"1")
    except OSError:  # ENOENT: before 5.14; EOPNOTSUPP: threaded; EACCES, EPERM, EROFS: not ours to write
        return False
    return True
