"""A mounted cgroup hierarchy as a tree of directories: opened name by name, never through a link or into another mount."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

from mrelease_agent.linux import procfs
from mrelease_agent.linux.syscalls import open_beneath

#: How deep and how far a hierarchy is walked. A node has some thousand cgroups, some ten deep.
MAX_DEPTH: Final = 128
MAX_CGROUPS: Final = 65536

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
Controller = Literal["memory", "freezer", "cpu", "cpuset", "unified"]
#: Controllers that v2 carries where v1 does not. v1's freezer is asked for because of what v2's does not do.
_ON_V2: Final = frozenset({"unified", "memory", "cpu", "cpuset"})


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted cgroup hierarchy, proc_pid_mountinfo(5); ``root`` is what of it is mounted."""

    version: int
    root: str
    path: str


class WalkLimitError(Exception):
    """There are more than MAX_CGROUPS cgroups, or some deeper than MAX_DEPTH: what was to be found may be among those not seen."""


class Tree:
    """One hierarchy where it is mounted. Stays open as long as the agent runs.

    Its paths are *canonical*: as ``/proc/PID/cgroup`` shows them. Where that shows ``..`` because the agent has a cgroup namespace of its
    own, but the mount shows more (the node's /sys/fs/cgroup by hostPath), they are paths from the top of the mount, which are those
    that the node itself shows.
    """

    __slots__ = ("_above", "_fd", "_line", "_mount_id", "_prefix", "_ups", "mount")

    def __init__(self, mount: Mount, controller: Controller, mount_id: int) -> None:
        """Open the mount with this id. Raises OSError; ENODEV where another mount covers it."""
        self.mount = mount
        # proc_pid_cgroup(5): hierarchy number, controllers, path; no name in it has a line break.
        numbers = r"^0:[^:\n]*:" if mount.version == 2 else rf"^\d+:(?:[^:\n]*,)?{controller}(?:,[^:\n]*)?:"
        self._line = re.compile(numbers.encode() + rb"(.*)$", re.MULTILINE)
        self._fd = os.open(mount.path, _DIRECTORY)
        self._mount_id = mount_id
        if _mount_id(self._fd) != mount_id:
            os.close(self._fd)
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), mount.path)
        self._ups, names = _split(mount.root)
        #: Names of the mount's own root, which no canonical path with ".." can have.
        self._prefix = "".join(f"/{name}" for name in names)
        #: Names from the mount's root to the root of the agent's cgroup namespace, as far as they could be found out.
        self._above = self._namespace_root() if self._ups and not names else ()

    @property
    def version(self) -> int:
        """1 or 2."""
        return self.mount.version

    @property
    def top(self) -> str:
        """The canonical path of what is mounted."""
        return self._prefix or "/"

    def canonical(self, shown: str) -> str | None:
        """Translate a path of ``/proc/PID/cgroup`` to a canonical one; None where it lies outside of what is mounted."""
        path = shown
        if self._ups or "/.." in shown:
            ups, names = _split(shown)
            above = self._ups - ups
            if not 0 <= above <= len(self._above):
                return None
            path = "".join(f"/{name}" for name in (*self._above[:above], *names)) or "/"
        return path if path == self.top or path.startswith(self._prefix + "/") else None

    def path_of(self, proc: int) -> str | None:
        """Canonical path of the cgroup of a process, given a directory fd of procfs.open_process(). Raises ProcessGoneError."""
        return self.path_in(procfs.read(proc, "cgroup"))

    def path_in(self, table: bytes) -> str | None:
        """Canonical path in a ``/proc/PID/cgroup`` that has been read, for who asks several hierarchies about one process."""
        shown = self._shown(table)
        return None if shown is None else self.canonical(shown)

    def open(self, path: str) -> int:
        """Open the cgroup with a canonical path as a directory fd, which the caller owns.

        Raises FileNotFoundError; NotADirectoryError for a file or a link; OSError with EXDEV where something else is mounted on it.
        """
        names = path[len(self._prefix) :].strip("/").split("/")
        if (path != self.top and not path.startswith(self._prefix + "/")) or not {".", ".."}.isdisjoint(names):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        # One call where the kernel has it; name by name, which tells what is wrong, where that fails.
        fd = open_beneath(self._fd, "/".join(names) or ".", _DIRECTORY)
        if fd >= 0:
            return fd
        fd = os.dup(self._fd)
        try:
            for name in names:
                if name:
                    parent, fd = fd, _open_child(fd, name)
                    os.close(parent)
            if _mount_id(fd) != self._mount_id:
                raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), path)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def walk(self, path: str | None = None, enter: Callable[[str], bool] = lambda _: True) -> Iterator[tuple[str, int]]:
        """Find the cgroup ``path`` (the top) and all below: canonical path and directory fd, which is open until the next one is asked for.

        Below a path for which ``enter`` is false nothing is looked for. What the agent may not read is left out. Raises WalkLimitError, and
        what open() raises.
        """
        start = path or self.top
        fd = self.open(start)
        try:
            yield from walk(fd, start, enter)
        finally:
            os.close(fd)

    def _shown(self, table: bytes) -> str | None:
        found = self._line.search(table)
        return None if found is None else found[1].decode("utf-8", "surrogateescape").removesuffix(" (deleted)")

    def _namespace_root(self) -> tuple[str, ...]:
        """Find the agent's own cgroup in the mount by its process, which tells the names that its namespace hides."""
        with open("/proc/self/cgroup", "rb") as table:
            shown = self._shown(table.read())
        if shown is None:
            return ()
        ups, names = _split(shown)
        depth = self._ups - ups + len(names)
        me = os.getpid()
        with contextlib.suppress(WalkLimitError, OSError):
            for path, fd in walk(self._fd, "/", lambda path: path.count("/") < depth or path == "/"):
                found = path.strip("/").split("/") if path != "/" else []
                if len(found) == depth and me in pids(fd):
                    return tuple(found[: len(found) - len(names)])
        return ()


@lru_cache(maxsize=5)
def tree(controller: Controller) -> Tree | None:
    """Find the hierarchy with a controller (v1's, else v2), with the v1 freezer, or v2; None where it is not mounted.

    Of several mounts the one that shows most is taken: a pod's own /sys/fs/cgroup shows the pod alone, the node's shows all.
    """
    with open("/proc/self/mountinfo", "rb") as lines:
        found = mounts(lines.read(), controller)
    for mount, mount_id in found:
        with contextlib.suppress(OSError):  # covered by a later mount, or not ours to read
            return Tree(mount, controller, mount_id)
    return None


def mounts(table: bytes, controller: Controller) -> list[tuple[Mount, int]]:
    """Mounts of a hierarchy with their ids in a ``mountinfo``, proc_pid_mountinfo(5), that which shows most first; see tree()."""
    found: list[tuple[Mount, int]] = []
    unified: list[tuple[Mount, int]] = []
    for line in table.decode("utf-8", "surrogateescape").split("\n"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        if kind not in ("cgroup", "cgroup2"):
            continue
        number, _, _, root, path = before.split(" ")[:5]
        shown = Mount(2 if kind == "cgroup2" else 1, _unescape(root), _unescape(path)), int(number)
        if kind == "cgroup2":
            unified.append(shown)
        elif controller in options.strip().rpartition(" ")[2].split(","):
            found.append(shown)
    if controller in _ON_V2 and not found:
        found = unified
    return sorted(found, key=lambda each: (-_split(each[0].root)[0], len(_split(each[0].root)[1])))


def walk(
    fd: int,
    path: str,
    enter: Callable[[str], bool] = lambda _: True,
    *,
    strict: bool = False,
    budget: list[int] | None = None,
    depth: int = 0,
) -> Iterator[tuple[str, int]]:
    """Find the cgroup that ``fd`` is open on, called ``path``, and all below, parents first; see Tree.walk().

    Cgroups that vanish meanwhile are left out, as is everything that is no cgroup of the same hierarchy. What the agent may not read is
    left out too, or with ``strict`` raises PermissionError. Raises WalkLimitError.
    """
    left = [MAX_CGROUPS] if budget is None else budget
    yield path, fd
    status = os.fstat(fd)
    # kernfs counts a directory's links as file systems on disk do: 2 and one for each child.
    if status.st_nlink <= 2 or not enter(path):
        return
    for name in _children(fd):
        left[0] -= 1
        if left[0] < 0 or depth >= MAX_DEPTH:
            raise WalkLimitError
        try:
            child = _open_child(fd, name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError:
            if strict:
                raise
            continue
        try:
            if os.fstat(child).st_dev == status.st_dev:
                yield from walk(child, f"{path.rstrip('/')}/{name}", enter, strict=strict, budget=left, depth=depth + 1)
        finally:
            os.close(child)


def pids(fd: int) -> set[int]:
    """Read the processes of one cgroup, without those below; 0 stands for those of another PID namespace.

    Empty where the cgroup is gone, or threaded: then its processes are those of the cgroup above, cgroups(7). Raises PermissionError: a
    cgroup that its owner may not let be read is not an empty one.
    """
    return {int(pid) for pid in read(fd, "cgroup.procs").split()}


def read(fd: int, name: str) -> bytes:
    """Read a control file of a cgroup; empty where the cgroup is gone or has no such file. Raises OSError."""
    parts: list[bytes] = []
    try:
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            while part := os.read(file, 65536):
                parts.append(part)
        finally:
            os.close(file)
    except OSError as error:
        # ENODEV: removed since it was opened; EOPNOTSUPP: threaded.
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
            raise
        return b""
    return b"".join(parts)


def write(fd: int, name: str, value: bytes) -> None:
    """Write a control file of a cgroup. Raises OSError."""
    file = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        os.write(file, value)
    finally:
        os.close(file)


def _open_child(fd: int, name: str) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=fd)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name) from None
        if error.errno in (errno.ENODEV, errno.ENAMETOOLONG):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from None
        raise


def _children(fd: int) -> list[str]:
    with os.scandir(fd) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def _split(path: str) -> tuple[int, list[str]]:
    """Leading ".." of a path, and the names after them."""
    names = [name for name in path.split("/") if name]
    ups = next((i for i, name in enumerate(names) if name != ".."), len(names))
    return ups, names[ups:]


def _unescape(field: str) -> str:
    """Octal escapes of proc_pid_mountinfo(5): blank, tab, newline, backslash."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _mount_id(fd: int) -> int:
    """``mnt_id`` of proc_pid_fdinfo(5): tells bind mounts of the same hierarchy apart, which device numbers do not."""
    with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
        return next(int(line[7:]) for line in info if line.startswith(b"mnt_id:"))
