"""Cgroups as a BestEffort pod has them: two of low CPU weight above the container's own, and processes that want all CPU time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from dataclasses import dataclass

from .cgroups import Cgroup, cgroup, cgroup_below
from .child import MIB, Victim, holding, started


@dataclass(frozen=True, slots=True)
class Pod:
    """``best_effort`` and ``pod`` have less weight than usual; ``container`` is below them, ``sibling`` is another pod's container."""

    best_effort: Cgroup
    pod: Cgroup
    container: Cgroup
    sibling: Cgroup

    @property
    def above(self) -> list[Cgroup]:
        """The container and the cgroups above it."""
        return [self.best_effort, self.pod, self.container]

    @property
    def file(self) -> str:
        """Control file of the CPU weight: cpu.weight (v2) or cpu.shares (v1)."""
        return "cpu.weight" if self.container.version == 2 else "cpu.shares"

    @property
    def highest(self) -> str:
        """The highest weight."""
        return "10000" if self.container.version == 2 else "262144"

    def weigh(self, *, least: bool) -> None:
        """Give ``best_effort`` and the pods half the usual weight, or the least there is."""
        weight = ("1" if least else "50") if self.container.version == 2 else ("2" if least else "512")
        for group in (self.best_effort, self.pod, Cgroup(self.sibling.path.parent, self.sibling.version)):
            group.write(self.file, weight)

    def weights(self) -> list[str]:
        """Weights of the cgroups above the container, and its own."""
        return [group.read(self.file) for group in self.above]


@contextlib.contextmanager
def pod() -> Generator[Pod]:
    """The cgroups alone. Raises Unavailable where none that counts CPU time can be made."""
    with contextlib.ExitStack() as stack:
        best_effort = stack.enter_context(cgroup("cpu"))
        container = stack.enter_context(cgroup_below(best_effort, "pod/container", ["cpu"]))
        sibling = stack.enter_context(cgroup_below(best_effort, "other/container", ["cpu"]))
        made = Pod(best_effort, Cgroup(container.path.parent, container.version), container, sibling)
        made.weigh(least=False)
        yield made


@contextlib.contextmanager
def hogs(count: int, cpu: int, *within: Cgroup) -> Generator[list[int]]:
    """Pids of processes that never sleep on one CPU, in a group."""
    with contextlib.ExitStack() as stack:
        pids: list[int] = []
        for _ in range(count):
            child = stack.enter_context(started("victim.py", cgroups=[str(group.path / "cgroup.procs") for group in within], cpu=cpu))
            child.hear("it is there")
            child.ask("spin")
            pids.append(child.pid)
        yield pids


@contextlib.contextmanager
def starved_below(within: Pod, size: int = 16 * MIB) -> Generator[Victim]:
    """A victim in the container, bound to one CPU that hogs in the container, beside the pod and outside of it want too.

    Only when all of them are there is its pod given the least weight, and at the end it has what it had before.
    """
    cpu = max(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        _, victim, _ = stack.enter_context(holding(size, cpu=cpu, within=[within.container]))
        for group in ([within.container], [within.sibling], []):
            stack.enter_context(hogs(1, cpu, *group))
        within.weigh(least=True)
        stack.callback(within.weigh, least=False)
        yield victim
