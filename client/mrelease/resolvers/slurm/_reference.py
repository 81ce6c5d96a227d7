"""What ``slurm://`` references say: the names that Slurm's own commands print and take."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mrelease.errors import InvalidReference
from mrelease.resolvers._reference import Reference

# slurm.h: numbers of jobs have 26 bits, in a federation 32, as those of tasks and steps have.
_NAME: Final = re.compile(
    r"(?P<job>[1-9][0-9]{0,9})(?:_(?P<task>[0-9]{1,10})|\+(?P<component>[0-9]{1,4}))?(?:\.(?P<step>[0-9]{1,10}|batch|extern|interactive))?"
)
# A host list expression as squeue prints it: names, commas, ranges in brackets. It becomes the argument of a command, so it is no option.
_NODES: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,\[\]-]*")
_FORMS: Final = (
    "write slurm://JOB, slurm://JOB_TASK or slurm://JOB+COMPONENT, and .STEP behind it for one step: its number, batch, extern, interactive"
)


@dataclass(frozen=True, slots=True)
class JobName:
    """A job, a task of an array (``1234_5``), a component of a heterogeneous job (``1234+0``), or one step of any of these.

    ``nodes``: a host list expression of those that are meant; empty: all that it is on.
    """

    job: int
    task: int | None = None
    component: int | None = None
    step: str = ""
    nodes: str = ""

    @classmethod
    def of(cls, ref: str) -> JobName:
        """Read a reference. Raises InvalidReference."""
        reference = Reference.parse(ref)
        reference.only("nodes")
        found = _NAME.fullmatch(reference.parts[0])
        if reference.scheme != "slurm" or len(reference.parts) != 1 or found is None:
            raise InvalidReference(f"{ref!r} names no job of Slurm", _FORMS)
        nodes = reference.query.get("nodes", "")
        if "nodes" in reference.query and not _NODES.fullmatch(nodes):
            raise InvalidReference(f"{ref!r}: nodes is no list of nodes", "write them as squeue does, for example nodes=n[1-3],n7")
        task, component = (None if found[part] is None else int(found[part]) for part in ("task", "component"))
        return cls(int(found["job"]), task, component, found["step"] or "", nodes)

    @property
    def whole(self) -> str:
        """The job without the step, as Slurm writes it."""
        task = "" if self.task is None else f"_{self.task}"
        component = "" if self.component is None else f"+{self.component}"
        return f"{self.job}{task}{component}"

    def __str__(self) -> str:
        return f"{self.whole}.{self.step}" if self.step else self.whole
