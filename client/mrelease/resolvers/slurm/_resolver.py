"""The resolver: jobs and steps of Slurm to the agents of their nodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from mrelease._models import Custom
from mrelease.errors import NotPlaced, ReferenceNotFound
from mrelease.resolvers._placement import Placement
from mrelease.resolvers.slurm._commands import Commands, Row
from mrelease.resolvers.slurm._reference import JobName

#: The kind of target by which agents know jobs of Slurm: in ``target_plugins`` of their configuration.
KIND: Final = "slurm"
# Seconds for scancel: slurmctld may be busy, and what is to be killed waits.
_CANCEL: Final = 10.0
# Agents that are looked up at the same time.
_CONCURRENCY: Final = 16
# Steps that are on the job's first node alone.
_ON_FIRST: Final = ("batch", "interactive")


@dataclass(frozen=True, slots=True)
class _Part:
    """A job on one of its nodes. ``user`` is None where Slurm was not asked: then the node's name is not Slurm's either."""

    node: str
    job: int
    user: int | None = None

    def target(self, step: str) -> Custom:
        """What the agent of the node is asked for; with node and user it refuses the job of the same number of another cluster."""
        given = {"job": str(self.job)} | ({"step": step} if step else {})
        return Custom(KIND, given if self.user is None else {**given, "node": self.node, "uid": str(self.user)})


class Slurm:
    """Jobs and steps of Slurm on the nodes that squeue says, and the agents there.

    References: ``slurm://1234``, ``slurm://1234.0`` (a step: its number, ``batch``, ``extern``, ``interactive``), ``slurm://1234_5`` (a
    task of an array), ``slurm://1234+0`` (a component of a heterogeneous job). A reference means what scancel means by it: the number of
    an array is every task of it. With ``?nodes=n[1-3]`` it is these nodes, whatever Slurm says; where the job has no task and no
    component, and the nodes no brackets, nothing of Slurm is needed then.

    ``before`` is scancel, run as the caller: where Slurm does not let this user cancel the job nothing is killed, and a job that was
    cancelled is CANCELLED to Slurm and not started again.

    The identity is the job's number, which a cluster uses once: on a wrong node there is no such job, and nothing happens. Threads may
    share it.
    """

    def __init__(self) -> None:
        self._commands = Commands()
        self._names: dict[Placement, str] = {}

    def resolve(self, ref: str, deadline: float) -> list[Placement]:
        """See ``Resolver``. Raises NotPlaced for a job that waits, ReferenceNotFound for one that Slurm has forgotten."""
        end = time.monotonic() + deadline
        name = JobName.of(ref)
        found = self._named(name, end) if name.nodes else self._found(name, end)

        def place(part: _Part) -> Placement:
            left = max(0.0, end - time.monotonic())
            return Placement.on(part.node, part.target(name.step), f"{name} on {part.node}", deadline=left)

        with ThreadPoolExecutor(min(_CONCURRENCY, len(found)), thread_name_prefix="mrelease-slurm") as threads:
            placements = list(threads.map(place, found))
        # Without its batch script a job is over, for Slurm too.
        self._names.update(dict.fromkeys(placements, str(name) if name.step.isdecimal() else name.whole))
        return placements

    def before(self, placements: Sequence[Placement]) -> None:
        """Tell Slurm that what the references named is to end, as by scancel. Raises ResolutionError: OrchestratorDenied, unavailable."""
        end = time.monotonic() + _CANCEL
        for name in dict.fromkeys(self._names[placement] for placement in placements):
            self._commands.cancel(name, end)

    def close(self) -> None:
        """Holds nothing."""

    def _named(self, name: JobName, end: float) -> list[_Part]:
        """Nodes that the reference names. What numbers tasks and components have is Slurm's to say."""
        hosts = self._commands.hosts(name.nodes, end)
        if name.task is None and name.component is None:
            return [_Part(host, name.job) for host in hosts]
        return [_Part(host, row.job) for row in self._rows(name, end) for host in hosts]

    def _found(self, name: JobName, end: float) -> list[_Part]:
        """Nodes that Slurm names."""
        rows = self._rows(name, end)
        placed = [(row, self._nodes(row, name.step, end)) for row in rows if row.nodes]
        if not placed:
            states = ", ".join(dict.fromkeys(row.state for row in rows))
            raise NotPlaced(f"job {name.whole} is {states}: it is on no node", "nothing of it runs, so there is nothing to give back")
        return [_Part(host, row.job, row.user) for row, nodes in placed for host in self._commands.hosts(nodes, end)]

    def _rows(self, name: JobName, end: float) -> list[Row]:
        # The queue forgets a job MinJobAge after its end, slurm.conf(5); its memory may outlive that.
        rows = self._commands.jobs(name.job, end) or self._commands.past_jobs(name.job, end)
        meant = [row for row in rows if _is_meant(row, name)]
        if not meant:
            remedy = f"if you know where it was: slurm://{name}?nodes=NODE,NODE"
            raise ReferenceNotFound(f"Slurm knows no job {name.whole}: it was never there, or has left the queue", remedy)
        return meant

    def _nodes(self, row: Row, step: str, end: float) -> str:
        if step in _ON_FIRST and row.first:
            return row.first
        if step.isdecimal():
            # A step that has left the list can still have processes, somewhere on the job's nodes.
            return self._commands.step_nodes(f"{row.job}.{step}", end) or row.nodes
        return row.nodes


def _is_meant(row: Row, name: JobName) -> bool:
    if name.task is not None or name.component is not None:
        return row.name == name.whole
    return name.job in (row.job, row.array) or row.name.partition("+")[0] == str(name.job)
