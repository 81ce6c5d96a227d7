"""Cgroups of the scene's own, where this user may make them: the least CPU weight, and a memory charge for each victim.

Version 1 has a hierarchy for each controller, version 2 one for all, cgroups(7). Nothing outside the scene's own directories is changed:
where the root of a version 2 hierarchy does not hand a controller down, the scene does without it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

_RMDIR_TRIES = 100
_RMDIR_PAUSE = 0.02
#: Kubernetes gives the pods of class BestEffort these.
_LEAST = {1: ("cpu.shares", "2"), 2: ("cpu.weight", "1")}
_USUAL = {1: ("cpu.shares", "1024"), 2: ("cpu.weight", "100")}
_CHARGE = {1: "memory.usage_in_bytes", 2: "memory.current"}


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where a controller's cgroups are: the version of the interface and the mount point."""

    version: int
    path: Path


class Cgroups:
    """The cgroups of one scene; before ``make``, and without privilege, there are none and every method does nothing."""

    def __init__(self, name: str, controllers: Collection[str] = ("cpu", "memory")) -> None:
        self._name = name
        self._controllers = controllers
        self._made: list[Path] = []
        self._cpu: Hierarchy | None = None
        self._memory: Hierarchy | None = None

    def make(self) -> None:
        """Make the scene's directory in each hierarchy where that is permitted."""
        found = {controller: where for controller, where in hierarchies().items() if controller in self._controllers}
        self._cpu = self._make(found.get("cpu"), _USUAL)
        self._memory = self._make(found.get("memory"))
        if self._memory is not None and self._memory.version == 2 and not _write(self._memory.path / "cgroup.subtree_control", "+memory"):
            self._memory = None

    @property
    def weight(self) -> str:
        """The CPU weight that ``starve`` sets, as ``cpu.shares 2``; empty where there is no CPU cgroup."""
        return " ".join(_LEAST[self._cpu.version]) if self._cpu else ""

    @property
    def charges(self) -> str:
        """The file that tells a victim's charge; empty where there is no memory cgroup."""
        return _CHARGE[self._memory.version] if self._memory else ""

    def admit(self, pid: int, leaf: str) -> Path | None:
        """Move a process in, before it uses memory; return the file that tells what memory is charged to its leaf.

        Returns None where there is no memory cgroup. CPUs that the process was confined to, it stays confined to.
        """
        cpus = os.sched_getaffinity(pid)
        charge = None
        if self._memory is not None:
            directory = self._memory.path / leaf
            self._made.append(directory)
            with contextlib.suppress(FileExistsError):
                directory.mkdir()
            if _write(directory / "cgroup.procs", str(pid)):
                charge = directory / _CHARGE[self._memory.version]
        if self._cpu is not None and (self._memory is None or self._cpu.path != self._memory.path):
            _write(self._cpu.path / "cgroup.procs", str(pid))
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, cpus)
        return charge

    def starve(self) -> None:
        """Give the scene's members the least CPU weight."""
        if self._cpu is not None:
            _write(self._cpu.path / _LEAST[self._cpu.version][0], _LEAST[self._cpu.version][1])

    def feed(self) -> None:
        """Give them the usual weight, so that the dying can finish."""
        if self._cpu is not None:
            _write(self._cpu.path / _USUAL[self._cpu.version][0], _USUAL[self._cpu.version][1])

    def remove(self) -> list[Path]:
        """Remove every directory made, once its processes are gone; return those that could not be removed."""
        left = [directory for directory in reversed(self._made) if not _remove(directory)]
        self._made.clear()
        return left

    def _make(self, hierarchy: Hierarchy | None, must_accept: dict[int, tuple[str, str]] | None = None) -> Hierarchy | None:
        if hierarchy is None:
            return None
        directory = hierarchy.path / self._name
        if directory not in self._made:
            self._made.append(directory)
        try:
            directory.mkdir(exist_ok=True)
        except OSError:
            self._made.remove(directory)
            return None
        if must_accept is not None:
            file, value = must_accept[hierarchy.version]
            if not _write(directory / file, value):
                return None
        return Hierarchy(hierarchy.version, directory)


def hierarchies() -> dict[str, Hierarchy]:
    """Find the hierarchies with the controllers ``cpu`` and ``memory``, proc_pid_mountinfo(5)."""
    found: dict[str, Hierarchy] = {}
    for kind, path, options in _mounts():
        if kind == "cgroup":
            for controller in {"cpu", "memory"} & options:
                found[controller] = Hierarchy(1, path)
        elif kind == "cgroup2":
            with contextlib.suppress(OSError):
                handed_down = (path / "cgroup.subtree_control").read_text(encoding="ascii").split()
                for controller in {"cpu", "memory"} & set(handed_down):
                    found.setdefault(controller, Hierarchy(2, path))
    return found


def _mounts() -> Iterator[tuple[str, Path, set[str]]]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            before, _, after = line.partition(" - ")
            kind, _, options = after.split(" ", 2)
            yield kind, Path(before.split(" ")[4]), set(options.strip().split(","))


def _remove(directory: Path) -> bool:
    for _ in range(_RMDIR_TRIES):
        with contextlib.suppress(OSError):
            directory.rmdir()
        if not directory.exists():
            return True
        time.sleep(_RMDIR_PAUSE)  # EBUSY: an exited process is leaving
    return False


def _write(file: Path, text: str) -> bool:
    try:
        file.write_text(text, encoding="ascii")
    except OSError:
        return False
    return True


def memory_limits() -> list[int]:
    """What is left, in bytes, below the limit of each memory cgroup around this process that has one and that can be seen from here.

    Page cache that has not been used lately counts as left: the kernel drops it before it reaches the limit.
    """
    left: list[int] = []
    for limit, usage, folder in _limited():
        with contextlib.suppress(OSError, ValueError):
            most = int((folder / limit).read_text(encoding="ascii"))
            used = int((folder / usage).read_text(encoding="ascii"))
            idle = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            left.append(max(0, most - used + int(idle.get("total_inactive_file", idle.get("inactive_file", 0)))))
    return left


def _limited() -> Iterator[tuple[str, str, Path]]:
    own: dict[str, str] = {}
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            number, controllers, path = line.rstrip("\n").split(":", 2)
            own["cgroup2" if number == "0" else controllers] = path
    for kind, mount, options in _mounts():
        if kind == "cgroup" and "memory" in options:
            names, path = (
                ("memory.limit_in_bytes", "memory.usage_in_bytes"),
                next((p for c, p in own.items() if "memory" in c.split(",")), "/"),
            )
        elif kind == "cgroup2":
            names, path = ("memory.max", "memory.current"), own.get("cgroup2", "/")
        else:
            continue
        folder = mount / path.lstrip("/")
        # In a container the path may be the host's, of which only the innermost part is mounted here.
        folder = folder if folder.is_dir() else mount
        while folder.is_relative_to(mount):
            yield *names, folder
            folder = folder.parent
