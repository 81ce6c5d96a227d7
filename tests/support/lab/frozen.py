"""Victims that are frozen by their control group."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from .cgroups import cgroup
from .child import MIB, Victim, holding
from .kernel import until


@contextlib.contextmanager
def frozen_v1(size: int = 16 * MIB) -> Generator[Victim]:
    """A live victim frozen by the v1 freezer, state D: SIGKILL does not end it before it is thawed."""
    with cgroup("freezer") as group, holding(size, within=[group]) as (_, victim, _facts):
        group.write("freezer.state", "FROZEN")
        try:
            until(lambda: group.read("freezer.state") == "FROZEN", f"the freezer of process {victim.pid}")
            yield victim
        finally:
            group.write("freezer.state", "THAWED")


@contextlib.contextmanager
def frozen_v2(size: int = 16 * MIB) -> Generator[Victim]:
    """A live victim frozen by cgroup.freeze of v2: SIGKILL ends it."""
    with cgroup() as group, holding(size, within=[group]) as (_, victim, _facts):
        group.write("cgroup.freeze", "1")
        try:
            until(lambda: "frozen 1" in group.read("cgroup.events"), f"the freezing of process {victim.pid}")
            yield victim
        finally:
            group.write("cgroup.freeze", "0")
