"""What the tests of boosting ask again and again: a booster of their own, and where a process is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

from mrelease_agent.boosting.booster import Booster
from mrelease_agent.boosting.leaf import FOLDER
from mrelease_agent.boosting.trees import Trees
from mrelease_agent.linux import procfs
from mrelease_agent.linux.cgroup_tree import Tree, tree
from mrelease_agent.linux.process import ProcessRef
from support import lab
from support.lab.cgroups import in_hierarchy


@contextlib.contextmanager
def booster(state: Path | None, trees: Trees | None = None) -> Generator[Booster, None, None]:
    """A booster as an agent has it, which is closed at the end."""
    made = Booster(state, trees)
    with contextlib.closing(made):
        yield made


@contextlib.contextmanager
def ref_to(victim: lab.Victim | int) -> Generator[ProcessRef, None, None]:
    """A reference to a process."""
    with ProcessRef.open(victim if isinstance(victim, int) else victim.pid) as ref:
        yield ref


def cpu_tree() -> Tree:
    """The hierarchy of the CPU weights."""
    found = tree("cpu")
    if found is None:
        raise lab.Unavailable("no hierarchy with the cpu controller is mounted")
    return found


def path_of(pid: int, where: Tree) -> str:
    """Canonical path of a process's cgroup; empty where it is gone."""
    try:
        proc = procfs.open_process(pid)
    except procfs.ProcessGoneError:
        return ""
    try:
        return where.path_of(proc) or ""
    except procfs.ProcessGoneError:
        return ""
    finally:
        os.close(proc)


def is_in(pid: int, group: lab.Cgroup, where: Tree) -> bool:
    """Whether a process is in a group of the lab."""
    return path_of(pid, where) == in_hierarchy(group)


def leaf_of(pid: int, where: Tree) -> Path | None:
    """Directory of the leaf in which a process is; None where it is in none."""
    path = path_of(pid, where)
    start = f"{where.top.rstrip('/')}/{FOLDER}/"
    return folder(where) / path.removeprefix(start) if path.startswith(start) else None


def folder(where: Tree) -> Path:
    """Directory of the leaves."""
    return Path(where.mount.path) / FOLDER


def leaves_for(group: lab.Cgroup, where: Tree) -> list[Path]:
    """Directories of the leaves for processes of a group: others run agents on this machine, too."""
    origin = f"{group.path.stat().st_ino:x}"
    return [path for path in folder(where).glob("*.*") if path.name.split(".")[1] == origin and path.is_dir()]
