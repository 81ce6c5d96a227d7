"""Which cgroups freeze a thread: the freezer of v1 (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst), cgroup.freeze of v2."""

from __future__ import annotations

import contextlib
import os
import shlex
from dataclasses import dataclass
from typing import Final

from mrelease_agent.linux import procfs
from mrelease_agent.linux.cgroup_tree import Tree, read, tree

#: Where the freezer of v1 keeps a task that it could not freeze where it slept, proc_pid_wchan(5).
REFRIGERATOR: Final = "__refrigerator"


@dataclass(frozen=True, slots=True)
class Freeze:
    """A frozen cgroup. ``complete``: all of it is; else some of its tasks could not be frozen yet. ``files``: those to thaw it by."""

    version: int
    complete: bool
    files: tuple[str, ...]

    @property
    def command(self) -> str:
        """What thaws it, for a shell."""
        value = "0" if self.version == 2 else "THAWED"
        return " && ".join(f"echo {value} > {shlex.quote(file)}" for file in self.files)


def freeze_of(proc: int, tid: int) -> Freeze | None:
    """Find the cgroups that freeze a thread, those above its own included; None where none does or they may not be seen."""
    try:
        task = os.open(f"task/{tid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        for hierarchy in (tree("freezer"), tree("unified")):
            if hierarchy is not None:
                with contextlib.suppress(procfs.ProcessGoneError, FileNotFoundError, NotADirectoryError, PermissionError):
                    if (found := _frozen(hierarchy, task)) is not None:
                        return found
    finally:
        os.close(task)
    return None


def _frozen(hierarchy: Tree, task: int) -> Freeze | None:
    path = hierarchy.path_of(task)
    if path is None:
        return None
    v2 = hierarchy.version == 2
    state = _read(hierarchy, path, "cgroup.events" if v2 else "freezer.state")
    complete = b"frozen 1" in state.split(b"\n") if v2 else state == b"FROZEN"
    if not complete and (v2 or state != b"FREEZING"):
        return None
    # A cgroup is frozen by itself or by any above it, and thawed only when none of them freezes it any more.
    question, answer = ("cgroup.freeze", "cgroup.freeze") if v2 else ("freezer.self_freezing", "freezer.state")
    files: list[str] = []
    while True:
        if _read(hierarchy, path, question) == b"1":
            files.append(f"{_shown(hierarchy, path)}/{answer}")
        if path == hierarchy.top:
            break
        path = path.rpartition("/")[0] or "/"
    return Freeze(hierarchy.version, complete, tuple(reversed(files)))


def _read(hierarchy: Tree, path: str, name: str) -> bytes:
    fd = hierarchy.open(path)
    try:
        return read(fd, name).strip()
    finally:
        os.close(fd)


def _shown(hierarchy: Tree, path: str) -> str:
    """The directory of a cgroup where the agent sees it."""
    return hierarchy.mount.path + (path if hierarchy.top == "/" else path[len(hierarchy.top) :])
