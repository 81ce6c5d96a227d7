"""Control groups made for one victim, v1 or v2, whichever this machine has, and removed again."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .kernel import Unavailable, until


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A control group of the lab."""

    path: Path
    version: int

    def add(self, pid: int) -> None:
        """Moves a process into the group."""
        self.write("cgroup.procs", str(pid))

    def write(self, file: str, value: str) -> None:
        """Writes one control file; Unavailable when the kernel refuses."""
        try:
            (self.path / file).write_text(value)
        except OSError as error:
            raise Unavailable(f"writing {value} to {self.path / file}: {error.strerror}") from None

    def read(self, file: str) -> str:
        """Reads one control file."""
        return (self.path / file).read_text().strip()

    def usage(self) -> int:
        """Returns the memory charged to the group in bytes: memory.current (v2) or memory.usage_in_bytes (v1)."""
        return int(self.read("memory.current" if self.version == 2 else "memory.usage_in_bytes"))


def _mounts() -> Iterator[tuple[int, set[str], Path, str]]:
    # Version, options, mount point and the mounted root of each hierarchy, proc_pid_mountinfo(5).
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if kind in {"cgroup", "cgroup2"}:
            yield (2 if kind == "cgroup2" else 1), set(options.split(",")), Path(left.split()[4]), left.split()[3]


def _own_path(controller: str | None) -> str:
    # The path of this process's group: in the v2 hierarchy, or in the v1 hierarchy of `controller`.
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        if controller in controllers.split(",") if controller else number == "0":
            return path
    return "/"


def _parents(mount: Path, root: str, own: str) -> Iterator[Path]:
    # The own group and its ancestors below the mount point, then the mount point.
    relative = os.path.relpath(own, root)
    if not relative.startswith(".."):
        path = mount / relative
        while path != mount:
            if path.is_dir():
                yield path
            path = path.parent
    yield mount


def in_hierarchy(group: Cgroup) -> str:
    """Path of a group as proc_pid_cgroup(5) shows it where the whole hierarchy is mounted."""
    mount, root = next((mount, root) for _, _, mount, root in _mounts() if group.path.is_relative_to(mount))
    return f"{root.rstrip('/')}/{group.path.relative_to(mount)}"


@contextlib.contextmanager
def _made(path: Path, version: int) -> Generator[Cgroup]:
    path.mkdir()
    try:
        yield Cgroup(path, version)
    finally:
        until(lambda: _removed(path), f"{path} can be removed")


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError:
        return not path.exists()
    return True


@contextlib.contextmanager
def cgroup(controller: str = "") -> Generator[Cgroup]:
    """A new group below the own one or the nearest ancestor that allows it, in which `controller` (memory, cpu, freezer) counts.

    Without a controller it is a v2 group. Its processes must be gone when the context ends: enter it before the victim. Raises
    Unavailable where no hierarchy with the controller is writable.
    """
    tried: list[str] = []
    for version, options, mount, root in _mounts():
        if version == 1 and controller not in options:
            continue
        for parent in _parents(mount, root, _own_path(controller if version == 1 else None)):
            if version == 2 and controller and controller not in (parent / "cgroup.subtree_control").read_text().split():
                continue
            if not os.access(parent, os.W_OK) or not os.access(parent / "cgroup.procs", os.W_OK):
                tried.append(str(parent))
                continue
            with _made(parent / f"mrelease-lab-{uuid.uuid4().hex[:12]}", version) as group:
                yield group
            return
    what = f"no cgroup with the {controller} controller" if controller else "no v2 cgroup"
    raise Unavailable(f"{what} can be made here" + (f" (no permission: {', '.join(tried)})" if tried else ""))


@contextlib.contextmanager
def cgroup_below(parent: Cgroup, path: str, controllers: Iterable[str] = ()) -> Generator[Cgroup]:
    """A group with a name of its own below another one, made with the groups between; `path` is relative to `parent`.

    `controllers` count in it on v2 too, where each group above has to pass them on and may then have no processes of its own; on v1
    all of the parent's do.
    """
    with contextlib.ExitStack() as made:
        group = parent
        for name in path.split("/"):
            for controller in controllers if group.version == 2 else ():
                group.write("cgroup.subtree_control", f"+{controller}")
            if (group.path / name).is_dir():
                group = Cgroup(group.path / name, parent.version)
            else:
                group = made.enter_context(_made(group.path / name, parent.version))
        yield group


@contextlib.contextmanager
def memory_cgroup() -> Generator[Cgroup]:
    """A new group that counts memory: `usage()` is what its processes are charged with."""
    with cgroup("memory") as group:
        yield group


@contextlib.contextmanager
def cpu_cgroup(weight: int = 1) -> Generator[Cgroup]:
    """A new group with a low CPU weight: cpu.weight (v2, 1 to 10000), or cpu.shares of max(2, weight) (v1)."""
    with cgroup("cpu") as group:
        file, value = ("cpu.weight", weight) if group.version == 2 else ("cpu.shares", max(2, weight))
        group.write(file, str(value))
        yield group
