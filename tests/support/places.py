"""A group of the lab as the tests of groups use it: cgroups below it, with real processes in them."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from mrelease_agent.linux.cgroup_tree import Tree
from support import lab
from support.lab.cgroups import cgroup_below

SMALL = 4 * lab.MIB


@dataclass(slots=True)
class Place:
    """A group of the lab in one hierarchy, below which a test makes what it needs."""

    tree: Tree
    group: lab.Cgroup
    made: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def path(self, group: lab.Cgroup | None = None) -> str:
        """Canonical path of a group."""
        return self.tree.top.rstrip("/") + "/" + str((group or self.group).path.relative_to(self.tree.mount.path))

    def make(self, path: str, *controllers: str) -> lab.Cgroup:
        return self.made.enter_context(cgroup_below(self.group, path, controllers))

    def victim(self, group: lab.Cgroup, size: int = SMALL) -> lab.Victim:
        return self.made.enter_context(lab.live(size, within=[group]))

    def small(self, group: lab.Cgroup, program: str | Path = "sleep") -> int:
        """A process with hardly any memory, in a group; started in a later clock tick than all before."""
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        lab.until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > now + 2 / os.sysconf("SC_CLK_TCK"), "the next clock tick")
        process = self.made.enter_context(subprocess.Popen([str(program), "infinity"]))
        self.made.callback(process.kill)
        group.add(process.pid)
        comm = Path(f"/proc/{process.pid}/comm")
        lab.until(lambda: comm.read_text().strip() == Path(program).name, "exec")
        return process.pid


def new_id() -> str:
    return secrets.token_hex(32)


def new_uid() -> str:
    return str(uuid.uuid4())


def slice_of(uid: str) -> str:
    return f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid.replace('-', '_')}.slice"
