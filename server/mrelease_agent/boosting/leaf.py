"""A cgroup of the agent's own into which processes of one origin are moved: ``<top>/mrelease.boost/<token>.<inodes of the origin>``.

The name says where its processes belong, so that whoever finds it, also the next agent after a crash, can put them back: no journal can
be lost, and children that were forked meanwhile are in it too. The inode number of a cgroup is unique until the next boot. The owner
holds flock(2) on the leaf as long as it lives, and that ends with it: what is locked is in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Generator
from typing import Final

from mrelease_agent.linux import procfs
from mrelease_agent.linux.cgroup_tree import Tree, WalkLimitError, pids, read, write

#: The folder of all leaves at the top of a hierarchy.
FOLDER: Final = "mrelease.boost"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NAME_MAX: Final = 255  # NAME_MAX of linux/limits.h
#: Another agent may remove the folder between two steps, as long as it is empty.
_TRIES: Final = 4
#: How often those that fork while they are put back are looked for again.
_ROUNDS: Final = 16


class Leaf:
    """One leaf, locked by this agent. ``path`` is canonical; ``origins``: inodes of the origin and of the cgroups above it."""

    __slots__ = ("_fd", "_folder", "_name", "_origin_path", "_procs", "origins", "path", "tree")

    def __init__(self, tree: Tree, folder: int, fd: int, name: str, origin_path: str | None) -> None:
        self.tree = tree
        self.path = f"{folder_path(tree)}/{name}"
        self._folder = folder
        self._fd = fd
        self._procs = -1
        self._name = name
        self._origin_path = origin_path
        self.origins = [int(inode, 16) for inode in name.split(".")[1:]]

    @classmethod
    def make(cls, tree: Tree, origin: str) -> Leaf:
        """Make a leaf for processes of the cgroup ``origin``. Raises OSError; FileNotFoundError where the origin is gone."""
        for tries_left in reversed(range(_TRIES)):
            name = _name(tree, origin)
            folder = open_folder(tree, make=True)
            fd = -1
            try:
                os.mkdir(name, 0o755, dir_fd=folder)
                fd = os.open(name, _DIRECTORY, dir_fd=folder)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _configure(tree, fd)
                if tree.version == 2:
                    _freeze(fd)
                os.stat(name, dir_fd=folder)  # before it was locked, another agent that starts may have removed it
                return cls(tree, folder, fd, name, origin)
            except (FileNotFoundError, BlockingIOError):
                _close(fd, folder)
                if not tries_left:
                    raise
            except BaseException:
                with contextlib.suppress(OSError):
                    os.rmdir(name, dir_fd=folder)
                _close(fd, folder)
                raise
        raise AssertionError

    @classmethod
    def adopt(cls, tree: Tree, name: str) -> Leaf | None:
        """Take a leaf over that no living agent owns; None where one does, or it is gone. Raises OSError."""
        folder = fd = -1
        try:
            folder = open_folder(tree, make=False)
            fd = os.open(name, _DIRECTORY, dir_fd=folder)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(tree, folder, fd, name, None)
        except (FileNotFoundError, NotADirectoryError, BlockingIOError, ValueError):
            _close(fd, folder)
            return None
        except BaseException:
            _close(fd, folder)
            raise

    def add(self, pid: int) -> None:
        """Write a process into the leaf. For one that is exiting the kernel answers 0 and moves nothing. Raises OSError."""
        if self._procs < 0:
            self._procs = os.open("cgroup.procs", os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
        os.write(self._procs, b"%d" % pid)

    def pids(self) -> list[int]:
        """Processes in the leaf, but for those of PID namespaces that cannot be seen."""
        try:
            return sorted(pid for pid in pids(self._fd) if pid > 0)
        except OSError:
            return []

    def put_back(self) -> int:
        """Move who lives and is not dying to the origin, or where that is gone to what is left above it; how many that were."""
        returned: set[int] = set()
        for _ in range(_ROUNDS):
            living = [pid for pid in self.pids() if _living(pid)]
            if not living:
                break
            with self._homes() as homes:
                moved = {pid for pid in living if _move(homes, pid)}
            if not moved:
                break
            returned |= moved
        return len(returned)

    def remove(self) -> bool:
        """Remove the leaf and let go of it; False while somebody is in it, which includes those that are dying."""
        if self._fd < 0:
            return True
        try:
            os.rmdir(self._name, dir_fd=self._folder)
        except FileNotFoundError:
            pass
        except OSError:
            return False
        self.abandon()
        return True

    def abandon(self) -> None:
        """Let go of the leaf without removing it: then the next agent may adopt it."""
        fds = self._procs, self._fd, self._folder
        self._procs = self._fd = self._folder = -1
        _close(*fds)

    @contextlib.contextmanager
    def _homes(self) -> Generator[list[int], None, None]:
        """Directory fds of the origin and of what is above it, nearest first, as far as they are there; the top is always the last."""
        homes: list[int] = []
        try:
            for path in self._home_paths():
                with contextlib.suppress(OSError):
                    homes.append(self.tree.open(path))
            yield homes
        finally:
            _close(*homes)

    def _home_paths(self) -> list[str]:
        paths = {} if self._origin_path is None else _inodes(self.tree, self._origin_path)
        if any(inode not in paths for inode in self.origins):  # found after a crash, or somebody removed or renamed one
            paths = _search(self.tree, set(self.origins))
        return [paths[inode] for inode in self.origins if inode in paths] + [self.tree.top]


def folder_path(tree: Tree) -> str:
    """Canonical path of the folder of all leaves."""
    return f"{tree.top.rstrip('/')}/{FOLDER}"


def open_folder(tree: Tree, *, make: bool) -> int:
    """Open the folder of all leaves as a directory fd, which the caller owns, after making it where asked. Raises OSError."""
    top = tree.open(tree.top)
    try:
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(FOLDER, 0o755, dir_fd=top)
        folder = os.open(FOLDER, _DIRECTORY, dir_fd=top)
    finally:
        os.close(top)
    try:
        if make:
            _configure(tree, folder)
    except BaseException:
        os.close(folder)
        raise
    return folder


def remove_folder(tree: Tree) -> bool:
    """Remove the folder where no leaf is in it."""
    try:
        top = tree.open(tree.top)
    except OSError:
        return False
    try:
        os.rmdir(FOLDER, dir_fd=top)
    except OSError:
        return False
    finally:
        os.close(top)
    return True


def _configure(tree: Tree, fd: int) -> None:
    """Give a cgroup of ours the highest weight and every CPU, with what files it has: v1 needs that in each, v2 in the folder."""
    for name, value in (("cpu.shares", b"262144"), ("cpu.weight", b"10000")):
        with contextlib.suppress(FileNotFoundError):
            write(fd, name, value)
    if tree.version == 1:
        top = tree.open(tree.top)
        try:
            for name in ("cpuset.mems", "cpuset.cpus"):  # empty in a new cgroup, which then takes nobody
                if value := read(top, name).strip():
                    write(fd, name, value)
        finally:
            os.close(top)


def _freeze(fd: int) -> None:
    """Let nobody run in a leaf of v2, where no other limit of its own cgroup holds a process any more. Moving it out lets it run again."""
    with contextlib.suppress(FileNotFoundError):  # Linux 5.2
        write(fd, "cgroup.freeze", b"1")


def _name(tree: Tree, origin: str) -> str:
    name = os.urandom(4).hex()
    for inode in _inodes(tree, origin, must=True):
        if len(name) + 17 > _NAME_MAX:
            break
        name += f".{inode:x}"
    return name


def _inodes(tree: Tree, path: str, *, must: bool = False) -> dict[int, str]:
    """Inode number of a cgroup and of each above it but the top, with their paths, nearest first."""
    found: dict[int, str] = {}
    while path != tree.top:
        try:
            fd = tree.open(path)
        except OSError:
            if must:
                raise
        else:
            found[os.fstat(fd).st_ino] = path
            os.close(fd)
        path = path.rpartition("/")[0] or "/"
    return found


def _search(tree: Tree, inodes: set[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    with contextlib.suppress(WalkLimitError, OSError):
        for path, fd in tree.walk() if inodes else ():
            inode = os.fstat(fd).st_ino
            if inode in inodes:
                found[inode] = path
                if len(found) == len(inodes):
                    break
    return found


def _living(pid: int) -> bool:
    try:
        proc = procfs.open_process(pid)
    except (procfs.ProcessGoneError, OSError):
        return False
    try:
        return not procfs.dying(proc)
    finally:
        os.close(proc)


def _move(homes: list[int], pid: int) -> bool:
    """Move a process to the first that takes it: in v2 one whose children have controllers does not, nor does one being removed."""
    for home in homes:
        try:
            write(home, "cgroup.procs", b"%d" % pid)
        except ProcessLookupError:
            return False
        except OSError:
            continue
        return True
    return False


def _close(*fds: int) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)
