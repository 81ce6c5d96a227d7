"""Cgroups of the bench: one tree of its own in each hierarchy, v1 or v2, of which nothing is left at the end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import SkipTest

_PREFIX = "mrelease-bench-"
_PATIENCE = 15.0
#: Files and values by version of the interface, cgroups(7). What Kubernetes gives pods of class BestEffort, the default, and the most.
_WEIGHTS = {1: ("cpu.shares", "2", "1024", "262144"), 2: ("cpu.weight", "1", "100", "10000")}
LEAST, USUAL, MOST = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A mounted hierarchy: version of its interface, mount point, and what of it is mounted."""

    version: int
    mount: Path
    root: str


@dataclass(frozen=True, slots=True)
class Group:
    """One cgroup of the bench, in the hierarchies of its controllers. ``path`` is what ``/proc/PID/cgroup`` shows."""

    path: str
    folders: dict[str, tuple[Hierarchy, Path]]

    @property
    def procs(self) -> list[Path]:
        """Its cgroup.procs files: two controllers of v2 have one."""
        return list(dict.fromkeys(folder / "cgroup.procs" for _, folder in self.folders.values()))

    @property
    def enter(self) -> list[str | Path]:
        """What ``victim`` is told to enter it."""
        return [word for file in self.procs for word in ("-g", file)]

    @property
    def moves(self) -> list[str | Path]:
        """What ``floor`` is told to move a process here and to see that it is here."""
        return [word for file in self.procs for word in (file, self.path)]

    @property
    def charges(self) -> list[Path]:
        """The files whose sum is the memory and swap charged to it, in bytes; none without the memory controller."""
        if "memory" not in self.folders:
            return []
        hierarchy, folder = self.folders["memory"]
        if hierarchy.version == 2:
            return [file for file in (folder / "memory.current", folder / "memory.swap.current") if file.exists()]
        both = folder / "memory.memsw.usage_in_bytes"
        return [both if both.exists() else folder / "memory.usage_in_bytes"]

    @property
    def kill(self) -> Path | None:
        """Its cgroup.kill; None where it is in no v2 hierarchy, or the kernel is older than 5.14."""
        files = [folder / "cgroup.kill" for hierarchy, folder in self.folders.values() if hierarchy.version == 2]
        return next((file for file in files if file.exists()), None)

    def weigh(self, weight: int) -> str:
        """Set its CPU weight to LEAST, USUAL or MOST; return what was set, such as ``cpu.shares 2``."""
        hierarchy, folder = self.folders["cpu"]
        file, value = _WEIGHTS[hierarchy.version][0], _WEIGHTS[hierarchy.version][weight]
        (folder / file).write_text(value)
        return f"{file} {value}"

    def write(self, controller: str, file: str, value: str) -> None:
        """Write one of its control files."""
        (self.folders[controller][1] / file).write_text(value)

    def read(self, controller: str, file: str) -> str:
        """Read one of its control files."""
        return (self.folders[controller][1] / file).read_text().strip()

    def pids(self) -> list[int]:
        """Its processes."""
        return [int(pid) for pid in self.procs[0].read_text().split()]


class Ground:
    """The tree ``/mrelease-bench-PID`` in each hierarchy."""

    def __init__(self) -> None:
        self.name = f"{_PREFIX}{os.getpid()}"
        self._hierarchies = _hierarchies()

    def has(self, *controllers: str) -> bool:
        """Whether groups with these controllers can be made; ``unified`` is any v2 hierarchy."""
        found = [self._hierarchies.get(controller) for controller in controllers]
        return all(each is not None and os.access(each.mount, os.W_OK) for each in found)

    def group(self, path: str, controllers: Iterable[str]) -> Group:
        """Make the group ``path`` below the tree with what is above it. Raises SkipTest where that is not permitted."""
        return self._group([self.name, *path.split("/")], controllers)

    def boost(self) -> Group:
        """Make a group beside the tree, of the most CPU weight and with every CPU: what the agent has for its victims, too."""
        controllers = [controller for controller in ("cpu", "cpuset") if self.has(controller)]
        group = self._group([f"{self.name}.boost"], controllers or ["cpu"])
        group.weigh(MOST)
        return group

    def _group(self, names: list[str], controllers: Iterable[str]) -> Group:
        folders: dict[str, tuple[Hierarchy, Path]] = {}
        for controller in controllers:
            hierarchy = self._hierarchies.get(controller)
            if hierarchy is None:
                raise SkipTest(f"no cgroup hierarchy here has the {controller} controller")
            try:
                folders[controller] = (hierarchy, _make(hierarchy, controller, names))
            except OSError as error:
                raise SkipTest(f"no cgroup with the {controller} controller can be made here: {error.strerror}") from None
        hierarchy = next(iter(folders.values()))[0]
        return Group("/".join([hierarchy.root.rstrip("/"), *names]), folders)

    @contextmanager
    def cleared(self) -> Generator[None, None, None]:
        """Remove every group of the tree at the end. Raises TimeoutError where a process stays in one."""
        try:
            yield
        finally:
            self.clear()

    def clear(self) -> None:
        """Remove the tree from every hierarchy, also from those in which a container runtime made it."""
        deadline = time.monotonic() + _PATIENCE
        folders = [mount.mount / name for mount in _mounts() for name in (self.name, f"{self.name}.boost")]
        while left := [folder for folder in folders if folder.is_dir() and not _removed(folder)]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"cannot be removed, processes are in it: {' '.join(map(str, left))}")
            time.sleep(0.01)  # an exited process is leaving


def sweep() -> list[str]:
    """End and remove what benches that were killed have left; return the names of their trees."""
    found: set[str] = set()
    for mount in _mounts():
        for folder in mount.mount.glob(f"{_PREFIX}*"):
            owner = re.fullmatch(rf"{_PREFIX}(\d+)(\.boost)?", folder.name)
            if owner is None or Path(f"/proc/{owner[1]}").exists() or not os.access(folder, os.W_OK):
                continue
            found.add(folder.name)
            deadline = time.monotonic() + _PATIENCE
            while not _removed(folder) and time.monotonic() < deadline:
                for file in folder.rglob("freezer.state"):
                    file.write_text("THAWED")
                for file in folder.rglob("cgroup.procs"):
                    for pid in file.read_text().split():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(int(pid), signal.SIGKILL)
                time.sleep(0.05)
    return sorted(found)


def _make(hierarchy: Hierarchy, controller: str, names: list[str]) -> Path:
    folder = hierarchy.mount
    for name in names:
        if hierarchy.version == 2 and controller != "unified":
            enabled = (folder / "cgroup.subtree_control").read_text().split()
            if controller not in enabled:
                if folder == hierarchy.mount:  # the node's own: left as it is
                    raise OSError(0, f"the root of the v2 hierarchy does not hand {controller} down")
                (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        folder = folder / name
        folder.mkdir(exist_ok=True)
        if hierarchy.version == 1 and controller == "cpuset":
            for file in ("cpuset.cpus", "cpuset.mems"):  # a new v1 cpuset is empty and takes no process
                if not (folder / file).read_text().strip():
                    (folder / file).write_text((folder.parent / file).read_text())
    return folder


def _removed(folder: Path) -> bool:
    for child in [each for each in folder.iterdir() if each.is_dir()]:
        _removed(child)
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


def _hierarchies() -> dict[str, Hierarchy]:
    """By controller: v1's where it is mounted, else v2's; and any v2's as ``unified``."""
    found: dict[str, Hierarchy] = {}
    for mount in _mounts():
        if mount.version == 1:
            found.update(dict.fromkeys(mount.controllers, Hierarchy(1, mount.mount, mount.root)))
    for mount in _mounts():
        if mount.version == 2:
            for controller in (*mount.controllers, "unified"):
                found.setdefault(controller, Hierarchy(2, mount.mount, mount.root))
    return found


@dataclass(frozen=True, slots=True)
class _Mount(Hierarchy):
    controllers: tuple[str, ...]


def _mounts() -> Iterator[_Mount]:
    """Mounted hierarchies, proc_pid_mountinfo(5)."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, mount = before.split(" ")[3:5]
        if kind == "cgroup":
            yield _Mount(1, Path(mount), root, tuple(options.split(",")))
        elif kind == "cgroup2":
            with contextlib.suppress(OSError):
                yield _Mount(2, Path(mount), root, tuple((Path(mount) / "cgroup.controllers").read_text().split()))
