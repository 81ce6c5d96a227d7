"""Nodes without memory. Only for machines that may be ruined: whoever asks for memory meanwhile may be killed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path

from .cgroups import Cgroup
from .child import Child, started
from .kernel import Unavailable


def _need_own_machine() -> None:
    if "VM_KERNEL" not in os.environ:
        raise Unavailable("memory is exhausted only in a machine of `make test-vm`")


@contextlib.contextmanager
def exhausted(floor: int) -> Generator[None]:
    """The node's memory is taken but for `floor` bytes, and stays so."""
    _need_own_machine()
    with started("glutton.py", floor=floor, forever=False) as glutton:
        said = glutton.hear("memory is taken")
        assert "left" in said, "the OOM killer came first: a higher floor"
        yield


@dataclass(frozen=True, slots=True)
class OomKiller:
    """The OOM killer at work."""

    _glutton: Child

    def wait_killed(self) -> None:
        """Waits until it has killed once more."""
        self._glutton.hear("the OOM killer kills")


@contextlib.contextmanager
def oom() -> Generator[OomKiller]:
    """Processes take memory one after the other, each until the OOM killer takes it."""
    _need_own_machine()
    with started("glutton.py", floor=0, forever=True) as glutton:
        yield OomKiller(glutton)


def oom_kills() -> int:
    """Returns how many processes the OOM killer has killed since the boot, /proc/vmstat."""
    fields = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return next(int(value) for name, value in fields if name == "oom_kill")


@contextlib.contextmanager
def allocating(size: int, *, within: Iterable[Cgroup]) -> Generator[Child]:
    """A process that is taking `size` bytes in groups which may make it wait: it says when it has them."""
    with started("victim.py", anon=size, cgroups=[str(group.path / "cgroup.procs") for group in within]) as child:
        yield child
